"""A sweep on the page: units by tests, what each pass proves, the units, their sensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sdc_guard.document.schema import Cell, Report, Sweep, SweptTest, SweptUnit
from sdc_guard.document.verdicts import CLEAN
from sdc_guard.render.page.grid import known_verdict
from sdc_guard.render.page.sensors import SensorChart, sensor_charts
from sdc_guard.render.swept import (
    compact,
    facts_of_units,
    facts_text,
    power_of,
    summary,
    swept_cells,
    test_rows,
    word_rank,
)


@dataclass(frozen=True)
class Shown:
    """A cell as it is shown; ``title`` has all that is known of it."""

    word: str
    verdict: str
    checks: str
    title: str


@dataclass(frozen=True)
class Proof:
    """A test: what it is, where it passed, and what that is worth.  ``powers`` say what its passes
    here could see, ``without`` that it passed nowhere."""

    name: str
    declared: SweptTest | None
    verdict: str
    outcome: str
    powers: tuple[str, ...]
    canary: str


@dataclass(frozen=True)
class Kind:
    """Units of one kind: what they share, and the rest of each."""

    name: str
    shared: str
    rows: tuple[tuple[str, str, str], ...]
    num_more: int


@dataclass(frozen=True)
class SweepView:
    """``columns`` are (test, family); ``rows`` (unit, worst verdict, its cells)."""

    lines: tuple[str, ...]
    words: tuple[tuple[str, str, int], ...]
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, str, tuple[Shown | None, ...]], ...]
    num_more_columns: int
    num_more_rows: int
    proofs: tuple[Proof, ...]
    num_more_proofs: int
    kinds: tuple[Kind, ...]
    charts: tuple[SensorChart, ...]
    num_more_charts: int
    num_digests: int


def sweep_view(report: Report, *, max_rows: int, max_columns: int, max_charts: int
               ) -> SweepView | None:
    """What the section shows, units and tests with failures first; None without a sweep."""
    sweep = report.sweep
    if sweep is None:
        return None
    cells = swept_cells(report)
    tests = [row.test for row in test_rows(cells)]
    units: dict[str, list[Cell]] = {unit.id: [] for unit in sweep.units}
    for cell in cells:
        units.setdefault(cell.unit, []).append(cell)
    order = sorted(units, key=lambda u: min((word_rank(c.word) for c in units[u]), default=99))
    at = {(cell.unit, cell.test): cell for cell in cells}
    families = {cell.test: cell.family for cell in cells}
    blamed = {cell.unit for cell in cells if cell.verdict == "corruption"}
    proofs = _proofs(sweep, cells, tests)
    charts, num_more_charts = sensor_charts(sweep.samples, blamed, max_charts=max_charts)
    return SweepView(
        lines=tuple(summary(report, sweep)), words=_words(cells),
        columns=tuple((test, families[test]) for test in tests[:max_columns]),
        rows=tuple((unit, _worst(units[unit]), tuple(
            _shown(at.get((unit, test))) for test in tests[:max_columns]))
            for unit in order[:max_rows]),
        num_more_columns=max(0, len(tests) - max_columns),
        num_more_rows=max(0, len(order) - max_rows),
        proofs=tuple(proofs[:max_rows]), num_more_proofs=max(0, len(proofs) - max_rows),
        kinds=_kinds(sweep.units, max_rows), charts=tuple(charts),
        num_more_charts=num_more_charts, num_digests=len(sweep.digests))


def _words(cells: Sequence[Cell]) -> tuple[tuple[str, str, int], ...]:
    """(word, its verdict, how many), the worst first."""
    counts: dict[tuple[str, str], int] = {}
    for cell in sorted(cells, key=lambda c: (word_rank(c.word), c.word)):
        key = cell.word, known_verdict(cell.verdict)
        counts[key] = counts.get(key, 0) + 1
    return tuple((word, verdict, count) for (word, verdict), count in counts.items())


def _worst(cells: Sequence[Cell]) -> str:
    worst = min(cells, key=lambda c: word_rank(c.word), default=None)
    return known_verdict(worst.verdict) if worst is not None else "not tested"


def _shown(cell: Cell | None) -> Shown | None:
    if cell is None:
        return None
    parts = [f"{cell.test} on {cell.unit}: {cell.word}, {cell.checks:,} checks"]
    if cell.elapsed_s:
        parts.append(f"in {cell.elapsed_s:.3g} s")
    if cell.oracle:
        parts.append(f"oracle {cell.oracle}")
    if cell.findings:
        parts.append(f"{cell.findings} failures")
    if cell.reason:
        parts.append(cell.reason)
    return Shown(cell.word, known_verdict(cell.verdict),
                 compact(cell.checks) if cell.checks else "", "; ".join(parts))


def _proofs(sweep: Sweep, cells: Sequence[Cell], tests: Sequence[str]) -> list[Proof]:
    declared = {test.name: test for test in sweep.tests}
    rows = {row.test: row for row in test_rows(cells)}
    proofs = []
    for name in dict.fromkeys((*tests, *declared)):
        row = rows.get(name)
        passed = [c for c in cells if c.test == name and c.verdict == CLEAN]
        proofs.append(Proof(
            name=name, declared=declared.get(name),
            verdict=known_verdict(row.verdict) if row is not None else "not tested",
            outcome=row.text if row is not None else "not run",
            powers=tuple(dict.fromkeys(power_of(c.oracle) for c in passed)),
            canary=sweep.canaries.get(name, "not known")))
    return proofs


def _kinds(units: Sequence[SweptUnit], max_rows: int) -> tuple[Kind, ...]:
    kinds = []
    for name in dict.fromkeys(unit.kind for unit in units):
        here = [unit for unit in units if unit.kind == name]
        shared, rest = facts_of_units(here)
        rows = [(unit.id, unit.name, facts_text(facts))
                for unit, facts in zip(here, rest, strict=True)]
        kinds.append(Kind(name, facts_text(shared), tuple(rows[:max_rows]),
                          max(0, len(rows) - max_rows)))
    return tuple(kinds)
