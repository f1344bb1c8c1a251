"""Data that kernels are tried on."""

from __future__ import annotations

import torch
from torch import Tensor


def wide_range(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    """Random signs over 2^-6 ... 2^6: terms that round when added, and large cancellation."""
    generator = torch.Generator().manual_seed(seed)
    exponent = torch.randint(-6, 7, shape, generator=generator, dtype=torch.float64)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * 2.0**exponent).to(dtype)
