"""The first table of the page, and the frontier's points: what each detector finds for its cost."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from sdc_guard.bench.benchfile import BenchFile
from sdc_guard.bench.cells import OUTCOMES, Cell, Cost
from sdc_guard.bench.pages.names import (
    NOT_MEASURED,
    budget_of,
    detectors,
    dtype_of,
    is_demo_gpt,
    label,
)
from sdc_guard.bench.pages.tally import (
    Share,
    best_costs,
    delays,
    false_alarms,
    fault_key,
    mean_ratio,
    measured,
    of_detector,
    quantile,
    share,
    wrong_causes,
)
from sdc_guard.bench.pages.text import counted, per_million, percent, ratio, table
from sdc_guard.intervals import Interval, proportion

LASTING = ("repeated", "deterministic")
HEAD = ("detector", "cost, demo GPT fp32", "cost, all workloads", "one-off transients found",
        "repeated found", "deterministic found", "steps until found: median / 90 %",
        "false alarms per million checks", "wrong cause")


def first_table(file: BenchFile) -> str:
    """One row a detector, our leading budgets first; ``file`` holds one device."""
    return table(HEAD, [_row(file, name) for name in detectors(measured(file))])


def _row(file: BenchFile, detector: str) -> list[str]:
    own = of_detector(file, detector)
    costs = best_costs(own.costs)
    demo = [c for (workload, dtype), c in costs.items()
            if is_demo_gpt(workload) and dtype_of(dtype) == "fp32"]
    kinds = [[c for c in own.cells if c.kind == kind] for kind in ("transient", *LASTING)]
    return [label(detector), ratio(demo[0].total_ratio if demo else None),
            _mean(list(costs.values())),
            *(counted(s.found, s.num) for s in map(share, kinds)), _delay(kinds[1] + kinds[2]),
            alarms(false_alarms(own.clean)), _wrong(own.cells)]


def _mean(costs: list[Cost]) -> str:
    found = mean_ratio(costs)
    return NOT_MEASURED if found is None else f"{ratio(found)}, n={len(costs)}"


def _delay(cells: list[Cell]) -> str:
    found = delays(cells)
    if not share(cells).num:
        return NOT_MEASURED
    if not found:
        return "none found"
    limit = max(c.max_steps for c in cells)
    return f"{quantile(found, 0.5)} / {quantile(found, 0.9)} of at most {limit}"


def alarms(found: Share) -> str:
    """False alarms per million checks with their interval."""
    if not found.num:
        return NOT_MEASURED
    if found.found > found.num:
        return f"{found.found} in {found.num} checks"
    return per_million(proportion(found.found, found.num))


def _wrong(cells: tuple[Cell, ...]) -> str:
    found = wrong_causes(cells)
    if found.num:
        return f"{percent(found.value)}, n={found.num}"
    return "names none" if any(c.injected for c in cells) else NOT_MEASURED


def outcome_table(file: BenchFile) -> str:
    """How trials ended, by detector and kind of fault."""
    rows = []
    for name in detectors(measured(file)):
        cells = of_detector(file, name).cells
        for kind in dict.fromkeys(c.kind for c in cells):
            of_kind = [c for c in cells if c.kind == kind]
            rows.append([label(name), kind, str(share(of_kind).num),
                         *(str(sum(c.with_outcome(o) for c in of_kind)) for o in OUTCOMES),
                         str(sum(c.not_injected for c in of_kind))])
    return table(["detector", "kind of fault", "injected", *OUTCOMES, "without effect"], rows)


@dataclass(frozen=True)
class Point:
    """A detector on the frontier.  ``cost`` is watched over plain time."""

    detector: str
    cost: Interval
    share: Share


def points(
    file: BenchFile, kind: str, only: Set[tuple[str | int, ...]] | None = None
) -> list[Point]:
    """What each detector finds of a kind of fault, and its mean cost on the same workloads and
    dtypes; only on faults with keys in ``only`` where it is given.  Without a measured cost or
    fault there is no point."""
    found = []
    for name in detectors(measured(file)):
        own = of_detector(file, name)
        costs = best_costs(own.costs)
        cells = [c for c in own.cells if c.kind == kind and (c.workload, c.dtype) in costs
                 and (only is None or fault_key(c) in only)]
        cost = mean_ratio([costs[place] for place in sorted({(c.workload, c.dtype)
                                                             for c in cells})])
        if cost is not None and share(cells).num:
            found.append(Point(name, cost, share(cells)))
    return found


@dataclass(frozen=True)
class Comparison:
    """A rival's point, and the best of ours that costs no more, on the faults that both met.

    ``ahead``: ours finds as large a share or a larger one, or the rival finds nothing.
    """

    rival: Point
    ours: Point | None

    @property
    def ahead(self) -> bool:
        if self.rival.share.found == 0:
            return True
        return self.ours is not None and self.ours.share.value >= self.rival.share.value


def comparisons(file: BenchFile, kind: str) -> list[Comparison]:
    """Every rival with a point against the best of ours at its cost or below."""
    found = []
    for rival in points(file, kind):
        if budget_of(rival.detector) is not None:
            continue
        keys = {fault_key(c) for c in file.cells if c.detector == rival.detector}
        ours = [p for p in points(file, kind, keys) if budget_of(p.detector) is not None
                and p.cost.value <= rival.cost.value]
        found.append(Comparison(rival, max(ours, key=lambda p: p.share.value, default=None)))
    return found
