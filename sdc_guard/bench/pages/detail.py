"""Detection by fault model, operator class, size, workload and dtype, one fold per detector."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from sdc_guard.bench.benchfile import BenchFile
from sdc_guard.bench.cells import KINDS, SIZES, Cell, CleanCell
from sdc_guard.bench.pages.names import (
    DEVICES,
    DTYPES,
    NOT_MEASURED,
    detectors,
    device_of,
    dtype_of,
    label,
    workloads,
)
from sdc_guard.bench.pages.tally import (
    Share,
    added,
    best_costs,
    groups,
    measured,
    num_distinct,
    of_detector,
    share,
)
from sdc_guard.bench.pages.text import percent, ratio, table


def _short(found: Share | None) -> str:
    return "" if found is None or not found.num else f"{percent(found.value)}, n={found.num}"


def faults_of(cells: Iterable[Cell]) -> list[tuple[str, str]]:
    """(kind, fault model) of these cells, in the order of kinds."""
    return sorted({(c.kind, c.fault) for c in cells},
                  key=lambda f: (KINDS.index(f[0]) if f[0] in KINDS else len(KINDS), f[1]))


def _by(cells: Sequence[Cell], place: int, columns: Sequence[str]) -> str:
    rows = []
    for kind, fault in faults_of(cells):
        of_fault = groups(c for c in cells if (c.kind, c.fault) == (kind, fault))
        rows.append([fault, kind, *(
            _short(added(s for g, s in of_fault.items() if g[place] == name))
            for name in columns)])
    return table(["fault model", "kind", *columns], rows)


def _by_workload(cells: Sequence[Cell]) -> str:
    places = sorted({(c.workload, c.dtype) for c in cells})
    rows = [[fault, kind, *(_short(share(
        c for c in cells if (c.kind, c.fault, c.workload, c.dtype) == (kind, fault, *place)))
        for place in places)] for kind, fault in faults_of(cells)]
    return table(["fault model", "kind", *(f"{w}, {d}" for w, d in places)], rows)


def detector_folds(file: BenchFile) -> str:
    """Three tables for each detector; an empty cell is one in which no fault fell."""
    parts = []
    for name in detectors(measured(file)):
        cells = of_detector(file, name).cells
        title = escape(label(name), quote=False)
        if not any(c.injected for c in cells):
            parts.append(f"{label(name)}: {NOT_MEASURED}.")
            continue
        classes = sorted({op_class for op_class, _ in groups(cells)})
        sizes = [s for s in SIZES if any(s == size for _, size in groups(cells))]
        parts.append("\n\n".join([
            f"<details><summary>{title}: {sum(c.injected for c in cells)} faults</summary>",
            "By operator class:", _by(cells, 0, classes),
            "By size of the largest error, in units of the operator's bound:",
            _by(cells, 1, sizes), "By workload and dtype:", _by_workload(cells), "</details>"]))
    return "\n\n".join(parts)


def cost_table(file: BenchFile) -> str:
    """The ratio of totals of each detector on each workload, one thread where it was measured."""
    names = detectors(measured(file))
    by_name = {name: best_costs(of_detector(file, name).costs) for name in names}
    places = sorted({place for costs in by_name.values() for place in costs})
    rows = [[label(name), *(
        ratio(costs[place].total_ratio) if place in costs else NOT_MEASURED for place in places)]
        for name, costs in by_name.items()]
    return table(["detector", *(f"{w}, {d}" for w, d in places)], rows)


def _place(item: Cell | CleanCell) -> tuple[str, str, str]:
    return device_of(item.device), item.workload, dtype_of(item.dtype)


def matrix(file: BenchFile) -> str:
    """What was run where, and which detectors were not."""
    names = detectors(measured(file))
    rows = []
    found = {c.workload for c in file.cells} | {c.workload for c in file.clean}
    for device in DEVICES:
        for workload in workloads(found):
            for dtype in DTYPES:
                place = (device, workload, dtype)
                cells = [c for c in file.cells if _place(c) == place]
                num_checks = sum(c.num_checks for c in file.clean if _place(c) == place)
                missing = [label(n) for n in names
                           if not any(c.detector == n and c.injected for c in cells)]
                rows.append([
                    workload, dtype, "CUDA" if device == "cuda" else "CPU",
                    f"{sum(c.injected for c in cells)} ({num_distinct(cells)} different)"
                    if cells else NOT_MEASURED,
                    str(num_checks) if num_checks else NOT_MEASURED,
                    "all" if len(missing) == len(names) else ", ".join(missing) or "none"])
    return table(["workload", "dtype", "device", "injected faults", "checks without a fault",
                  "detectors not measured here"], rows, left=(0, 1, 2, 5))
