"""The grid of units and tests: which test said what on which piece of hardware."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sdc_guard.document.schema import Cell
from sdc_guard.document.verdicts import CLEAN, SEVERITY
from sdc_guard.render.page.text import short_op

LETTERS = {"corruption": "C", "precision": "P", "nondeterminism": "N", "inconclusive": "?",
           "not tested": "\u2013", CLEAN: "\u2713"}
_ORDER = (*(word for word in SEVERITY if word != "not tested"), "not tested", CLEAN)


@dataclass(frozen=True)
class Column:
    """A test with the worst verdict on any unit."""

    test: str
    name: str
    verdict: str


@dataclass(frozen=True)
class Grid:
    """``rows`` are (unit, its cell for each column or None); ``more_columns`` did not fit."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]
    more_columns: tuple[Column, ...]
    num_more_columns: int
    num_more_units: int
    counts: dict[str, int]
    words: dict[str, dict[str, int]]


def grid_of(cells: Sequence[Cell], *, max_columns: int, max_rows: int) -> Grid:
    """Tests with findings first, then those that decide nothing or were not run, then clean ones;
    units with findings first."""
    tests: dict[str, str] = {}
    units: dict[str, str] = {}
    for cell in cells:
        tests[cell.test] = _worse(tests.get(cell.test), cell.verdict)
        units[cell.unit] = _worse(units.get(cell.unit), cell.verdict)
    order = sorted(tests, key=lambda t: (_rank(tests[t]), t))
    rows = sorted(units, key=lambda u: (_rank(units[u]), u))
    at = {(cell.unit, cell.test): cell for cell in cells}
    columns = [Column(test, short_op(test), tests[test]) for test in order]
    words: dict[str, Counter[str]] = {}
    for cell in cells:
        words.setdefault(known_verdict(cell.verdict), Counter())[cell.word] += 1
    counts = Counter(known_verdict(cell.verdict) for cell in cells)
    return Grid(
        columns=tuple(columns[:max_columns]),
        rows=tuple((unit, tuple(at.get((unit, c.test)) for c in columns[:max_columns]))
                   for unit in rows[:max_rows]),
        more_columns=tuple(columns[max_columns:max_columns * 5]),
        num_more_columns=max(0, len(columns) - max_columns),
        num_more_units=max(0, len(rows) - max_rows),
        counts={word: counts[word] for word in _ORDER if counts[word]},
        words={verdict: dict(found) for verdict, found in words.items()})


def known_verdict(verdict: str) -> str:
    """The verdict; one of a later version is ``inconclusive``."""
    return verdict if verdict in LETTERS else "inconclusive"


def _rank(verdict: str) -> int:
    return _ORDER.index(known_verdict(verdict))


def _worse(old: str | None, new: str) -> str:
    return known_verdict(new) if old is None else min(old, known_verdict(new), key=_rank)
