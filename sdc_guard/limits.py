"""What the arguments of a guard may be."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from sdc_guard.errors import UsageError
from sdc_guard.records import Verdict

DEFAULT_BYTES = 256 * 2**20
DEVICE_SHARE = 0.02
KERNELS = ("auto", "always", "never")
WITNESSES = ("replay", "reference", "checksum", "residual", "invariant", "kernel")


def default_memory_budget_bytes(model: nn.Module | None) -> int:
    """256 MB, or 2 % of the memory of the CUDA device that the model is on, if that is more."""
    parameter = next(model.parameters(), None) if model is not None else None
    if parameter is not None and parameter.device.type == "cuda":
        total = torch.cuda.get_device_properties(parameter.device).total_memory
        return max(DEFAULT_BYTES, int(DEVICE_SHARE * total))
    return DEFAULT_BYTES


def parse_memory_budget(value: object, model: nn.Module | None) -> int:
    """A number of bytes, at least 0; None: the default for the model.

    Raises:
        UsageError: for anything else.
    """
    if value is None:
        return default_memory_budget_bytes(model)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise UsageError(f"memory_budget={value!r}: give a number of bytes, 0 or more")


def parse_optimizers(value: object) -> tuple[Optimizer, ...]:
    """One optimizer or several, as a tuple; empty for None.

    Raises:
        UsageError: for anything else.
    """
    several = value if isinstance(value, (list, tuple)) else () if value is None else (value,)
    if not all(isinstance(o, Optimizer) for o in several):
        raise UsageError(
            f"optimizer={value!r}: give an optimizer of torch.optim, or a list of them"
        )
    return tuple(several)


def parse_out(value: object) -> Path | None:
    """A folder, or None.

    Raises:
        UsageError: for anything else.
    """
    if value is None or isinstance(value, (str, Path)):
        return None if value is None else Path(value)
    raise UsageError(f"out={value!r}: give the path of a folder, or None")


def parse_seed(value: object) -> int:
    """An integer, at least 0.

    Raises:
        UsageError: for anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise UsageError(f"seed={value!r}: give an integer, 0 or more")


def parse_verdicts(names: tuple[str, ...]) -> frozenset[Verdict]:
    """Verdicts by their words.

    Raises:
        UsageError: for anything but a tuple of known words.
    """
    known = {v.value: v for v in Verdict}
    if isinstance(names, str) or any(n not in known for n in names):
        raise UsageError(f"act_on={names!r}: give a tuple of verdicts from {', '.join(known)}")
    return frozenset(known[n] for n in names)


def parse_kernels(value: object) -> str:
    """When Triton kernels check: ``auto``, ``always`` or ``never``.

    Raises:
        UsageError: for anything else.
    """
    if isinstance(value, str) and value in KERNELS:
        return value
    raise UsageError(f"kernels={value!r}: give one of {', '.join(KERNELS)}")


def parse_witnesses(names: object) -> frozenset[str]:
    """The witnesses that are *not* to be used; none for None.

    Raises:
        UsageError: for anything but a tuple or list of known names.
    """
    if names is None:
        return frozenset()
    if isinstance(names, (tuple, list)) and names and all(n in WITNESSES for n in names):
        return frozenset(WITNESSES) - set(names)
    raise UsageError(f"witnesses={names!r}: give a tuple of names from {', '.join(WITNESSES)}, or "
                     "None for all of them")
