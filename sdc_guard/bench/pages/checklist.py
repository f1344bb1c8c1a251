"""What the benchmark must show of ours with every call checked, and whether it does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sdc_guard.bench.benchfile import BenchFile
from sdc_guard.bench.cells import FIRM, Cell, CleanCell
from sdc_guard.bench.pages.names import ALL, NOT_MEASURED, budget_of, dtype_of, is_demo_gpt, label
from sdc_guard.bench.pages.summary import Comparison, comparisons
from sdc_guard.bench.pages.tally import (
    Share,
    added,
    best_costs,
    false_alarms,
    groups,
    num_distinct,
    share,
)
from sdc_guard.bench.pages.text import counted, per_million, percent, ratio, table
from sdc_guard.intervals import proportion

MIN_FAULTS = 20_000
MIN_TRANSIENT, MIN_LASTING, MAX_COST = 0.999, 0.99, 2.5
ABOVE_TWICE = frozenset({"2 to 100", "above 100", "not finite"})
"""Sizes of faults that are larger than twice the operator's bound."""
MAX_REASONS = 3
MAX_LINES = 12
"""Shortfalls that are shown unfolded."""


@dataclass(frozen=True)
class Check:
    """A row of the list; ``met`` is None where nothing was measured."""

    what: str
    required: str
    measured: str
    met: bool | None
    short: tuple[str, ...] = ()

    @property
    def result(self) -> str:
        return NOT_MEASURED if self.met is None else "met" if self.met else "**not met**"


def checks(file: BenchFile) -> list[Check]:
    """The requirements on what one device measured."""
    ours = [c for c in file.cells if budget_of(c.detector) == ALL and is_demo_gpt(c.workload)]
    found = [_amount(file)]
    for dtype in ("fp32", "bf16"):
        cells = [c for c in ours if dtype_of(c.dtype) == dtype]
        found += [_transient(cells, dtype), *_lasting(cells, dtype),
                  _no_alarms(f"demo GPT {dtype}, every call checked", [
                      c for c in file.clean if budget_of(c.detector) == ALL
                      and is_demo_gpt(c.workload) and dtype_of(c.dtype) == dtype])]
    found.append(_no_alarms("every workload and budget of ours", [
        c for c in file.clean if budget_of(c.detector) is not None]))
    found += [_cost(file, "fp32"), _cost(file, "bf16")]
    found += [_ahead(file, kind) for kind in ("transient", "repeated", "deterministic")]
    return found


def _amount(file: BenchFile) -> Check:
    num = sum(c.injected for c in file.cells)
    return Check("injected faults, summed over detectors", f">= {MIN_FAULTS}",
                 f"{num} ({num_distinct(file.cells)} different ones)" if num else NOT_MEASURED,
                 num >= MIN_FAULTS if num else None)


def _transient(cells: Sequence[Cell], dtype: str) -> Check:
    cells = [c for c in cells if c.kind == "transient"]
    what = f"transient faults found, any size, any op class, demo GPT {dtype}"
    required = f">= {percent(MIN_TRANSIENT)} in each"
    total = share(cells)
    if not total.num:
        return Check(what, required, NOT_MEASURED, None)
    by_group = groups(cells)
    lowest = [("op class", *_lowest(by_group, 0)), ("size", *_lowest(by_group, 1))]
    text = f"{counted(total.found, total.num, 2)}; " + "; ".join(
        f"lowest {name}: {which} {percent(s.value, 2)}" for name, which, s in lowest)
    met = all(s.value >= MIN_TRANSIENT for s in (total, *(s for _, _, s in lowest)))
    return Check(what, required, text, met, _shortfalls(cells, MIN_TRANSIENT))


def _lowest(by_group: dict[tuple[str, str], Share], place: int) -> tuple[str, Share]:
    names = sorted({group[place] for group in by_group})
    shares = [(name, added(s for g, s in by_group.items() if g[place] == name)) for name in names]
    return min(shares, key=lambda item: item[1].value)


def _lasting(cells: Sequence[Cell], dtype: str) -> Iterable[Check]:
    required = f">= {percent(MIN_LASTING)}"
    repeated = [c for c in cells if c.kind == "repeated"]
    yield _of_share(f"repeated faults bound to a place found, demo GPT {dtype}", required,
                    repeated, share(repeated), lambda size: True)
    buggy = [c for c in cells if c.kind == "deterministic"]
    large = added(s for (_, size), s in groups(buggy).items() if size in ABOVE_TWICE)
    yield _of_share(f"deterministic kernel faults above twice the bound found, demo GPT {dtype}",
                    required, buggy, large, lambda size: size in ABOVE_TWICE)


