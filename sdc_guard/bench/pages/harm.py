"""Which faults changed a training that nobody watched, and who missed those."""

from __future__ import annotations

from collections.abc import Iterable

from sdc_guard.bench.benchfile import BenchFile, numbers
from sdc_guard.bench.cells import Cell, Harm
from sdc_guard.bench.pages.detail import faults_of
from sdc_guard.bench.pages.names import NOT_MEASURED, detectors, label
from sdc_guard.bench.pages.tally import Share, fault_key, measured, of_detector
from sdc_guard.bench.pages.text import counted, table

LARGE = 0.01
"""A change of the held-out loss, in its unit, that is told apart."""


def _key(harm: Harm) -> tuple[str | int, ...]:
    return (harm.workload, harm.dtype, harm.fault, harm.device, harm.seed)


def missed(cells: Iterable[Cell], harms: Iterable[Harm]) -> Share:
    """Harmful faults that the cells' detector missed (as ``found``), among those that it met: equal
    workload, dtype, fault model, device, seed and number."""
    harmful: dict[tuple[str | int, ...], set[int]] = {}
    for harm in harms:
        harmful.setdefault(_key(harm), set()).update(harm.harmful)
    met = lost = 0
    for cell in cells:
        here = harmful.get(fault_key(cell), set())
        met += len(here & numbers(cell.done))
        lost += len(here & numbers(cell.missed))
    return Share(lost, met)


def harm_by_fault(file: BenchFile) -> str:
    """How many faults of each model did harm."""
    kinds = {h.fault: h.kind for h in file.harms}
    rows = []
    for fault in sorted(kinds, key=lambda f: (kinds[f], f)):
        of_fault = [h for h in file.harms if h.fault == fault]
        num = sum(len(h.changes) for h in of_fault)
        rows.append([fault, kinds[fault],
                     counted(sum(len(h.harmful) for h in of_fault), num),
                     str(sum(c is not None and abs(c) > LARGE
                             for h in of_fault for c in h.changes.values())),
                     str(sum(c is None for h in of_fault for c in h.changes.values()))])
    return table(["fault model", "kind", "harmful", f"of these: by more than {LARGE:g}",
                  "of these: loss no number"], rows)


def harm_by_detector(file: BenchFile) -> str:
    """Harmful faults that each detector missed, by kind."""
    kinds = list(dict.fromkeys(kind for kind, _ in faults_of(file.cells)))
    kinds = [k for k in kinds if any(h.kind == k for h in file.harms)]
    rows = []
    for name in detectors(measured(file)):
        cells = of_detector(file, name).cells
        row = [label(name)]
        for kind in kinds:
            found = missed((c for c in cells if c.kind == kind), file.harms)
            row.append(f"{found.found} of {found.num}" if found.num else NOT_MEASURED)
        rows.append(row)
    return table(["detector", *(f"{kind}: harmful ones missed" for kind in kinds)], rows)


def noise_lines(file: BenchFile) -> list[str]:
    """What counts as harm, for each workload and dtype."""
    found: dict[tuple[str, str, int], Harm] = {}
    for harm in file.harms:
        place = (harm.workload, harm.dtype, harm.num_steps)
        if place not in found or harm.noise > found[place].noise:
            found[place] = harm
    return [f"- {workload}, {dtype}: held-out loss after {steps} steps changed by more than "
            f"{harm.noise:.3g} (the largest change in {harm.num_controls} runs that differ in "
            f"the last bit of one weight; loss without a fault {harm.clean_loss:.4g})"
            for (workload, dtype, steps), harm in sorted(found.items())]
