"""Who is on the page: detectors, workloads and devices that are listed even where nothing was
measured, and how the ones that were are recognised and ordered."""

from __future__ import annotations

import re
from collections.abc import Iterable

NOT_MEASURED = "not measured"
LEADING_BUDGETS = (0.5, 1.0, 2.0, 5.0)
"""Budgets, in percent of run time, that every table begins with."""
ALL = "all"

RIVALS = {
    "PyPI sdcguard": r"sdcguard",
    "rerun and compare": r"rerun",
    "float64 recompute": r"float64|fp64",
    "NaN and loss-spike watch": r"nan\b|spike",
    "step replay": r"replay|titan",
    "gradient-norm statistics": r"grad",
    "DebugMode hashes": r"debug",
}
WORKLOADS = {
    "demo GPT": r"gpt",
    "ResNet-like": r"resnet",
    "LSTM": r"lstm",
    "U-Net block": r"u-?net|diffusion",
    "mixture of experts": r"mixture|expert|moe",
    "GNN": r"gnn|graph|scatter",
}
DTYPES = ("fp32", "bf16")
DEVICES = ("cpu", "cuda")


def budget_of(detector: str) -> float | str | None:
    """The budget of one of our detectors in percent, or ``"all"``; None for a detector that is not
    ours.

    Ours begin with ``ours`` or ``sdc_guard``, and give a share (``0.02``), a percentage (``2 %``)
    or ``all``.
    """
    if not re.match(r"(ours|sdc_guard)\b", detector):
        return None
    found = re.search(r"(\d+(?:\.\d+)?)\s*(%?)", detector)
    if found is None:
        return ALL
    return float(f"{float(found[1]) * (1 if found[2] else 100):.6g}")


def label(detector: str) -> str:
    """What tables print: ``ours, 2 %``; ``ours, exhaustive``; a rival's own name."""
    budget = budget_of(detector)
    if budget is None:
        return detector
    return "ours, exhaustive" if budget == ALL else f"ours, {budget:g} %"


def _place(detector: str) -> tuple[float, float, str]:
    budget = budget_of(detector)
    if budget is None:
        return 3.0, 0.0, detector
    if isinstance(budget, str):
        return 2.0, 0.0, detector
    return (0.0 if budget in LEADING_BUDGETS else 1.0), budget, detector


def detectors(measured: Iterable[str]) -> list[str]:
    """The measured detectors and those that should have been: our leading budgets, our others, the
    exhaustive one, every other detector."""
    names = set(measured)
    budgets = {budget_of(name) for name in names}
    names |= {f"ours {b:g} %" for b in LEADING_BUDGETS if b not in budgets}
    names |= {f"ours {ALL}"} if ALL not in budgets else set()
    rivals = [name for name in names if budget_of(name) is None]
    names |= {rival for rival, pattern in RIVALS.items()
              if not any(re.search(pattern, name, re.IGNORECASE) for name in rivals)}
    return sorted(names, key=_place)


def is_demo_gpt(workload: str) -> bool:
    """Whether this is the workload that the claims are about."""
    return "gpt" in workload.lower()


def workloads(measured: Iterable[str]) -> list[str]:
    """The measured workloads and those that should have been, the demo GPT first."""
    names = set(measured)
    expected = [name for name, pattern in WORKLOADS.items()
                if not any(re.search(pattern, found, re.IGNORECASE) for found in names)]
    return sorted([*names, *expected], key=lambda name: (not is_demo_gpt(name), name.lower()))


def dtype_of(name: str) -> str:
    """``fp32`` or ``bf16`` for the usual ones however they are written."""
    lower = name.lower()
    if lower.startswith(("bf16", "bfloat16")):
        return "bf16"
    return "fp32" if lower.startswith(("fp32", "float32")) else name


def device_of(name: str) -> str:
    """``cuda`` for ``cuda:0``."""
    return name.split(":")[0]
