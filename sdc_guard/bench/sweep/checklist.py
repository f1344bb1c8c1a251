"""What the matrix must show, and whether it does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sdc_guard.bench.benchfile import numbers
from sdc_guard.bench.pages.text import bracket
from sdc_guard.bench.sweep.blame import MISSED, NOT_REACHED, OPEN, WRONG
from sdc_guard.bench.sweep.columns import EXACT, PEERS
from sdc_guard.bench.sweep.counts import SWEEP, Blame, Cell, MatrixFile, Tested, total
from sdc_guard.bench.sweep.kinds import KINDS
from sdc_guard.bench.sweep.reach import out_of_reach
from sdc_guard.intervals import wilson
from sdc_guard.sweep.exact import LAYOUTS

MIN_TRIALS = 30


@dataclass(frozen=True)
class Claim:
    """One line of the checklist; ``is_met`` is None where nothing was measured."""

    text: str
    is_met: bool | None
    figures: str


def checklist(file: MatrixFile) -> list[Claim]:
    """Every claim."""
    tested = {c.name: c for c in file.columns if c.group == SWEEP}
    cells = [c for c in file.cells if c.column in tested]
    return [_found(cells, tested), _clean(tested.values()), _not_wrong(file.blames),
            _ambiguous(file.blames), _bits(file), _enough(file.cells)]


def counted(count: int, num: int) -> str:
    """``30 of 30, 100 % [88.6, 100]`` with Wilson's interval."""
    if not num:
        return "not measured"
    interval = wilson(count, num)
    return f"{count} of {num}, {bracket(interval)} %"


def lapses(cells: Iterable[Cell], tested: dict[str, Tested]) -> Iterator[Cell]:
    """Cells that must find every reached fault and do not."""
    for cell in cells:
        if cell.num_found < cell.num_reached and not out_of_reach(
                KINDS[cell.kind], tested[cell.column].oracle):
            yield cell


def _found(cells: list[Cell], tested: dict[str, Tested]) -> Claim:
    due = [c for c in cells if not out_of_reach(KINDS[c.kind], tested[c.column].oracle)]
    _, reached, found = total(due)
    return Claim("Every fault that changes a bit within the dwell time, of a kind within the "
                 "test's reach, is found", found == reached if reached else None,
                 counted(found, reached))


def _clean(tested: Iterable[Tested]) -> Claim:
    # Answers of one test may come from the same visit, which counts once.
    listed = list({(c.name.rpartition(",")[0], c.runs, c.checks): c for c in tested}.values())
    alarms, checks = sum(c.false_alarms for c in listed), sum(c.checks for c in listed)
    return Claim("Visits without a fault say nothing", alarms == 0 if listed else None,
                 f"{alarms} miscompares in {checks:.3g} checks")


def _not_wrong(blames: Iterable[Blame]) -> Claim:
    exact = [b for b in blames if b.oracle == EXACT and not b.all_alike]
    num = sum(b.num - b.words.get(NOT_REACHED, 0) for b in exact)
    wrong = sum(b.words.get(WRONG, 0) for b in exact)
    return Claim("With an exact answer no sound unit is blamed", wrong == 0 if num else None,
                 counted(wrong, num))


def _ambiguous(blames: Iterable[Blame]) -> Claim:
    two = [b for b in blames if b.oracle == PEERS and b.num_units == 2
           and not b.all_alike and KINDS[b.kind].is_same_always]
    num = sum(b.num - b.words.get(NOT_REACHED, 0) - b.words.get(MISSED, 0) for b in two)
    said = sum(b.words.get(OPEN, 0) for b in two)
    return Claim("Two units that differ always, with no outside answer, are AMBIGUOUS",
                 said == num if num else None, counted(said, num))


def flips(file: MatrixFile) -> dict[str, dict[int, tuple[int, int]]]:
    """By format and bit position, how often tests of the sweep had that one bit flipped within
    their reach, and how often they found it."""
    oracles = {c.name: c.oracle for c in file.columns if c.group == SWEEP}
    struck: dict[str, dict[int, tuple[int, int]]] = {}
    for cell in file.cells:
        if cell.column not in oracles or out_of_reach(KINDS[cell.kind], oracles[cell.column]):
            continue
        for name, (reached, found) in cell.bits.items():
            dtype, bit = name.split()
            before = struck.setdefault(dtype, {}).get(int(bit), (0, 0))
            struck[dtype][int(bit)] = before[0] + reached, before[1] + found
    return struck


def _bits(file: MatrixFile) -> Claim:
    struck = flips(file)
    missed = [f"{dtype} {bit}" for dtype, bits in sorted(struck.items())
              for bit, (reached, found) in sorted(bits.items()) if found < reached]
    gaps = [dtype for dtype, bits in sorted(struck.items())
            if dtype in LAYOUTS and len(bits) < LAYOUTS[dtype].num_bits]
    text = f"{sum(map(len, struck.values()))} positions of {len(struck)} formats"
    if gaps:
        text += f"; not every position of {', '.join(gaps)}"
    return Claim("A flip of any bit of a floating format is found",
                 not missed and not gaps if struck else None,
                 text + (f"; missed at {', '.join(missed)}" if missed else ""))


def _enough(cells: Iterable[Cell]) -> Claim:
    listed = list(cells)
    least = min((c.num for c in listed), default=0)
    return Claim(f"At least {MIN_TRIALS} trials in each cell",
                 least >= MIN_TRIALS if listed else None, f"{least} in the smallest")


def joint(cells: list[Cell]) -> tuple[int, int, int]:
    """Trials of a kind, those that any cell reached, and found: what the tests do together.  Trial
    n is the same fault for each; one that a test has not tried yet counts as not found by it."""
    reached = set().union(*(numbers(c.reached) for c in cells))
    found = set().union(*(numbers(c.found) for c in cells))
    return max((c.num for c in cells), default=0), len(reached), len(found)
