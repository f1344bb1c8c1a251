"""Sums over cells: shares found, delays, wrong causes, false alarms, costs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sdc_guard.bench.benchfile import BenchFile, numbers
from sdc_guard.bench.cells import FIRM, Cell, CleanCell, Cost
from sdc_guard.bench.pages.names import device_of
from sdc_guard.intervals import Interval, proportion

RIGHT_CAUSES = {
    "transient": frozenset({"transient"}),
    "repeated": frozenset({"persistent hardware", "software"}),
    "deterministic": frozenset({"software"}),
}
"""Causes that are right by kind of fault; ``unknown`` is never wrong.  Faults are injected by an
override of a kernel, which is in force on every core of the process: the identical call is wrong
wherever it is repeated, and ``software`` is the truth about it, also where the fault that it stands
for is one of hardware; one that is bound to a core is ``persistent hardware``.  Faults of other
kinds strike no kernel, and no cause is right or wrong there."""
RARE = frozenset({"rare flip"})
"""Repeated faults that show so rarely that ``transient`` is right about them too."""


@dataclass(frozen=True)
class Share:
    """``found`` of ``num`` faults."""

    found: int
    num: int

    @property
    def value(self) -> float:
        return self.found / self.num if self.num else math.nan

    @property
    def interval(self) -> Interval | None:
        return proportion(self.found, self.num) if self.num else None


def share(cells: Iterable[Cell]) -> Share:
    """Firm alarms among the injected faults."""
    held = list(cells)
    return Share(sum(c.with_outcome(FIRM) for c in held), sum(c.injected for c in held))


Group = tuple[str, str]


def groups(cells: Iterable[Cell]) -> dict[Group, Share]:
    """Shares by (operator class, size)."""
    found: Counter[Group] = Counter()
    total: Counter[Group] = Counter()
    for cell in cells:
        for name, outcomes in cell.counts.items():
            op_class, _, size = name.rpartition(" | ")
            found[op_class, size] += outcomes.get(FIRM, 0)
            total[op_class, size] += sum(outcomes.values())
    return {group: Share(found[group], total[group]) for group in sorted(total) if total[group]}


def added(shares: Iterable[Share]) -> Share:
    """One share of all these."""
    held = list(shares)
    return Share(sum(s.found for s in held), sum(s.num for s in held))


def delays(cells: Iterable[Cell]) -> Counter[int]:
    """Steps until the firm alarm, to the number of faults found so."""
    found: Counter[int] = Counter()
    for cell in cells:
        found.update({int(steps): count for steps, count in cell.delays.items()})
    return found


def quantile(counts: Counter[int], level: float) -> int | None:
    """The smallest value that ``level`` of the counted ones do not exceed; None without any."""
    total, reached = sum(counts.values()), 0
    for value in sorted(counts):
        reached += counts[value]
        if reached >= level * total and reached:
            return value
    return None


def wrong_causes(cells: Iterable[Cell]) -> Share:
    """Wrong causes among those named (``found`` are the wrong ones); see :data:`RIGHT_CAUSES`."""
    wrong = num = 0
    for cell in cells:
        right = RIGHT_CAUSES.get(cell.kind)
        if right is None:
            continue
        if cell.fault in RARE:
            right = right | {"transient"}
        num += sum(cell.causes.values())
        wrong += sum(n for cause, n in cell.causes.items()
                     if cause not in right and cause != "unknown")
    return Share(wrong, num)


def false_alarms(clean: Iterable[CleanCell]) -> Share:
    """Alarms (as ``found``) among checks."""
    held = list(clean)
    return Share(sum(c.num_alarms for c in held), sum(c.num_checks for c in held))


def best_costs(costs: Iterable[Cost]) -> dict[tuple[str, str], Cost]:
    """By (workload, dtype) the measurement with the fewest threads, then the most pairs."""
    chosen: dict[tuple[str, str], Cost] = {}
    for cost in sorted(costs, key=lambda c: (c.num_threads, -c.num_pairs, c.seed)):
        chosen.setdefault((cost.workload, cost.dtype), cost)
    return chosen


def mean_ratio(costs: Sequence[Cost]) -> Interval | None:
    """Geometric mean of ratios of totals, and of the ends of their intervals."""
    if not costs:
        return None

    def mean(values: Iterator[float]) -> float:
        return math.exp(math.fsum(math.log(max(v, 1e-9)) for v in values) / len(costs))

    ratios = [cost.total_ratio for cost in costs]
    return Interval(value=mean(r.value for r in ratios), low=mean(r.low for r in ratios),
                    high=mean(r.high for r in ratios), confidence=min(r.confidence for r in ratios))


def on_device(file: BenchFile, device: str) -> BenchFile:
    """What was measured on this kind of device."""
    return BenchFile(
        stamps=file.stamps,
        cells=tuple(c for c in file.cells if device_of(c.device) == device),
        clean=tuple(c for c in file.clean if device_of(c.device) == device),
        costs=tuple(c for c in file.costs if device_of(c.device) == device),
        harms=tuple(h for h in file.harms if device_of(h.device) == device))


def of_detector(file: BenchFile, detector: str) -> BenchFile:
    """What was measured with this detector; harm has none and stays."""
    return BenchFile(
        stamps=file.stamps, cells=tuple(c for c in file.cells if c.detector == detector),
        clean=tuple(c for c in file.clean if c.detector == detector),
        costs=tuple(c for c in file.costs if c.detector == detector), harms=file.harms)


def measured(file: BenchFile) -> set[str]:
    """Names of all detectors in the document."""
    return {c.detector for items in (file.cells, file.clean, file.costs) for c in items}


def fault_key(cell: Cell) -> tuple[str | int, ...]:
    """What cells of two detectors share whose faults are the same, number by number."""
    return (cell.workload, cell.dtype, cell.fault, cell.device, cell.seed)


def num_distinct(cells: Iterable[Cell]) -> int:
    """Different faults, each counted once however many detectors met it."""
    tried: dict[tuple[str | int, ...], set[int]] = {}
    without: Counter[tuple[str | int, ...]] = Counter()
    for cell in cells:
        key = fault_key(cell)
        tried.setdefault(key, set()).update(numbers(cell.done))
        without[key] = max(without[key], cell.not_injected)
    return sum(max(0, len(found) - without[key]) for key, found in tried.items())
