"""The matrix as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sdc_guard.bench.cells import ranges
from sdc_guard.bench.pages.text import bracket, code, percent, table
from sdc_guard.bench.sweep.blame import NOT_REACHED, WORDS
from sdc_guard.bench.sweep.checklist import checklist, flips, joint, lapses
from sdc_guard.bench.sweep.counts import RIVAL, SWEEP, Cell, MatrixFile, Tested, total
from sdc_guard.bench.sweep.kinds import KINDS, When
from sdc_guard.bench.sweep.reach import NEVER_SEEN, out_of_reach
from sdc_guard.intervals import wilson

YES, NO, OPEN = "yes", "**no**", "not measured"
INTRODUCTION = """\
No faulty hardware has been available: every rate here is for *injected* faults. A fault changes
results in place between computation and comparison, in the real visit of a worker, and follows its
kind: what it changes, and when. A trial counts as *found* at the first miscompare.

Cells give the share of trials that were found, in percent, with Wilson's 95 % interval. Where a
fault did not change any bit within the dwell time, it was not *reached*; then the cell also says
how many of the reached ones were found. Waiting is not acted out: whether a rare fault comes within
the dwell time is drawn from the number of runs, or elements, that a clean visit of that length
made. Trial n of a kind is the same fault for everything tested; "whole sweep" counts it once,
however many tests find it."""


def render(file: MatrixFile) -> str:
    """The page."""
    parts = ["# The sweep against injected faults", INTRODUCTION, _stamp(file),
             "## What it must show", _claims(file),
             "## The whole sweep and its rivals", _rivals(file),
             "## Families", _families(file),
             "## Blame", _blame(file),
             "## Bit positions", _bits(file),
             "## Where it is blind", _blind(file),
             "## What was tested", _tested(file)]
    return "\n\n".join(parts) + "\n"


def _stamp(file: MatrixFile) -> str:
    s = file.stamp
    return "\n".join([
        f"- Command: {'; '.join(code(c) for c in s.commands)}",
        f"- Commit: {', '.join(s.commits)}; seed {s.seed}",
        f"- Machine: {s.processor}, {s.instruction_set}, {s.num_cores} cores, load {s.load:.1f}; "
        f"torch {s.torch}, NumPy {s.numpy}, Python {s.python}",
        f"- Dwell: each test has its share of {file.budget_s:g} s, a rival has all of it"])


def _claims(file: MatrixFile) -> str:
    words = {True: YES, False: NO, None: OPEN}
    return table(("claim", "met", "measured"),
                 [(c.text, words[c.is_met], c.figures) for c in checklist(file)], left=(0, 1, 2))


def _cell(num: int, reached: int, found: int) -> str:
    if not num:
        return ""
    interval = wilson(found, num)
    text = f"{percent(interval.value, 0).removesuffix(' %')} {bracket(interval, 0)}"
    return text if reached == num else f"{text}, {found} of {reached} reached"


def _by(cells: Iterable[Cell]) -> dict[tuple[str, str], Cell]:
    return {(c.column, c.kind): c for c in cells}


def _rivals(file: MatrixFile) -> str:
    sweep = {c.name for c in file.columns if c.group == SWEEP}
    rivals = [c.name for c in file.columns if c.group == RIVAL]
    known = _by(file.cells)
    rows = []
    for kind in KINDS:
        ours = [c for c in file.cells if c.kind == kind and c.column in sweep]
        row = [_cell(*joint(ours))]
        for rival in rivals:
            cell = known.get((rival, kind))
            row.append(_cell(cell.num, cell.num_reached, cell.num_found) if cell else "")
        rows.append((kind, *row))
    return table(("fault", "whole sweep", *rivals), rows)


def _families(file: MatrixFile) -> str:
    heads: dict[tuple[str, str], list[str]] = {}
    for column in sorted((c for c in file.columns if c.group == SWEEP), key=_order):
        heads.setdefault((column.family, column.oracle), []).append(column.name)
    known = _by(file.cells)
    rows = []
    for kind in KINDS:
        row = []
        for (_, oracle), names in heads.items():
            cells = [known[n, kind] for n in names if (n, kind) in known]
            mark = " (blind)" if cells and out_of_reach(KINDS[kind], oracle) else ""
            row.append(_cell(*total(cells)) + mark)
        rows.append((kind, *row))
    return ("Tests of a family together, trial by trial; empty where the kind means nothing to its "
            "formats.\n\n" + table(("fault", *(f"{f} {o}" for f, o in heads)), rows))


def _order(column: Tested) -> tuple[int, str, str]:
    return int(column.family[1:]), column.oracle, column.name


def _blame(file: MatrixFile) -> str:
    groups: dict[tuple[str, int, str], dict[str, int]] = {}
    for blame in file.blames:
        form = "comes and goes"
        if KINDS[blame.kind].is_same_always:
            form = "the same on all units" if blame.all_alike else "same always"
        counts = groups.setdefault((blame.oracle, blame.num_units, form), {})
        for word, num in blame.words.items():
            counts[word] = counts.get(word, 0) + num
    rows = []
    for (oracle, units, form), counts in sorted(groups.items()):
        num = sum(counts.values()) - counts.get(NOT_REACHED, 0)
        rows.append((oracle, str(units), form, str(num), *(
            _share(counts.get(word, 0), num) for word in WORDS if word != NOT_REACHED)))
    return ("One of the units has the fault (stuck per core); all of them make the visit, and what "
            "they send is decided as in a sweep. `peers` has no golden digest.\n\n" + table(
                ("answer", "units", "fault", "trials", *(w for w in WORDS if w != NOT_REACHED)),
                rows, left=(0, 2)))


def _share(count: int, num: int) -> str:
    if not num:
        return ""
    interval = wilson(count, num)
    return f"{percent(interval.value)} {bracket(interval)}"


def _bits(file: MatrixFile) -> str:
    rows = [(dtype, f"{len(bits)}", _ranges(sorted(bits)), f"{sum(r for r, _ in bits.values())}",
             f"{sum(f for _, f in bits.values())}") for dtype, bits in sorted(flips(file).items())]
    return ("Single flips within reach, over all tests. Position 0 is the lowest.\n\n" + table(
        ("format", "positions", "which", "flipped", "found"), rows, left=(0, 2)))


def _ranges(bits: Sequence[int]) -> str:
    return ", ".join(f"{a} to {b - 1}" if b - a > 1 else str(a) for a, b in ranges(bits))


def _blind(file: MatrixFile) -> str:
    tested = {c.name: c for c in file.columns if c.group == SWEEP}
    cells = [c for c in file.cells if c.column in tested]
    lines = [f"- {text}" for text in NEVER_SEEN]
    reasons: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        reason = out_of_reach(KINDS[cell.kind], tested[cell.column].oracle)
        if reason and cell.num_found < cell.num_reached:
            reasons.setdefault((cell.column, reason), []).append(cell)
    for (column, reason), found in sorted(reasons.items()):
        _, reached, seen = total(found)
        lines.append(f"- {column}: {reason}: {seen} of {reached} found, in {len(found)} kinds.")
    lines += [f"- {c.column}, {c.kind}: {c.num_found} of {c.num_reached} found, though it must "
              "find all." for c in lapses(cells, tested)]
    for column in sorted(tested):
        mine = [c for c in cells if c.column == column and c.num_reached < c.num]
        for label, chosen in (
                ("below the dwell time", [c for c in mine if _is_by_chance(c)]),
                ("changes nothing here", [c for c in mine if not _is_by_chance(c)])):
            if chosen:
                lines.append(f"- {column}, {label}: " + ", ".join(
                    f"{c.kind} ({c.num - c.num_reached} of {c.num})" for c in chosen) + ".")
    return "\n".join(lines)


def _is_by_chance(cell: Cell) -> bool:
    return KINDS[cell.kind].when in (When.RUNS, When.ELEMENTS) and cell.kind.startswith("per ")


def _tested(file: MatrixFile) -> str:
    ours = table(("test, answer", "family", "cases", "runs", "checks", "false alarms"),
                 [(c.name, c.family, str(c.num_cases), str(c.runs), f"{c.checks:.3g}",
                   str(c.false_alarms)) for c in sorted(
                       (c for c in file.columns if c.group == SWEEP), key=_order)])
    rivals = table(("rival", "compares; here", "runs", "checks"),
                   [(c.name, c.note, str(c.runs), f"{c.checks:.3g}") for c in file.columns
                    if c.group == RIVAL], left=(0, 1))
    missing = "\n".join(f"- {n.test} ({n.family}): {n.reason}" for n in file.not_run)
    return "\n\n".join([
        "Runs and checks of a clean visit of the dwell time.", ours,
        "Rivals, written anew from their descriptions; a tolerance is theirs.", rivals,
        *(["Not tried here:", missing] if missing else [])])
