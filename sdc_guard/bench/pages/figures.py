"""The page's figures: data for :mod:`sdc_guard.render.charts`."""

from __future__ import annotations

from sdc_guard.bench.benchfile import BenchFile
from sdc_guard.bench.cells import SIZES
from sdc_guard.bench.pages.names import ALL, LEADING_BUDGETS, budget_of, detectors, label
from sdc_guard.bench.pages.summary import LASTING, points
from sdc_guard.bench.pages.tally import Share, added, delays, groups, measured, of_detector, share
from sdc_guard.intervals import Interval
from sdc_guard.render.charts import Bar, Curve, Mark, bar_table, frontier, step_curves

LEAST_COST = 0.1
"""Overhead in percent at which smaller and negative ones are drawn."""
FRONTIERS = {
    "transient": ("frontier-transient.svg", "One-off transients: found against cost"),
    "repeated": ("frontier-repeated.svg", "Repeated faults bound to a place: found against cost"),
    "deterministic": ("frontier-deterministic.svg", "Deterministic faults: found against cost"),
}
DELAY = "delay.svg"
SIZE_BARS = {"sizes-transient.svg": ("transient",), "sizes-lasting.svg": LASTING}


def _short(detector: str) -> str:
    budget = budget_of(detector)
    return "exhaustive" if budget == ALL else label(detector).removeprefix("ours, ")


def _frontier(file: BenchFile, kind: str, title: str) -> str | None:
    marks = []
    for point in points(file, kind):
        def over(ratio: float) -> float:
            return max(LEAST_COST, 100 * (ratio - 1))

        interval = point.share.interval or Interval(value=0, low=0, high=1, confidence=0)
        marks.append(Mark(
            name=_short(point.detector), joined=budget_of(point.detector) is not None,
            x=over(point.cost.value), x_low=over(point.cost.low), x_high=over(point.cost.high),
            y=point.share.value, y_low=interval.low, y_high=interval.high))
    if not marks:
        return None
    high = max(200.0, *(1.3 * m.x_high for m in marks))
    return frontier(
        marks, title=title,
        text="Discs: ours by budget; line: our best at this cost or less. Squares: others. Thin "
             "lines: 95 % intervals. Up and left is better.",
        x_label=f"overhead of a training step ({LEAST_COST:g} % or less at the left edge)",
        y_label="share of faults found", low=LEAST_COST, high=high)


def _delay(file: BenchFile) -> str | None:
    curves, last = [], 2
    wanted = [*LEADING_BUDGETS, ALL]
    for name in detectors(measured(file)):
        cells = [c for c in of_detector(file, name).cells if c.kind in LASTING and c.injected]
        if budget_of(name) not in wanted or not cells:
            continue
        total, reached = share(cells).num, 0
        last = max(last, *(c.max_steps for c in cells))
        steps = []
        for step, count in sorted(delays(cells).items()):
            reached += count
            steps.append((float(step), reached / total))
        if not steps or steps[0][0] > 1:
            steps.insert(0, (1.0, 0.0))
        curves.append(Curve(label(name), steps))
    if not curves:
        return None
    return step_curves(
        curves, title="Steps until a repeated or deterministic fault is found",
        text=f"Share of faults found within so many training steps; a trial ends after at most "
             f"{last}.",
        x_label="training steps since the fault began (1: its own step)",
        y_label="share of faults found", high=last)


def _sizes(file: BenchFile, kinds: tuple[str, ...]) -> str | None:
    rows: list[tuple[str, list[Bar | None]]] = []
    held = {name: groups(c for c in of_detector(file, name).cells if c.kind in kinds)
            for name in detectors(measured(file))}
    sizes = [s for s in SIZES if any(s == size for found in held.values() for _, size in found)]
    for name, found in held.items():
        shares = [added(s for (_, size), s in found.items() if size == wanted) for wanted in sizes]
        if found:
            rows.append((label(name), [_bar(s) for s in shares]))
    if not rows:
        return None
    what = "one-off transients" if kinds == ("transient",) else "repeated and deterministic faults"
    return bar_table(
        rows, sizes, title=f"Found by size: {what}",
        text="Size of a fault's largest error in units of the operator's rounding bound.",
        num_leading=sum(label(name).startswith("ours,") for name in held if held[name]))


def _bar(found: Share) -> Bar | None:
    return Bar(found.value, found.num) if found.num else None


def figures(file: BenchFile) -> dict[str, str]:
    """SVG by file name; a figure for which nothing was measured is left out."""
    made = {name: _frontier(file, kind, title) for kind, (name, title) in FRONTIERS.items()}
    made[DELAY] = _delay(file)
    made |= {name: _sizes(file, kinds) for name, kinds in SIZE_BARS.items()}
    return {name: svg for name, svg in made.items() if svg is not None}
