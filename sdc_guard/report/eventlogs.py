"""An event log to the runs and findings in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import msgspec

from sdc_guard.document.reading import require_counts
from sdc_guard.document.schema import SCHEMA_VERSION, Entry, Module, Point, Report, Run
from sdc_guard.document.text import counted
from sdc_guard.errors import UsageError
from sdc_guard.evidence.eventlog import read_events
from sdc_guard.plain_json import record_of
from sdc_guard.records import Coverage, Finding
from sdc_guard.report.entries import entry_of
from sdc_guard.report.locations import relative
from sdc_guard.report.text import sound_values
from sdc_guard.version import __version__

MAX_POINTS = 1000
MAX_PROBLEMS = 20


@dataclass
class _Reading:
    """A run whose events are being read."""

    id: str
    header: dict[str, Any]
    source: str
    entries: list[Entry] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    modules: tuple[Module, ...] = ()
    coverage: Coverage | None = None
    elapsed_s: float = 0.0
    steps: int = 0
    num_skipped: int = 0
    exception: str = ""
    problems: list[str] = field(default_factory=list)
    num_problems: int = 0
    is_whole: bool = True
    numbers: set[int] = field(default_factory=set)

    def met(self, event: dict[str, Any]) -> None:
        """Events are numbered from 0 in each run, so that one that is not there is missed."""
        number = event.get("seq")
        if type(number) is int and number >= 0:
            self.numbers.add(number)

    @property
    def num_missing(self) -> int:
        return max(self.numbers) + 1 - len(self.numbers) if self.numbers else 0

    def note(self, problem: str) -> None:
        self.num_problems += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)

    def lost(self, problem: str) -> None:
        """Events are missing, perhaps findings: what is left does not say that all is well."""
        self.is_whole = False
        self.note(problem)


def log_report(path: Path, root: Path) -> Report:
    """The runs of one log.  A line that is damaged costs that line, and is listed.

    Raises:
        UsageError: if the file cannot be read.
    """
    try:
        events = list(read_events(path))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    runs: list[_Reading] = []
    loose: list[str] = []
    num_loose = 0
    for event in sound_values(events):
        kind = event.get("kind")
        if kind == "header":
            runs.append(_Reading(_run_id(event, len(runs)), event, str(path)))
            runs[-1].met(event)
            continue
        if not runs and kind == "torn":
            num_loose += 1
            continue
        if not runs:
            runs.append(_Reading(_run_id({}, 0), {}, str(path)))
            runs[-1].lost("the line that says which run this is (its header) is missing")
        runs[-1].met(event)
        _read(runs[-1], event, root)
    if num_loose:
        loose.append(f"{path}: {counted(num_loose, 'line')} before any header cannot be read")
    if not runs:
        loose.append(f"{path}: no run can be read in it")
    return Report(
        schema_version=SCHEMA_VERSION, tool_version=__version__, created_utc="", title="",
        sources=(str(path),), runs=tuple(_finished(run, root) for run in runs),
        findings=tuple(entry for run in runs for entry in run.entries),
        problems=tuple(loose))


def _run_id(header: dict[str, Any], number: int) -> str:
    start = str(header.get("start_utc", ""))[:19]
    environment = header.get("environment")
    host = environment.get("host") if isinstance(environment, dict) else None
    place = f"{host} " if isinstance(host, str) and host else ""
    return f"{place}{start} pid {header.get('pid', '?')} rank {header.get('rank', 0)} #{number}"


def _read(run: _Reading, event: dict[str, Any], root: Path) -> None:
    kind = event.get("kind")
    try:
        run.elapsed_s = max(run.elapsed_s, float(event.get("time_s", 0.0)))
        if kind == "finding":
            run.entries.append(entry_of(
                record_of(event["finding"], Finding), tool="guard", run=run.id, root=root,
                base=str(run.header.get("cwd", "")), time_s=float(event.get("time_s", 0.0)),
                test=str(event.get("test", "")), host=_host(run)))
        elif kind == "progress":
            run.points.append(record_of(event, Point))
        elif kind == "modules":
            run.modules = record_of(event["modules"], tuple[Module, ...])
        elif kind == "summary":
            coverage = record_of(event["coverage"], Coverage)
            require_counts(coverage)
            run.coverage = coverage
            if event.get("write_failures"):
                run.lost(f"{event['write_failures']} events were not written: the disk refused")
            if event.get("events_dropped"):
                run.lost(f"{event['events_dropped']} events were not written: the log was full")
        elif kind == "step_skipped":
            run.num_skipped += 1
        elif kind == "exception":
            run.exception = str(event.get("error", ""))
        elif kind == "guard_error":
            run.note(f"the guard failed {event.get('where')} and went on: {event.get('error')}")
        elif kind == "torn":
            run.lost(f"line {event.get('line')} is not whole: {str(event.get('text'))[:60]}")
        elif kind == "truncated":
            run.lost(f"the log reached {event.get('max_bytes')} bytes; later events were not kept")
    except (msgspec.ValidationError, KeyError, TypeError, ValueError, OverflowError) as error:
        run.lost(f"an event of kind {str(kind)[:40]} cannot be read: {str(error)[:120]}")


def _host(run: _Reading) -> str:
    environment = run.header.get("environment")
    return str(environment.get("host", "")) if isinstance(environment, dict) else ""


def _script(header: dict[str, Any], root: Path) -> str:
    """The script, relative to the root where it lies inside."""
    script = str(header.get("script", ""))
    if not script or script.startswith("-"):
        return script
    return relative(PurePath(str(header.get("cwd", "")), script), root)


def _finished(run: _Reading, root: Path) -> Run:
    header = run.header
    environment = header.get("environment")
    if run.num_missing and run.is_whole:
        run.lost(f"{counted(run.num_missing, 'event')} of the log, which numbers them, are not in "
                 "it")
    if run.coverage is None:
        run.problems.append("the run did not end in order: what it checked in all is not known")
    if run.num_problems > len(run.problems):
        run.problems.append(f"{run.num_problems - len(run.problems)} more problems")
    return Run(
        id=run.id, kind="guard", rank=_whole(header.get("rank")), pid=_whole(header.get("pid")),
        host=_host(run), start_utc=str(header.get("start_utc", "")), source=run.source,
        elapsed_s=run.elapsed_s, is_complete=run.coverage is not None and run.is_whole,
        budget=_budget(header.get("budget")),
        seed=header["seed"] if type(header.get("seed")) is int else None,
        script=_script(header, root), exception=run.exception,
        steps=run.coverage.steps if run.coverage is not None else
        max((p.step for p in run.points), default=0),
        steps_skipped=run.num_skipped,
        environment=environment if isinstance(environment, dict) else {},
        coverage=run.coverage, timeline=tuple(_thinned(run.points)), modules=run.modules,
        problems=tuple(run.problems))


def _whole(value: object) -> int:
    return value if type(value) is int else 0


def _thinned(points: list[Point]) -> Iterator[Point]:
    """At most :data:`MAX_POINTS`, evenly spaced, the last one kept."""
    stride = -(-len(points) // MAX_POINTS) or 1
    for i, point in enumerate(points):
        if i % stride == 0 or i == len(points) - 1:
            yield point


def _budget(value: object) -> str:
    """``all``, ``2 %``, or nothing where the log does not say."""
    if isinstance(value, float):
        return f"{100 * value:g} %"
    return value if isinstance(value, str) else ""
