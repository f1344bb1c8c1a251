"""A sweep for a terminal: units and tests as a table of words, and what each pass proves."""

from __future__ import annotations

from collections.abc import Sequence

from sdc_guard.document.schema import Cell, Report, Sweep
from sdc_guard.document.text import counted, one_line, shortened
from sdc_guard.document.verdicts import CLEAN
from sdc_guard.render.swept import (
    compact,
    facts_of_units,
    facts_text,
    power_of,
    summary,
    swept_cells,
    test_rows,
)

MAX_TESTS = 24
MAX_NAME_CHARS = 28
MAX_TEXT_CHARS = 600


def sweep_lines(report: Report, sweep: Sweep) -> list[str]:
    """The lines, each with its name before it."""
    cells = swept_cells(report)
    lines = [f"sweep       {line}" for line in summary(report, sweep)]
    lines += _units(sweep)
    lines += _table(cells)
    lines += _proofs(cells, sweep)
    return lines


def _units(sweep: Sweep) -> list[str]:
    """What units of a kind share stands once."""
    lines = []
    for kind in dict.fromkeys(unit.kind for unit in sweep.units):
        units = [unit for unit in sweep.units if unit.kind == kind]
        shared, _ = facts_of_units(units)
        text = facts_text(shared or (units[0].facts if len(units) == 1 else {}))
        lines.append(_line("unit", f"{counted(len(units), kind)}: "
                                   + (text or "nothing is known that they share")))
    return lines


def _table(cells: Sequence[Cell]) -> list[str]:
    rows = test_rows(cells)
    lines = [_line("test", f"{_short(row.test)}: {row.text}; {compact(row.checks)} checks")
             for row in rows[:MAX_TESTS]]
    if len(rows) > MAX_TESTS:
        lines.append(_line("test", f"and {counted(len(rows) - MAX_TESTS, 'more test')}"))
    return lines


def _proofs(cells: Sequence[Cell], sweep: Sweep) -> list[str]:
    """What the passes here could see, and what those of each test prove and cannot prove."""
    passed: dict[str, set[str]] = {}
    for cell in cells:
        if cell.verdict == CLEAN:
            passed.setdefault(power_of(cell.oracle), set()).add(cell.test)
    lines = [_line("passed", f"{counted(len(tests), 'test')} by {power}")
             for power, tests in passed.items()]
    names = {test for tests in passed.values() for test in tests}
    for test in sweep.tests[:MAX_TESTS]:
        if test.name in names:
            lines.append(_line("proves", f"{_short(test.name)}: {test.proves} But: "
                                         f"{test.cannot_prove}"))
    return lines


def _line(head: str, text: str) -> str:
    return f"{head:<12}{shortened(one_line(text), MAX_TEXT_CHARS)}"


def _short(name: str) -> str:
    return shortened(one_line(name), MAX_NAME_CHARS)
