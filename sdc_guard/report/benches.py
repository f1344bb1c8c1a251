"""A result file of ``sdc-guard bench`` to a report: each detector on each workload is a cell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from sdc_guard.document.schema import SCHEMA_VERSION, Cell, Report, Run
from sdc_guard.document.verdicts import verdict_of
from sdc_guard.errors import UsageError
from sdc_guard.report.text import sound, sound_values
from sdc_guard.version import __version__

KINDS = ("transient", "repeated", "deterministic")
"""Faults in what an operator computes; those in state, data and the checker are told apart."""
FOUND = "firm"
EXHAUSTIVE = "sdc_guard all"
"""The detector that is to find everything; what others miss is measured and not judged."""


def is_bench(document: Any) -> bool:
    """True for what ``sdc-guard bench`` writes (``bench.json``)."""
    return isinstance(document, dict) and {"stamps", "cells", "clean"} <= set(document)


def bench_report(document: dict[str, Any], name: str) -> Report:
    """The report of a benchmark's results.

    Raises:
        UsageError: if a part of it is missing or of another kind.
    """
    try:
        given = sound_values(document)
        runs = tuple(_runs(given["stamps"], name))
        cells = tuple(_cells(given["cells"], given["clean"]))
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise UsageError(f"{name} is no result of `sdc-guard bench`: {error!r}") from error
    return Report(
        schema_version=SCHEMA_VERSION, tool_version=__version__, created_utc="",
        title="", sources=(sound(name),), runs=runs, cells=cells)


def _runs(stamps: list[dict[str, Any]], name: str) -> Iterator[Run]:
    for number, stamp in enumerate(stamps):
        environment = {field: stamp[field] for field in ("python", "torch", "numpy", "platform")}
        environment |= {"cpu": {"name": stamp["processor"]}, "cpu_count": stamp["num_cores"],
                        "cpu_capability": stamp["instruction_set"], "commits": stamp["commits"]}
        yield Run(
            id=f"bench {name} #{number}", kind="bench", rank=0, pid=0, host="", start_utc="",
            source=name, is_complete=True, seed=int(stamp["seed"]), environment=environment,
            script="\n".join(map(str, stamp["commands"])))


def _cells(cells: list[dict[str, Any]], clean: list[dict[str, Any]]) -> Iterator[Cell]:
    found: Counter[tuple[str, str]] = Counter()
    tried: Counter[tuple[str, str]] = Counter()
    for cell in cells:
        if cell["kind"] not in KINDS:
            continue
        key = _unit(cell), str(cell["detector"])
        for outcomes in cell["counts"].values():
            found[key] += int(outcomes.get(FOUND, 0))
            tried[key] += sum(map(int, outcomes.values()))
    alarms: Counter[tuple[str, str]] = Counter()
    for run in clean:
        alarms[_unit(run), str(run["detector"])] += int(run["num_alarms"])
    for unit, detector in sorted({*tried, *alarms}):
        key = unit, detector
        reason = f"found {found[key]} of {tried[key]} injected faults"
        if alarms[key]:
            reason += f", {alarms[key]} false alarms"
        word = "measured"
        if detector == EXHAUSTIVE:
            word = "missed" if found[key] < tried[key] else "found"
            word = "false alarm" if alarms[key] else word
        yield Cell(unit=unit, test=detector, word=word, verdict=verdict_of("bench", word),
                   checks=tried[key], findings=alarms[key], reason=reason)


def _unit(cell: dict[str, Any]) -> str:
    return f"{cell['workload']}, {cell['dtype']}, {cell['device']}"
