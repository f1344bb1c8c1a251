"""All trials of the matrix, column by column, within a time, going on where a file stops."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from sdc_guard.bench.benchfile import numbers
from sdc_guard.bench.cells import ranges
from sdc_guard.bench.sweep.blame import BLAME_KINDS, blamed
from sdc_guard.bench.sweep.columns import EXACT, PEERS, Column, columns_of
from sdc_guard.bench.sweep.counts import (
    RIVAL,
    SWEEP,
    Blame,
    Cell,
    MatrixFile,
    NotRun,
    Tested,
)
from sdc_guard.bench.sweep.faults import Dwell, Fault, Scope
from sdc_guard.bench.sweep.kinds import KINDS, Kind, When
from sdc_guard.bench.sweep.rivals.base import Rival
from sdc_guard.bench.sweep.trials import Outcome, run_trial
from sdc_guard.errors import UsageError
from sdc_guard.sweep.declared import Company, Place, SweepTest

BATCH = 10
"""Trials of a cell before the next cell has its turn."""
MAX_READY_S = 60.0
SHARE_OF_CELLS = 0.7
"""Of a column's time; the rest is for whom it blames."""
COMPANIES = ((2, False), (3, False), (2, True))
"""Number of units, and whether all have the fault."""


@dataclass
class Campaign:
    """``num`` trials of each kind against each test and rival.

    Attributes:
        places: where the tests run, each on the first that it can run on.
        budget_s: time of the whole sweep that each test has its share of.
        save: gets the file after each column.
        tell: gets a line of progress.
    """

    places: Sequence[Place]
    seed: int
    num: int
    budget_s: float
    file: MatrixFile
    save: Callable[[MatrixFile], None] = lambda file: None
    tell: Callable[[str], None] = lambda line: None
    num_cores: int = 1
    kinds: Sequence[Kind] = tuple(KINDS.values())
    _cells: dict[tuple[str, str], Cell] = field(default_factory=dict)
    _blames: dict[tuple[str, str, int, bool], Blame] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.num < 1:
            raise UsageError(f"num={self.num}: give the trials of each kind, 1 or more")
        if (self.file.stamp.seed, self.file.budget_s) != (self.seed, self.budget_s):
            raise UsageError(
                f"the file there has seed {self.file.stamp.seed} and shares out "
                f"{self.file.budget_s:g} s, not {self.seed} and {self.budget_s:g} s: they cannot "
                "be added; give another folder with --out")
        self._cells = {(c.column, c.kind): c for c in self.file.cells}
        self._blames = {(b.column, b.kind, b.num_units, b.all_alike): b for b in self.file.blames}

    def run(
        self, tests: Sequence[SweepTest], rivals: Sequence[type[Rival]], limit_s: float
    ) -> MatrixFile:
        """Try everything that is not in the file; what is not reached within ``limit_s`` stays for
        another run."""
        end_s = time.monotonic() + limit_s
        self._set_scope(tests)
        slice_s = self.budget_s / max(1, sum(map(self._slices, tests)))
        left = len(rivals) + len(tests)
        for rival in rivals:
            self._try_rival(rival(self.seed), _share(end_s, left))
            left -= 1
        for test in tests:
            self._try_test(test, slice_s * len(test.environments), _share(end_s, left))
            left -= 1
        return self.file

    def _slices(self, test: SweepTest) -> int:
        """Turns that a round of the sweep gives a test, as in its schedule."""
        return len(test.environments) * (
            1 if test.company is Company.TOGETHER else self.num_cores)

    def _place(self, test: SweepTest) -> Place:
        return next((p for p in self.places if p.kind in test.kinds), self.places[0])

    def _set_scope(self, tests: Sequence[SweepTest]) -> None:
        cases = [c for t in tests if not t.skip(self._place(t)) for c in t.cases(self._place(t))]
        ops, dtypes = (tuple(sorted({*old, *new})) for old, new in (
            (self.file.ops, {c.op for c in cases}), (self.file.dtypes, {c.dtype for c in cases})))
        if (ops, dtypes) != (self.file.ops, self.file.dtypes):
            # Drawn from another list, a number means another fault.
            self._cells = {k: c for k, c in self._cells.items() if not KINDS[c.kind].only}
        self.file = msgspec.structs.replace(self.file, ops=ops, dtypes=dtypes)

    def _try_rival(self, rival: Rival, end_s: float) -> None:
        dwell = rival.dwell(self.budget_s)
        scope = Scope(self.file.ops, self.file.dtypes, rival.left)

        def attempt(fault: Fault) -> Outcome:
            if fault.is_below_dwell:
                return Outcome(False, False)
            is_found = rival.finds(fault)
            return Outcome(fault.num_changed > 0, is_found and fault.num_changed > 0)

        self._fill(rival.name, self.kinds, dwell, scope, attempt, end_s)
        self._keep(Tested(name=rival.name, group=RIVAL, family="", oracle="",
                          num_cases=len(rival.works), runs=dwell.runs, checks=dwell.checks,
                          false_alarms=0, note=f"{rival.compares}; here: {rival.reduced}"))

    def _try_test(self, test: SweepTest, dwell_s: float, end_s: float) -> None:
        if self._is_done(test):
            return
        columns = columns_of(test, self._place(test), seed=self.seed, dwell_s=dwell_s,
                             limit_s=min(MAX_READY_S, max(1.0, end_s - time.monotonic())))
        if isinstance(columns, str):
            others = [n for n in self.file.not_run if n.test != test.name]
            self.file = msgspec.structs.replace(self.file, not_run=(*others, NotRun(
                test=test.name, family=test.family, reason=columns)))
            self.tell(f"{test.name}: {columns}")
            return
        for number, column in enumerate(columns):
            until_s = _share(end_s, len(columns) - number)
            scope = Scope(self.file.ops, self.file.dtypes, column.left)
            kinds = [k for k in self.kinds if _means_something(k, column)]

            def attempt(fault: Fault, column: Column = column) -> Outcome:
                return run_trial(column, fault)

            is_blamed = column.oracle in (EXACT, PEERS)
            cells_s = time.monotonic() + SHARE_OF_CELLS * (until_s - time.monotonic())
            self._fill(column.name, kinds, column.dwell, scope, attempt,
                       cells_s if is_blamed else until_s)
            for turn, (num_units, all_alike) in enumerate(COMPANIES if is_blamed else ()):
                self._fill_blame(column, scope, _share(until_s, len(COMPANIES) - turn), num_units,
                                 all_alike)
            self._keep(Tested(
                name=column.name, group=SWEEP, family=test.family, oracle=column.oracle,
                num_cases=len(column.cases), runs=column.dwell.runs, checks=column.dwell.checks,
                false_alarms=column.num_mismatches))

    def _is_done(self, test: SweepTest) -> bool:
        """Whether the file has all trials of a test."""
        names = {c.name for c in self.file.columns if c.name.startswith(f"{test.name}, ")}
        cells = [c for c in self._cells.values() if c.column in names]
        always = {kind.name for kind in self.kinds
                  if not kind.needs_float and kind.when is not When.INPUT_BIT}
        has_all = all({c.kind for c in cells if c.column == name} >= always for name in names)
        blames = [b for b in self._blames.values() if b.column in names]
        counts = [*(c.num for c in cells), *(b.num for b in blames)]
        return bool(names) and has_all and min(counts, default=0) >= self.num

    def _fill(
        self, column: str, kinds: Iterable[Kind], dwell: Dwell, scope: Scope,
        attempt: Callable[[Fault], Outcome], end_s: float,
    ) -> None:
        for kind, first, last in _batches(list(kinds), self.num):
            cell = self._cells.get((column, kind.name), Cell(column=column, kind=kind.name))
            for number in range(max(first, cell.num), last):
                if time.monotonic() > end_s:
                    return
                fault = Fault(kind, number, seed=self.seed, where=column, dwell=dwell, scope=scope)
                cell = _counted(cell, number, attempt(fault), fault.struck)
                self._cells[column, kind.name] = cell

    def _fill_blame(
        self, column: Column, scope: Scope, end_s: float, num_units: int, all_alike: bool
    ) -> None:
        kinds = [kind for kind in map(KINDS.__getitem__, BLAME_KINDS)
                 if _means_something(kind, column) and (kind.is_same_always or not all_alike)]
        for kind, first, last in _batches(kinds, self.num):
            key = column.name, kind.name, num_units, all_alike
            blame = self._blames.get(key, Blame(
                column=column.name, oracle=column.oracle, kind=kind.name, num_units=num_units,
                all_alike=all_alike))
            for number in range(max(first, blame.num), last):
                if time.monotonic() > end_s:
                    return

                def make(unit: str, kind: Kind = kind, number: int = number) -> Fault:
                    return Fault(kind, number, seed=self.seed, where=f"{column.name} {unit}",
                                 dwell=column.dwell, scope=scope)

                word = blamed(column, make, num_units, number % num_units, all_alike=all_alike)
                blame = msgspec.structs.replace(
                    blame, num=blame.num + 1,
                    words={**blame.words, word: blame.words.get(word, 0) + 1})
                self._blames[key] = blame

    def _keep(self, tested: Tested) -> None:
        others = [c for c in self.file.columns if c.name != tested.name]
        self.file = msgspec.structs.replace(
            self.file, columns=(*others, tested), cells=tuple(self._cells.values()),
            blames=tuple(self._blames.values()))
        self.save(self.file)
        mine = [c for c in self._cells.values() if c.column == tested.name]
        self.tell(f"{tested.name}: {sum(c.num for c in mine)} trials, "
                  f"{sum(c.num_found for c in mine)} found of "
                  f"{sum(c.num_reached for c in mine)} that changed a bit")


def _means_something(kind: Kind, column: Column) -> bool:
    if kind.needs_float and not column.has_floats:
        return False
    return kind.when is not When.INPUT_BIT or column.has_inputs


def _share(end_s: float, left: int) -> float:
    """The moment at which the first of ``left`` equal shares of the rest of the time is over."""
    now_s = time.monotonic()
    return now_s + max(0.0, end_s - now_s) / left


def _batches(kinds: Sequence[Kind], num: int) -> Iterator[tuple[Kind, int, int]]:
    for first in range(0, num, BATCH):
        for kind in kinds:
            yield kind, first, min(first + BATCH, num)


def _counted(cell: Cell, number: int, outcome: Outcome, struck: Iterable[str]) -> Cell:
    bits = dict(cell.bits)
    for bit in struck:
        reached, found = bits.get(bit, (0, 0))
        bits[bit] = (reached + 1, found + outcome.is_found)
    return msgspec.structs.replace(
        cell, num=number + 1, bits=bits,
        reached=ranges(numbers(cell.reached) | ({number} if outcome.is_reached else set())),
        found=ranges(numbers(cell.found) | ({number} if outcome.is_found else set())))