def _of_share(
    what: str, required: str, cells: Sequence[Cell], total: Share, counts: Callable[[str], bool]
) -> Check:
    if not total.num:
        return Check(what, required, NOT_MEASURED, None)
    met = total.value >= MIN_LASTING
    return Check(what, required, counted(total.found, total.num, 2), met,
                 _shortfalls(cells, MIN_LASTING, counts))


def _shortfalls(
    cells: Iterable[Cell], least: float, counts: Callable[[str], bool] = lambda size: True
) -> tuple[str, ...]:
    """A line for each dtype, fault, op class and size whose share is too small, with reasons."""
    lines = []
    for cell in cells:
        for (op_class, size), found in groups([cell]).items():
            if found.value >= least or not counts(size):
                continue
            reasons = Counter(t.why or t.outcome for t in cell.examples
                              if t.outcome != FIRM and (t.op_class, t.size) == (op_class, size))
            why = "; ".join(f"{reason} ({n})" for reason, n in reasons.most_common(MAX_REASONS))
            lines.append(f"{cell.dtype}, {cell.fault}, {op_class}, size {size}: found "
                         f"{found.found} of {found.num}. Why: {why or 'no reason was recorded'}")
    return tuple(lines)


def _no_alarms(where: str, runs: Sequence[CleanCell]) -> Check:
    what = f"false alarms, {where}"
    found = false_alarms(runs)
    if not found.num:
        return Check(what, "0", NOT_MEASURED, None)
    rate = (f", {per_million(proportion(found.found, found.num))} per million"
            if found.found <= found.num else "")
    return Check(what, "0", f"{found.found} in {found.num} checks{rate}", found.found == 0,
                 tuple(f"false alarm, {label(run.detector)}, {run.workload}, {run.dtype}: {text}"
                       for run in runs for text in run.examples))


def _cost(file: BenchFile, dtype: str) -> Check:
    limit = MAX_COST if dtype == "fp32" else None
    what = f"cost of a step, demo GPT {dtype}"
    required = f"<= {limit}" if limit else "measured"
    costs = best_costs(c for c in file.costs if budget_of(c.detector) == ALL
                       and is_demo_gpt(c.workload) and dtype_of(c.dtype) == dtype)
    if not costs:
        return Check(what, required, NOT_MEASURED, None)
    cost = next(iter(costs.values()))
    met = limit is None or cost.total_ratio.value <= limit
    return Check(what, required, f"{ratio(cost.total_ratio)}, {cost.num_threads} thread"
                 f"{'' if cost.num_threads == 1 else 's'}", met,
                 () if met else (f"cost, {dtype}: {ratio(cost.total_ratio)} is above {limit}",))


def _ahead(file: BenchFile, kind: str) -> Check:
    what = f"ahead of every other detector at its cost, {kind} faults"
    required = "as large a share or larger"
    found = comparisons(file, kind)
    if not found:
        return Check(what, required, NOT_MEASURED, None)
    behind = [c for c in found if not c.ahead]
    return Check(what, required, f"{len(found) - len(behind)} of {len(found)} detectors",
                 not behind, tuple(_behind(c, kind) for c in behind))


def _behind(found: Comparison, kind: str) -> str:
    rival, ours = found.rival, found.ours
    told = (f"{kind} faults: {rival.detector} finds {counted(rival.share.found, rival.share.num)} "
            f"at {ratio(rival.cost)}; ")
    if ours is None:
        return told + "none of our settings costs as little"
    mine, theirs = ours.share.interval, rival.share.interval
    overlap = mine is not None and theirs is not None and mine.high >= theirs.low
    return (f"{told}{label(ours.detector)} finds {counted(ours.share.found, ours.share.num)} at "
            f"{ratio(ours.cost)}" + (" (the intervals overlap)" if overlap else ""))


def checklist(file: BenchFile) -> str:
    """The list as a table, and below it every cell that falls short with its reason."""
    rows = checks(file)
    text = table(["requirement", "required", "measured", "result"],
                 [[c.what, c.required, c.measured, c.result] for c in rows], left=range(4))
    short = list(dict.fromkeys(line for c in rows for line in c.short))
    if not short:
        return text
    lines = "\n".join(f"- {line}" for line in short)
    told = "below what is required, and why:"
    if len(short) <= MAX_LINES:
        return f"{text}\n\nCells {told}\n\n{lines}"
    return (f"{text}\n\n<details><summary>{len(short)} cells {told}</summary>\n\n{lines}\n\n"
            "</details>")
