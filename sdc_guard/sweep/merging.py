"""Sweeps of several hosts as one report: joined, voted on, ranked; who is missing is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

import msgspec

from sdc_guard.document.reading import read_document_file
from sdc_guard.document.schema import (
    SCHEMA_VERSION,
    Cell,
    Entry,
    Fleet,
    Report,
    Sweep,
    SweptTest,
    SweptUnit,
)
from sdc_guard.document.verdicts import verdict_of
from sdc_guard.errors import UsageError
from sdc_guard.sweep.fleet_shares import notes_of, outliers, shares_of
from sdc_guard.sweep.fleet_vote import BY_FLEET, Ballot, ballot_of
from sdc_guard.sweep.words import MISSING, PASS, SKIP, WORST_FIRST
from sdc_guard.version import __version__

TOOL = "sweep"
DOCUMENT = "sweep.json"
WHOLE_SWEEP = "whole sweep"
MAX_CELLS = 20_000
MAX_DIGESTS = 50_000
"""Of a merged report: beyond it the units of a host that are clean stand together, and digests are
left out once they have been voted on."""


def read_sweeps(paths: Iterable[Path]) -> tuple[list[Report], dict[str, str]]:
    """The sweeps in files, or in folders that hold ``sweep.json``; and by path why one could not
    be read.  A document that is given twice counts once."""
    found: dict[tuple[tuple[str, int, int], ...], Report] = {}
    damaged: dict[str, str] = {}
    for path in paths:
        file = path / DOCUMENT if path.is_dir() else path
        try:
            report = read_document_file(file)
            if report.sweep is None:
                raise UsageError(f"{file} is a report, but not one of a sweep")
            if not report.runs or not report.cells:
                lost = "test" if report.runs else "run"
                raise UsageError(f"{file} is damaged: it names no {lost}, so nothing was verified "
                                 "by it; copy it again")
            for cell in report.cells:
                if min(cell.checks, cell.findings) < 0:
                    raise UsageError(f"{file} is damaged: {cell.test} on {cell.unit} has a count "
                                     "below 0; copy it again")
        except UsageError as error:
            damaged[str(path)] = str(error)
            continue
        found[tuple((run.id, run.rank, run.pid) for run in report.runs)] = report
    return list(found.values()), damaged


def merged(
    reports: Sequence[Report], *, title: str, expected: Iterable[str] = (),
    num_expected: int | None = None, missing: Mapping[str, str] | None = None,
    damaged: Mapping[str, str] | None = None,
) -> Report:
    """One report.  Of ``expected`` hosts, or of ``num_expected`` of them, those without a document
    are missing; ``missing`` says by name why others are.  It has no judgement yet.

    Raises:
        UsageError: if there is no document, and nothing is known to be missing.
    """
    damaged = dict(damaged or {})
    sweeps = [report.sweep for report in reports if report.sweep is not None]
    units = {unit.id: unit for sweep in sweeps for unit in sweep.units}
    hosts = hosts_of(reports)
    absent = {**{name: "no document of this host" for name in expected if name not in hosts},
              **(missing or {})}
    for number in range(len(hosts) + len(absent), num_expected or 0):
        absent[f"host {number + 1} of {num_expected}"] = "no document, and its name is not known"
    if not hosts and not absent and not damaged:
        raise UsageError("there is no sweep to merge")
    entries = [e for r in reports for e in r.findings if e.facts.get("voted by") != BY_FLEET]
    ballot = ballot_of(chain.from_iterable(s.digests for s in sweeps), units, entries)
    cells = _voted(_joined(c for r in reports for c in r.cells if c.word != MISSING), ballot)
    for name, why in absent.items():
        cells.append(Cell(unit=name, test=WHOLE_SWEEP, word=MISSING,
                          verdict=verdict_of(TOOL, MISSING), reason=why))
    found = (*entries, *ballot.entries)
    fleet = Fleet(
        hosts=hosts, missing=tuple(absent), damaged=damaged, votes=ballot.num_cases,
        outliers=outliers(cells, units, ballot.outvoted), shares=shares_of(cells, units),
        notes=(*notes_of(cells, units), *ballot.notes))
    problems = [p for r in reports for p in r.problems]
    problems += [f"{name}: {why}" for name, why in damaged.items()]
    cut: dict[str, int] = {}
    kept, sweep = _bounded(cells, units, _sweep(sweeps, units), cut)
    return Report(
        schema_version=SCHEMA_VERSION, tool_version=__version__, title=title,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        sources=tuple(dict.fromkeys(s for r in reports for s in r.sources)),
        runs=tuple(run for r in reports for run in r.runs), findings=found, cells=tuple(kept),
        problems=tuple(dict.fromkeys(problems)), cut=cut, sweep=sweep, fleet=fleet)


def about_host(fleet: Report, host: str) -> tuple[Entry, ...]:
    """What the hosts' vote found on one of them."""
    return tuple(e for e in fleet.findings
                 if e.facts.get("voted by") == BY_FLEET and e.facts.get("host") == host)


