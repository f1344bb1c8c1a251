"""Jobs of a benchmark in processes of their own, which may die.

A flipped index can make an operator read outside of its operand, and the process with it: a signal
ends it.  Then the fault counts as ``loud``, and a new process goes on behind it.  An exception of
the harness itself ends a process with exit code 1: that says nothing about the fault, which is left
out for this run.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from sdc_guard.bench.arena import Arena
from sdc_guard.bench.cells import LOUD, NO_OP, CleanCell, FaultTrial
from sdc_guard.bench.detectors.table import DETECTORS
from sdc_guard.bench.workload import Workload, intra_op_threads
from sdc_guard.bench.workloads.table import build_workload, load_workload
from sdc_guard.errors import UsageError
from sdc_guard.inject import MODELS

MAX_DEATHS = 20
"""Processes that a job may lose before it is given up."""

EXCEPTION = 1
"""Exit code of a process that an exception of the harness ended."""


@dataclass(frozen=True)
class Job:
    """Faults to try with one detector on one workload, after ``num_clean`` steps without.

    ``faults`` holds (fault model, number) in the order of work.  ``workload`` is a name of
    ``WORKLOADS``, or ``module:function``.  ``limit_s``: no trial begins so long after the job has,
    its warm-up included.
    """

    detector: str
    workload: str
    dtype: str
    device: str
    seed: int
    num_clean: int
    faults: tuple[tuple[str, int], ...]
    limit_s: float | None = None

    def build(self) -> Callable[[], Workload]:
        """What makes the workload."""
        return builder(self.workload, self.dtype, self.seed, self.device)


def builder(name: str, dtype: str, seed: int, device: str) -> Callable[[], Workload]:
    """What makes a workload of the table, or one of the user's (``module:function``)."""
    if ":" in name:
        return load_workload(name)
    return partial(build_workload, name, dtype, seed, device)


@dataclass(frozen=True)
class Tried:
    """One message of a worker: a fault of ``job`` was tried; ``trial`` is None where it changed no
    bit.  ``max_steps``: see :class:`sdc_guard.bench.cells.Cell`."""

    model: str
    index: int
    max_steps: int
    trial: FaultTrial | None


@dataclass(frozen=True)
class _Started:
    model: str
    index: int
    max_steps: int


@dataclass(frozen=True)
class Refused:
    """The detector or the workload cannot be had on this machine."""

    reason: str


Message = Tried | CleanCell | Refused
Take = Callable[[Job, Message], None]


@dataclass
class _Worker:
    job: Job
    process: BaseProcess
    pipe: Connection
    doing: _Started | None = None
    tried: set[tuple[str, int]] = field(default_factory=set)


def work(jobs: Sequence[Job], take: Take, *, num_processes: int) -> list[str]:
    """Run the jobs, ``num_processes`` at a time, and hand each message to ``take``.

    Returns what went wrong, one line for each process that died.
    """
    context = multiprocessing.get_context("spawn")
    waiting, workers, deaths = deque(jobs), list[_Worker](), list[str]()
    num_deaths: Counter[tuple[str, str, str]] = Counter()
    try:
        while waiting or workers:
            while waiting and len(workers) < num_processes:
                workers.append(_hired(context, waiting.popleft()))
            ready = wait([w.pipe for w in workers])
            for worker in [w for w in workers if w.pipe in ready]:
                if _listen(worker, take):
                    continue
                workers.remove(worker)
                worker.process.join()
                died = worker.process.exitcode
                if not died:
                    continue
                job, doing = worker.job, worker.doing
                deaths.append(f"{job.detector}, {job.workload}, {job.dtype}: exit code {died} "
                              f"in {doing}")
                key = (job.detector, job.workload, job.dtype)
                num_deaths[key] += 1
                if doing is None or num_deaths[key] > MAX_DEATHS:
                    take(job, Refused(f"its process ended with exit code {died}"))
                    continue
                if died != EXCEPTION:
                    take(job, Tried(doing.model, doing.index, doing.max_steps, _dead(doing, died)))
                done = worker.tried | {(doing.model, doing.index)}
                left = tuple(f for f in job.faults if f not in done)
                if left:
                    waiting.appendleft(replace(job, faults=left, num_clean=0))
    finally:
        for worker in workers:
            worker.process.kill()
    return deaths


def _dead(doing: _Started, exit_code: int | None) -> FaultTrial:
    return FaultTrial(
        index=doing.index, op="", op_class=NO_OP, size="no bound", outcome=LOUD, num_steps=1,
        alarms=(), num_false=0, fault=None, why=f"the process ended with exit code {exit_code}")


def _hired(context: multiprocessing.context.SpawnContext, job: Job) -> _Worker:
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(job, theirs), daemon=True)
    process.start()
    theirs.close()
    return _Worker(job, process, ours)


def _listen(worker: _Worker, take: Take) -> bool:
    """Take one message; False at the end."""
    try:
        message = worker.pipe.recv()
    except (EOFError, OSError):
        return False
    if isinstance(message, _Started):
        worker.doing = message
        return True
    if isinstance(message, Tried):
        worker.tried.add((message.model, message.index))
        worker.doing = None
    take(worker.job, message)
    return True


def _run(job: Job, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this one
    logging.getLogger("sdc_guard").setLevel(logging.ERROR)
    try:
        with intra_op_threads(1):
            _try_all(job, pipe)
    except UsageError as error:
        pipe.send(Refused(str(error)))
    finally:
        pipe.close()


def _try_all(job: Job, pipe: Connection) -> None:
    started_s = time.monotonic()
    detector = DETECTORS[job.detector]()
    arena = Arena(detector, job.build(), seed=job.seed)
    if job.num_clean:
        arena.clean_steps(job.num_clean)
        pipe.send(clean_cell(job, arena))
    for model, index in job.faults:
        if job.limit_s is not None and time.monotonic() - started_s >= job.limit_s:
            break
        max_steps = arena.max_steps(MODELS[model].kind)
        pipe.send(_Started(model, index, max_steps))
        pipe.send(Tried(model, index, max_steps, arena.try_fault(model, index)))
    detector.end()


def clean_cell(job: Job, arena: Arena) -> CleanCell:
    """False alarms of the steps so far."""
    alarms = arena.clean_alarms
    return CleanCell(
        detector=job.detector, workload=job.workload, dtype=job.dtype, device=job.device,
        seed=job.seed, num_steps=arena.num_clean, num_checks=arena.detector.num_checks,
        num_alarms=len(alarms), by_verdict=dict(Counter(a.verdict for a in alarms)),
        examples=tuple(f"{a.verdict} {a.op}: {a.detail}"[:300] for a in alarms[:5]))
