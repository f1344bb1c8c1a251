"""One sweep as a user asks for it: its units, its files, its report, whole or partial."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import psutil

from sdc_guard.document.files import is_stream, write_whole
from sdc_guard.document.reading import write_document
from sdc_guard.document.schema import Report
from sdc_guard.errors import UsageError
from sdc_guard.sweep.declared import SweepTest
from sdc_guard.sweep.document import document, run_id
from sdc_guard.sweep.eventfile import EventFile
from sdc_guard.sweep.golden import read_golden, write_golden
from sdc_guard.sweep.history import BUSY_S, FILE, History, state_folder
from sdc_guard.sweep.messages import Done
from sdc_guard.sweep.sweeping import Asked, Sweeping
from sdc_guard.sweep.units import Unit, chosen_units, host_name
from sdc_guard.sweep.words import INVALID, PASS, SKIP

DOCUMENT, EVENTS = "sweep.json", "events.jsonl"
SAVE_S = 2.0
MAX_SHARE_OF_WAIT = 0.1
"""Of the budget, for a history that another process has locked."""
REPORTING_S = 1.0
"""Of the budget, for the report and for ending the workers."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a user asks for."""

    budget_s: float
    tests: Mapping[str, SweepTest]
    out: Path
    command: str
    cores: str = "all"
    devices: str = "all"
    case: str = ""
    seed: int | None = None
    goldens: tuple[Path, ...] = ()
    write_golden: Path | None = None
    hang_s: float = 30.0
    is_fail_fast: bool = False
    is_fresh: bool = False
    state: Path | None = None


class Session:
    """``problems`` are what went wrong beside the sweep: a full disk, a history that cannot be
    written."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.problems: list[str] = []
        self._started_s = time.monotonic() - _age_s()
        self._start_utc = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._saved_s = 0.0

    def run(self, show: Callable[[Sweeping], None]) -> Report:
        """The report.  It is on disk as it stands every few seconds, so that nothing but the last
        of them is lost if this process is killed.

        Raises:
            UsageError: for units that are not there, a golden file that is damaged, or an output
                that cannot be written.
        """
        wanted = self.wanted
        units = chosen_units(wanted.cores, wanted.devices)
        if wanted.case:
            require_case(next(iter(wanted.tests.values())), wanted.case, units)
        for path in wanted.goldens:
            read_golden(path)
        seed = wanted.seed if wanted.seed is not None else int(time.time_ns() % 2**40)
        try:
            events = EventFile(wanted.out / EVENTS)
        except OSError as error:
            raise UsageError(f"{wanted.out / EVENTS} cannot be written: {error.strerror}; name "
                             "another folder with --out") from error
        with events, tempfile.TemporaryDirectory(prefix="sdc-guard-sweep-") as folder:
            events("start", {"command": wanted.command, "seed": seed, "start_utc": self._start_utc,
                             "budget_s": wanted.budget_s})
            cursor = self._cursor(units, seed)
            sweeping = Sweeping(Asked(
                units=units, tests=wanted.tests, seed=seed, folder=Path(folder),
                budget_s=wanted.budget_s - REPORTING_S - (time.monotonic() - self._started_s),
                hang_s=wanted.hang_s, case=wanted.case, golden=wanted.goldens,
                is_fail_fast=wanted.is_fail_fast, event=events, **cursor))

            def tick(sweeping: Sweeping) -> None:
                show(sweeping)
                if time.monotonic() - self._saved_s > SAVE_S:
                    self._save(sweeping)

            sweeping.run(tick)
            report = self._document(sweeping)
            events("end", {"is_complete": sweeping.is_complete,
                           "is_interrupted": sweeping.is_interrupted,
                           "checks": sweeping.checks, "mismatches": sweeping.mismatches})
            if events.problem:
                self.problems.append(events.problem)
        self._write_golden(sweeping, report)
        self._history.record(report)
        self._history.close()
        return report

    def _write_golden(self, sweeping: Sweeping, report: Report) -> None:
        """Only of a sweep that found nothing: a digest of a bad core must not become the answer."""
        path = self.wanted.write_golden
        if path is None:
            return
        loud = sorted({f"{c.word} {c.test} on {c.unit}" for c in report.cells
                       if c.word not in (PASS, SKIP, INVALID)})
        if loud or not sweeping.golden:
            why = ", ".join(loud[:3]) or "no test with golden digests was run"
            self.problems.append(f"{path} was not written: {why}")
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_golden(path, sweeping.golden.values())
        except (OSError, UsageError) as error:  # the report must not be lost with it
            self.problems.append(f"{path} was not written: {error}")

    def _cursor(self, units: tuple[Unit, ...], seed: int) -> dict[str, Any]:
        """What earlier sweeps did, and where this one's visits are kept: once each is over, so
        that the next sweep goes on there, whatever ends this one."""
        host, wanted = host_name(), self.wanted
        sweep_id = run_id(host, self._start_utc, seed)
        history = self._history = History.open(
            state_folder(wanted.state) / FILE, self.problems.append,
            min(BUSY_S, MAX_SHARE_OF_WAIT * wanted.budget_s))
        dwelt_s = {unit.name: {} if wanted.is_fresh else history.dwell(host, unit.name)
                   for unit in units}

        def on_visit(unit: Unit, test: SweepTest, done: Done) -> None:
            history.add_visit(
                sweep=sweep_id, host=host, unit=unit.name, test=test.name,
                seconds=done.elapsed_s, checks=sum(case.checks for case in done.cases),
                next_case=done.next_case)

        return {
            "dwelt_s": lambda unit, test: dwelt_s[unit].get(test, 0.0),
            "first_case": lambda unit, test: (0 if wanted.is_fresh
                                              else history.last_case(host, unit, test)),
            "on_visit": on_visit}

    def _document(self, sweeping: Sweeping) -> Report:
        return document(sweeping, start_utc=self._start_utc, command=self.wanted.command)

    def _save(self, sweeping: Sweeping) -> None:
        """The partial report."""
        self._saved_s = time.monotonic()
        try:
            write_whole(self.wanted.out / DOCUMENT, write_document(self._document(sweeping)))
        except OSError as error:
            problem = f"{self.wanted.out / DOCUMENT} cannot be written: {error.strerror or error}"
            if problem not in self.problems:
                self.problems.append(problem)


def _age_s() -> float:
    """Seconds since this process began: the budget counts them, too."""
    return max(0.0, time.time() - float(psutil.Process().create_time()))


def require_case(test: SweepTest, label: str, units: Sequence[Unit]) -> None:
    """Raises UsageError for a case that the test has on none of the units."""
    kinds = {unit.kind: unit.place(1) for unit in units if unit.kind in test.kinds}
    labels = list(dict.fromkeys(c.label for place in kinds.values() if not test.skip(place)
                                for c in test.cases(place)))
    if labels and label not in labels:
        near = get_close_matches(label, labels, n=3, cutoff=0.0)
        raise UsageError(f"--case {label!r}: {test.name} has no such case here; nearest of its "
                         f"{len(labels)}: {', '.join(map(repr, near))}")


def require_writable(path: Path | None) -> None:
    """Raises UsageError before a sweep whose results could not be written."""
    if path is None:
        return
    whole = path.absolute()
    if is_stream(whole):
        if not os.access(whole, os.W_OK):
            raise UsageError(f"{path} cannot be written: you may not write to it")
        return
    there = next(p for p in whole.parents if p.exists())
    if whole.is_dir() or not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise UsageError(f"{path} cannot be written: {there} is no folder that you may write to")