def with_votes(report: Report, entries: Sequence[Entry]) -> Report:
    """The report of one host, with what the others' vote says of it; without a judgement."""
    ballot = Ballot(words=[(e.unit, e.test, e.word, e.finding.attribution.reason)
                           for e in entries])
    return msgspec.structs.replace(
        report, findings=(*report.findings, *entries), judgement=None,
        cells=tuple(_voted(list(report.cells), ballot)))


def hosts_of(reports: Iterable[Report]) -> tuple[str, ...]:
    """The hosts that have a document, in order of their names."""
    return tuple(sorted({run.host for report in reports for run in report.runs}))


def _joined(cells: Iterable[Cell]) -> list[Cell]:
    """Several sweeps of one unit, added up: the worst word stands."""
    found: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        key = cell.unit, cell.test
        found[key] = cell if key not in found else _added(found[key], cell)
    return list(found.values())


def _added(a: Cell, b: Cell) -> Cell:
    worse = min((a, b), key=_rank)
    return msgspec.structs.replace(
        worse, checks=a.checks + b.checks, findings=a.findings + b.findings,
        elapsed_s=a.elapsed_s + b.elapsed_s, num_bytes=a.num_bytes + b.num_bytes,
        flops=a.flops + b.flops)


def _rank(cell: Cell) -> int:
    """A word of a later version comes first: it is not taken for clean."""
    return WORST_FIRST.index(cell.word) if cell.word in WORST_FIRST else -1


def _voted(cells: list[Cell], ballot: Ballot) -> list[Cell]:
    """The cells, with what the hosts' vote says of them where that is worse."""
    found = {(cell.unit, cell.test): cell for cell in cells}
    for unit, test, word, reason in ballot.words:
        voted = Cell(unit=unit, test=test, word=word, verdict=verdict_of(TOOL, word), findings=1,
                     reason=reason, oracle="peer")
        old = found.get((unit, test))
        if old is not None and _rank(old) > _rank(voted):
            voted = msgspec.structs.replace(
                old, word=word, verdict=voted.verdict, reason=reason, findings=old.findings + 1,
                oracle="peer")
        found[unit, test] = voted if old is None or _rank(old) > _rank(voted) else old
    return list(found.values())


def _sweep(sweeps: Sequence[Sweep], units: Mapping[str, SweptUnit]) -> Sweep:
    tests: dict[str, SweptTest] = {test.name: test for s in sweeps for test in s.tests}
    canaries: dict[str, str] = {}
    for name, word in ((n, w) for s in sweeps for n, w in s.canaries.items()):
        if canaries.get(name) in (None, "none") or word == "missed":
            canaries[name] = word
    seeds = {s.seed for s in sweeps}
    return Sweep(
        seed=seeds.pop() if len(seeds) == 1 else 0,
        budget_s=max((s.budget_s for s in sweeps), default=0.0),
        units=tuple(units.values()), tests=tuple(tests.values()),
        digests=tuple(dict.fromkeys(d for s in sweeps for d in s.digests)),
        checks=sum(s.checks for s in sweeps), num_bytes=sum(s.num_bytes for s in sweeps),
        flops=sum(s.flops for s in sweeps), canaries=canaries,
        is_partial=any(s.is_partial for s in sweeps))


def _bounded(
    cells: list[Cell], units: Mapping[str, SweptUnit], sweep: Sweep, cut: dict[str, int]
) -> tuple[list[Cell], Sweep]:
    """Of a large fleet the units of a host that are clean stand together."""
    if len(sweep.digests) > MAX_DIGESTS:
        cut["digests left out after the vote"] = len(sweep.digests)
        sweep = msgspec.structs.replace(sweep, digests=())
    if len(cells) <= MAX_CELLS:
        return cells, sweep
    loud = {c.unit for c in cells if c.word not in (PASS, SKIP)}
    tested = {c.unit for c in cells if c.checks}
    kept: list[Cell] = []
    groups: dict[tuple[str, str, str, str], list[Cell]] = {}
    for cell in cells:
        unit = units.get(cell.unit)
        if unit is None or cell.unit in loud or cell.unit not in tested:
            kept.append(cell)
            continue
        key = (unit.facts.get("host", ""), unit.kind, cell.test, cell.word)
        groups.setdefault(key, []).append(cell)
    for (host, kind, _, _), group in groups.items():
        whole = group[0]
        for cell in group[1:]:
            whole = _added(whole, cell)
        kept.append(msgspec.structs.replace(whole, unit=f"{host}, clean units of kind {kind}"))
    cut["tests of clean units shown by host"] = sum(map(len, groups.values()))
    return kept, sweep
