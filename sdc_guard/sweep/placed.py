"""Operands in memory that torch allocated, so that their alignment is the same in every process:
vector kernels treat an unaligned head apart, and then round sums in another order."""

from __future__ import annotations

import torch
from torch import Tensor

from sdc_guard import bits as raw_bits
from sdc_guard.sweep.declared import Bits


def placed(bits: Bits, dtype: str, device: str) -> Tensor:
    """A contiguous tensor with these bits; ``dtype`` is torch's name without ``torch.``.  No
    operator copies them on a CPU."""
    host = torch.empty(bits.shape, dtype=getattr(torch, dtype))
    if bits.size:
        raw_bits.raw(host)[...] = bits
    return host.to(device)
