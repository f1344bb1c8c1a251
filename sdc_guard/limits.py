"""Memory limits of the guard."""

from __future__ import annotations

import torch
from torch import nn

from sdc_guard.errors import UsageError

DEFAULT_BYTES = 256 * 2**20
DEVICE_SHARE = 0.02


def default_memory_budget_bytes(model: nn.Module | None) -> int:
    """256 MB, or 2 % of the memory of the CUDA device that the model is on, if that is more."""
    parameter = next(model.parameters(), None) if model is not None else None
    if parameter is not None and parameter.device.type == "cuda":
        total = torch.cuda.get_device_properties(parameter.device).total_memory
        return max(DEFAULT_BYTES, int(DEVICE_SHARE * total))
    return DEFAULT_BYTES


def parse_memory_budget(value: object) -> int:
    """A number of bytes, at least 0.

    Raises:
        UsageError: for anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise UsageError(f"memory_budget={value!r}: give a number of bytes, 0 or more")
