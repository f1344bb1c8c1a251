"""What devices have and a CPU lacks: the backward of a fused RMS norm, made from its definition."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sdc_guard.formats import is_covered_float

aten = torch.ops.aten
NAME = "_fused_rms_norm_backward"


def backward(
    grad: Tensor, x: Tensor, shape: list[int], rstd: Tensor, weight: Tensor | None,
    mask: list[bool],
) -> tuple[Tensor | None, Tensor | None]:
    """In the order of the CUDA kernels, in fp32 for half formats."""
    assert is_covered_float(x.dtype)
    wide = torch.promote_types(x.dtype, torch.float32)
    dims = tuple(range(x.dim() - len(shape), x.dim()))
    n = torch.tensor(float(torch.Size(shape).numel()), dtype=wide)
    g = torch.ones(shape, dtype=wide) if weight is None else weight.to(wide)
    dy, z, r = grad.to(wide), x.to(wide), rstd.to(wide)
    moment = (dy * g * z * r).sum(dims, keepdim=True)
    dx = (n * g * dy - z * r * moment) * ((1 / n) * r)
    dg = (dy * z * r).reshape(-1, *shape).sum(0)
    return (dx.to(x.dtype) if mask[0] else None,
            dg.to(x.dtype) if mask[1] and weight is not None else None)


@contextmanager
def on_a_cpu() -> Iterator[None]:
    """The backward can be called with CPU tensors."""
    library = torch.library.Library("aten", "IMPL")
    library.impl(NAME, backward, "CPU")
    try:
        yield
    finally:
        library._destroy()
