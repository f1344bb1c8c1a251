"""The whole benchmark: which faults meet which detector on which workload, and what is known yet.

Runs add up: a fault that has been tried is not tried again, and what is found is kept every half
minute, so a long benchmark can be split over many runs.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from sdc_guard.bench.benchfile import BenchFile
from sdc_guard.bench.cells import Cell, CleanCell, FaultTrial
from sdc_guard.bench.crew import Job, Message, Refused, Tried
from sdc_guard.errors import UsageError
from sdc_guard.inject.models import MODELS

OURS = "sdc_guard all"
EXAMPLES_OF_OTHERS = 5
EXAMPLES_OF_OURS = 200
SAVE_EVERY_S = 30.0


@dataclass(frozen=True)
class Wish:
    """What is to be measured: every combination of these, ``num`` faults of each model."""

    detectors: tuple[str, ...]
    workloads: tuple[str, ...]
    dtypes: tuple[str, ...]
    faults: tuple[str, ...]
    num: int
    num_clean: int
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        unknown = [name for name in self.faults if name not in MODELS]
        if unknown:
            raise UsageError(f"no fault model {unknown[0]!r}; there are {', '.join(MODELS)}")
        if self.num < 0 or self.num_clean < 0:
            raise UsageError(f"num={self.num}, num_clean={self.num_clean}: both must be at least 0")

    def jobs(self, known: BenchFile) -> list[Job]:
        """One job a combination, without the faults and clean steps that are known; one fault of
        each model in turn, so that a run that is cut short has some of each."""
        cells = {(c.detector, c.workload, c.dtype, c.fault, c.device, c.seed): c
                 for c in known.cells}
        cleans = {(c.detector, c.workload, c.dtype, c.device, c.seed): c for c in known.clean}
        jobs = []
        for workload, dtype, detector in itertools.product(
                self.workloads, self.dtypes, self.detectors):
            done = {}
            for fault in self.faults:
                cell = cells.get((detector, workload, dtype, fault, self.device, self.seed))
                done[fault] = {n for start, stop in (cell.done if cell else ())
                               for n in range(start, stop)}
            faults = tuple((fault, n) for n in range(self.num) for fault in self.faults
                           if n not in done[fault])
            clean = cleans.get((detector, workload, dtype, self.device, self.seed))
            num_clean = 0 if clean and clean.num_steps >= self.num_clean else self.num_clean
            if faults or num_clean:
                jobs.append(Job(detector, workload, dtype, self.device, self.seed, num_clean,
                                faults))
        return jobs


@dataclass
class _New:
    """Trials of one cell since the last save."""

    empty: Cell
    trials: list[FaultTrial] = field(default_factory=list)
    not_injected: list[int] = field(default_factory=list)


class Book:
    """Takes the messages of jobs and keeps a :class:`BenchFile` up to date."""

    def __init__(
        self, known: BenchFile, save: Callable[[BenchFile], None], tell: Callable[[str], None]
    ) -> None:
        self.contents = known
        self.refused: dict[str, str] = {}
        self._save = save
        self._tell = tell
        self._new: dict[tuple[str | int, ...], _New] = {}
        self._cleans: list[CleanCell] = []
        self._saved_s = time.monotonic()
        self.num_tried = 0

    def take(self, job: Job, message: Message) -> None:
        """Keep one message; saves when the last save is long ago."""
        if isinstance(message, Refused):
            self.refused[job.detector] = message.reason
            self._tell(f"{job.detector} on {job.workload}, {job.dtype}: not measured: "
                       f"{message.reason}")
        elif isinstance(message, CleanCell):
            self._cleans.append(message)
        else:
            self._add(job, message)
        if time.monotonic() - self._saved_s > SAVE_EVERY_S:
            self.save()

    def _add(self, job: Job, tried: Tried) -> None:
        empty = Cell(
            detector=job.detector, workload=job.workload, dtype=job.dtype, fault=tried.model,
            kind=MODELS[tried.model].kind, device=job.device, seed=job.seed,
            max_steps=tried.max_steps)
        new = self._new.setdefault(empty.key, _New(empty))
        self.num_tried += 1
        if tried.trial is None:
            new.not_injected.append(tried.index)
        else:
            new.trials.append(tried.trial)

    def save(self) -> None:
        """Add what is new to the file."""
        self._saved_s = time.monotonic()
        cells = {cell.key: cell for cell in self.contents.cells}
        for key, new in self._new.items():
            most = EXAMPLES_OF_OURS if new.empty.detector == OURS else EXAMPLES_OF_OTHERS
            cell = cells.get(key, new.empty)
            cells[key] = cell.with_trials(new.trials, new.not_injected, most)
        cleans = {(c.detector, c.workload, c.dtype, c.device, c.seed): c
                  for c in (*self.contents.clean, *self._cleans)}
        self._new, self._cleans = {}, []
        self.contents = msgspec.structs.replace(
            self.contents, cells=tuple(cells.values()), clean=tuple(cleans.values()))
        self._save(self.contents)
        self._tell(f"{self.num_tried} faults tried")
