"""Who is on the page: detectors, workloads and devices that are listed even where nothing was
measured, and their order."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sdc_guard.bench.detectors.table import DETECTORS
from sdc_guard.bench.workloads.table import WORKLOADS

NOT_MEASURED = "not measured"
LEADING_BUDGETS = (0.5, 1.0, 2.0, 5.0)
"""Budgets, in percent of run time, that every table begins with."""
ALL = "all"
OURS = "sdc_guard"
DEMO_GPT = "gpt-demo"
"""The workload that the claims are about."""
DTYPES = ("fp32", "bf16")
DEVICES = ("cpu", "cuda")


def budget_of(detector: str) -> float | str | None:
    """The budget of one of our detectors in percent, or ``"all"``; None for a detector that is not
    ours.

    Ours are called ``sdc_guard all`` or ``sdc_guard 2 %``.
    """
    found = re.fullmatch(rf"{OURS} (?:(all)|([\d.]+) ?%)", detector)
    if found is None:
        return None
    return ALL if found[1] else float(found[2])


def label(detector: str) -> str:
    """What tables print: ``ours, 2 %``; ``ours, exhaustive``; a rival's own name."""
    budget = budget_of(detector)
    if budget is None:
        return detector
    return "ours, exhaustive" if budget == ALL else f"ours, {budget:g} %"


def _place(detector: str) -> tuple[float, float, str]:
    budget = budget_of(detector)
    if budget is None:
        known = list(DETECTORS)
        return 3.0, float(known.index(detector) if detector in known else len(known)), detector
    if isinstance(budget, str):
        return 2.0, 0.0, detector
    return (0.0 if budget in LEADING_BUDGETS else 1.0), budget, detector


def detectors(measured: Iterable[str]) -> list[str]:
    """The measured detectors and those that can be: our leading budgets, our others, the exhaustive
    one, every other detector."""
    leading = {f"{OURS} {budget:g} %" for budget in LEADING_BUDGETS} | {f"{OURS} {ALL}"}
    return sorted({*measured, *DETECTORS, *leading}, key=_place)


def is_demo_gpt(workload: str) -> bool:
    """Whether this is the workload that the claims are about."""
    return workload == DEMO_GPT


def workloads(measured: Iterable[str]) -> list[str]:
    """The measured workloads and those that can be, the demo GPT first."""
    return sorted({*measured, *WORKLOADS}, key=lambda name: (not is_demo_gpt(name), name))


def dtype_of(name: str) -> str:
    """``fp32`` or ``bf16`` for the usual ones however they are written."""
    lower = name.lower()
    if lower.startswith(("bf16", "bfloat16")):
        return "bf16"
    return "fp32" if lower.startswith(("fp32", "float32")) else name


def device_of(name: str) -> str:
    """``cuda`` for ``cuda:0``."""
    return name.split(":")[0]
