"""Softmax that gives zeros where a whole row is masked; :mod:`sdc_guard.ops.softmax` has the bound.

``scaled_dot_product_attention`` with a mask calls it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops.softmax import (
    SOFTMAX_FORMULA,
    flops,
    forward_kernel,
    forward_symmetries,
    softmax,
    softmax_axes,
    softmax_dim,
)

aten = torch.ops.aten
Call = tuple[Any, tuple[Any, ...], dict[str, Any]]


def samples(generator: torch.Generator, dtype: torch.dtype) -> list[Call]:
    """Representative calls for a dtype; none where the op does not take it."""
    if not dtype.is_floating_point:
        return []
    x = (3 * torch.randn(37, 51, generator=generator, dtype=torch.float64)).to(dtype)
    masked = x.masked_fill(torch.randint(0, 2, x.shape, generator=generator).bool(), -torch.inf)
    masked[5] = -torch.inf
    op = aten._safe_softmax.default
    return [(op, (x, -1), {}), (op, (masked, -1), {}), (op, (masked.t(), 0), {})]


@checked(aten._safe_softmax, family="softmax", axes=softmax_axes, symmetries=forward_symmetries,
         flops=flops, window=("d0", "d1", "d2", "d3"),
         kernel=forward_kernel(SOFTMAX_FORMULA, safe=True), samples=samples)
def safe_softmax(call: HostCall) -> tuple[Reference | None, ...]:
    """``exp(x - max) / sum exp(x - max)``, exactly 0 in a row of nothing but minus infinity."""
    (found,) = softmax(call)
    if found is None:
        return (None,)
    masked = np.isneginf(call.array("self")).all(axis=softmax_dim(call.call), keepdims=True)
    expected, contract, size = (
        np.where(masked, 0.0, x) for x in (found.expected, found.contract, found.magnitude))
    proof = None if found.proof is None else np.where(masked, 0.0, found.proof)
    return (Reference(expected, proof, contract, found.formula, size),)
