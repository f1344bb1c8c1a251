"""``addbmm``: ``beta C0 + alpha sum_b A_b B_b``.

It is one product of the matrices beside each other, ``[A_1 A_2 ...]`` and ``[B_1; B_2; ...]``, so
the bound of :mod:`sdc_guard.ops._products` for ``b k`` terms holds: a term of batch b passes
through at most k roundings of its product, one of alpha and b additions, and ``k + b <= b k`` where
both exceed 1.  ATen stores the sum after each batch (``addbmm_impl_`` in ``LinearAlgebra.cpp``),
which for half formats is one more rounding per batch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sdc_guard.bounds.gamma import rounding
from sdc_guard.calls import BoundCall
from sdc_guard.formats import accumulator_of, is_covered_float
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._places import odd_in
from sdc_guard.ops._products import Call, affine_reference, exact_integers, factor, judged
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._symmetry import RERUN, Symmetry

aten = torch.ops.aten


def _samples(generator: torch.Generator, dtype: torch.dtype) -> list[Call]:
    if dtype.is_complex or dtype is torch.bool:
        return []
    a, b = factor(generator, dtype, 3, 17, 24), factor(generator, dtype, 3, 24, 19)
    full, bias = factor(generator, dtype, 17, 19), factor(generator, dtype, 19)
    return [
        (aten.addbmm.default, (full, a, b), {}),
        (aten.addbmm.default, (bias, a, b), {"beta": 3, "alpha": -2}),
        (aten.addbmm.default, (full, a[:1], b[:1]), {"beta": 0}),
        (aten.addbmm_.default, (full.clone(), a, b), {}),
    ]


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    return Axes({path: (FIXED,) * t.dim() for path, t in call.tensors()}, ((FIXED, FIXED),))


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    return (RERUN, *odd_in(call, "self", "batch1"))


def _flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    return int(2 * call["batch1"].numel() * call["batch2"].shape[-1])


@checked(aten.addbmm, family="product", axes=_axes, symmetries=_symmetries, flops=_flops,
         samples=_samples)
def addbmm(call: HostCall) -> tuple[Reference | None, ...]:
    """``beta C0 + alpha sum_b A_b B_b``."""
    a, b, addend = (call.array(n) for n in ("batch1", "batch2", "self"))
    num_batches = a.shape[0]
    left = np.concatenate(list(a), -1) if num_batches else np.zeros((a.shape[1], 0))
    right = np.concatenate(list(b), 0) if num_batches else np.zeros((0, b.shape[2]))
    held = call.held[0]
    if not held.is_floating_point():
        product = int(call["alpha"]) * (left.astype(np.int64) @ right.astype(np.int64))
        return exact_integers(call, int(call["beta"]) * addend.astype(np.int64) + product)
    if not is_covered_float(held.dtype):
        return (None,)
    expected, error, size = affine_reference(call, addend, left, right)
    out = call.out_format()
    if out.precision < accumulator_of(held.dtype).precision:
        partial = abs(float(call["alpha"])) * (np.abs(left) @ np.abs(right))
        partial = partial + abs(float(call["beta"])) * np.abs(addend) + error
        error = error + (num_batches + 1) * rounding(partial, out)
    return judged(call, expected, error, size)
