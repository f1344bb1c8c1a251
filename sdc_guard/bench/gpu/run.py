"""Runs jobs one after the other in a process of their own, which may die or hang.

A kernel that reads outside of its operands breaks the device for its process.  Then the figure on
which work had begun is lost, and a new process goes on behind it.  The time limit holds whatever
happens: at its end the process is killed, and what it has told stays.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess

import torch

from sdc_guard.bench.gpu.device import tell_clocks
from sdc_guard.bench.gpu.figures import Figure
from sdc_guard.bench.gpu.job import (
    Expected,
    Failed,
    Job,
    Measured,
    Message,
    Setting,
    Started,
    Telling,
    told,
)

MAX_DEATHS = 5
STUCK_S = 120.0
"""A figure on which nothing is heard for so long is given up.  The first one compiles."""
QUIET_S = 120.0
"""So long a process may say nothing while it works on no figure, as at its start."""
EXIT_S = 10.0
ENDED, STUCK, LATE = "ended", "stuck", "late"


class Results:
    """What was told so far.  ``figures`` and ``failures`` are by name, in the order in which they
    were first told or expected."""

    def __init__(self) -> None:
        self.figures: dict[str, Figure] = {}
        self.failures: dict[str, str] = {}
        self.expected: dict[str, None] = {}
        self.doing = ""

    def take(self, message: Message) -> None:
        """Add what a message says."""
        match message:
            case Expected(names):
                self.expected.update(dict.fromkeys(names))
            case Started(name):
                self.doing = name
            case Measured(name, figure):
                self.figures[name] = figure
                self.failures.pop(name, None)
                self._is_over(name)
            case Failed(name, reason):
                # A figure of the rounds before an error is true, but not of the form asked for.
                self.figures.pop(name, None)
                self.failures[name] = reason
                self._is_over(name)

    def _is_over(self, name: str) -> None:
        self.expected.setdefault(name)
        if self.doing == name:
            self.doing = ""

    @property
    def done(self) -> frozenset[str]:
        """Figures of which nothing more is to come."""
        return frozenset({*self.figures, *self.failures})

    def missing(self, otherwise: str) -> dict[str, str]:
        """Why figures are not there, by name."""
        return {name: self.failures.get(name, otherwise)
                for name in self.expected if name not in self.figures}


def rest_of(job: Job) -> str:
    """The name of what is lost when a job ends between two figures."""
    return f"the rest of: {job.name}"


def run_jobs(
    setting: Setting, jobs: Sequence[Job], *, limit_s: float, stuck_s: float = STUCK_S,
    save: Callable[[Results], None] = lambda results: None,
    tell: Callable[[str], None] = lambda line: None,
) -> Results:
    """Run the jobs within ``limit_s``; returns what they told.

    ``save`` is called after each figure, ``tell`` with a line for each one that there will not be
    and for each that there is.
    """
    context = multiprocessing.get_context("spawn")
    started_s = time.monotonic()
    results, num_deaths = Results(), 0
    for job in jobs:
        results.expected.update(dict.fromkeys(job.expects(setting)))
    left = list(jobs)
    while left and time.monotonic() - started_s < limit_s and num_deaths < MAX_DEATHS:
        now = replace(setting, skip=results.done)
        results.doing = ""
        process, pipe = _hired(context, now, left, started_s, limit_s)
        try:
            end = _listen(pipe, results, left, started_s + limit_s, stuck_s, save, tell)
            if end == ENDED:
                process.join(EXIT_S)
        finally:
            process.kill()
            process.join()
        if not left or end == LATE:
            break
        num_deaths += 1
        if results.doing:
            lost = results.doing
        elif results.done == now.skip:
            lost = rest_of(left.pop(0))
        else:
            continue  # it has got somewhere: the next one goes on from there
        results.take(Failed(lost, f"given up: no end after {stuck_s:.0f} s" if end == STUCK
                            else f"its process ended with exit code {process.exitcode}"))
        tell(f"{lost}: not measured: {results.failures[lost]}")
        save(results)
    return results


def _listen(
    pipe: Connection, results: Results, left: list[Job], deadline_s: float, stuck_s: float,
    save: Callable[[Results], None], tell: Callable[[str], None],
) -> str:
    """Take messages until the process ends, says nothing for too long, or the time is up."""
    while True:
        patience_s = stuck_s if results.doing else max(QUIET_S, stuck_s)
        wait_s = min(patience_s, deadline_s - time.monotonic())
        if wait_s <= 0:
            return LATE
        if not pipe.poll(wait_s):
            return LATE if time.monotonic() >= deadline_s else STUCK
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            return ENDED
        if message is None:
            left.pop(0)
            continue
        is_new = isinstance(message, Measured) and message.name not in results.figures
        results.take(message)
        if is_new:
            tell(f"{message.name}: measured")
        if isinstance(message, Failed):
            tell(f"{message.name}: not measured: {message.reason}")
        if isinstance(message, (Measured, Failed)):
            save(results)


def _hired(
    context: SpawnContext, setting: Setting, jobs: Sequence[Job], started_s: float, limit_s: float
) -> tuple[BaseProcess, Connection]:
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=_work, args=(setting, tuple(jobs), started_s, limit_s, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _work(
    setting: Setting, jobs: Sequence[Job], started_s: float, limit_s: float, pipe: Connection
) -> None:
    """Do the jobs; after each of them the message is None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this one
    logging.getLogger("sdc_guard").setLevel(logging.ERROR)
    if setting.device == "cpu":
        torch.set_num_threads(1)
    for job in jobs:
        telling = Telling(setting, pipe.send, started_s + job.until * limit_s)
        try:
            job.run(telling)
        except Exception as error:
            setting.synchronize()  # raises if the device is broken: the next process goes on
            pipe.send(Failed(rest_of(job), told(error)))
        setting.synchronize()
        tell_clocks(telling, job.name)
        pipe.send(None)
        gc.collect()
        if setting.device == "cuda":
            torch.cuda.empty_cache()
    pipe.close()
