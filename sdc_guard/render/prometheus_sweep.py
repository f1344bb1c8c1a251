"""Metrics of a sweep, unit by unit: a GPU's with dcgm-exporter's names of labels, so that they join
its series."""

from __future__ import annotations

import math

from sdc_guard.document.schema import Cell, Report, SweptUnit
from sdc_guard.document.sweeps import host_and_name
from sdc_guard.document.verdicts import WORDS
from sdc_guard.render.metric import Labels, Metric, seconds_of
from sdc_guard.render.swept import SWEEP, swept_cells


def sweep_metrics(report: Report) -> tuple[Metric, ...]:
    """Nothing of a document without a sweep.

    Counters are of one sweep, as the whole document is.  ``sdc_guard_sweep_result`` counts a unit's
    tests by word, all words of the sweep being there, so that ``{word="FAIL"} > 0`` is an alert
    that resolves; ``sdc_guard_sweep_test_result`` is 1 for the word that a test has.
    """
    if report.sweep is None:
        return ()
    checks = Metric("sdc_guard_sweep_checks_total", "counter", "Elements compared.")
    num_bytes = Metric("sdc_guard_sweep_bytes_total", "counter",
                       "Bytes of operands and results that were checked.")
    flops = Metric("sdc_guard_sweep_flops_total", "counter",
                   "Floating-point operations whose results were checked.")
    seconds = Metric("sdc_guard_sweep_seconds_total", "counter", "Time spent on a unit's tests.")
    results = Metric("sdc_guard_sweep_result", "gauge", "A unit's tests by word.")
    tests = Metric("sdc_guard_sweep_test_result", "gauge", "1 for the word that a test has.")
    last = Metric("sdc_guard_sweep_last_run_timestamp_seconds", "gauge",
                  "When the sweep of this unit began.")
    is_partial = Metric("sdc_guard_sweep_partial", "gauge",
                        "1 if the sweep ended before its time.")
    units = {unit.id: unit for unit in report.sweep.units}
    begun = _begun(report)
    cells = swept_cells(report)
    for id in dict.fromkeys((*units, *(cell.unit for cell in cells))):
        labels = labels_of(id, units.get(id))
        for word in WORDS[SWEEP]:
            results.add(0, (*labels, ("word", word)))
        host = dict(labels)["Hostname"]
        if host in begun:
            last.add(begun[host], labels)
    for cell in cells:
        labels = labels_of(cell.unit, units.get(cell.unit))
        by_test = _by_test(labels, cell)
        checks.add(cell.checks, by_test)
        num_bytes.add(cell.num_bytes, by_test)
        flops.add(cell.flops, by_test)
        seconds.add(cell.elapsed_s if math.isfinite(cell.elapsed_s) else 0.0, by_test)
        results.add(1, (*labels, ("word", cell.word)))
        tests.add(1, (*by_test, ("word", cell.word)))
    is_partial.add(report.sweep.is_partial)
    return (checks, num_bytes, flops, seconds, results, tests, last, is_partial)


def labels_of(id: str, unit: SweptUnit | None) -> Labels:
    """``Hostname`` and what names the unit there: of a GPU ``gpu``, ``UUID``, ``device``,
    ``pci_bus_id``, ``modelName``, of a core ``core``, ``socket`` and ``modelName``."""
    host, name = host_and_name(id)
    if unit is None:
        return ("Hostname", host), ("unit", name)
    facts = unit.facts
    labels = [("Hostname", facts.get("host", host)), ("unit", unit.name)]
    number = unit.name.rpartition(":")[2] if unit.kind == "gpu" else unit.name.rpartition(" ")[2]
    if unit.kind == "gpu":
        labels += [("gpu", number), ("device", f"nvidia{number}")]
        named = [("UUID", "uuid"), ("pci_bus_id", "pci"), ("modelName", "model")]
    else:
        labels.append(("device", "cpu"))
        if unit.kind == "core":
            labels.append(("core", number))
        named = [("socket", "socket"), ("modelName", "model")]
    return (*labels, *((label, facts[fact]) for label, fact in named if facts.get(fact)))


def _by_test(labels: Labels, cell: Cell) -> Labels:
    return (*labels, ("test", cell.test), ("family", cell.family))


def _begun(report: Report) -> dict[str, float]:
    """When the latest sweep of each host began, seconds since the epoch."""
    begun: dict[str, float] = {}
    for run in report.runs:
        moment = seconds_of(run.start_utc)
        if moment is not None:
            begun[run.host] = max(moment, begun.get(run.host, moment))
    return begun
