"""Sums over any dimensions: any order within (n-1) u sum|x|, ATen's cascade far closer."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from sdc_guard.bounds import sums
from sdc_guard.bounds.gamma import stored
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT32, accumulator_of, format_of, is_covered_float
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._symmetry import RERUN, Symmetry, negate, roll, split

aten = torch.ops.aten


def reduced_dims(call: BoundCall) -> tuple[int, ...]:
    """The reduced dimensions, normalised; all of them for ``None`` and ``()``."""
    rank = call["self"].dim()
    dims = call.get("dim")
    if isinstance(dims, int):
        dims = (dims,)
    return tuple(sorted({d % max(rank, 1) for d in dims})) if dims else tuple(range(rank))


def reduction_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    """Kept dimensions are movable; with ``keepdim`` the reduced ones stay as fixed size 1."""
    rank = call["self"].dim()
    reduced = reduced_dims(call)
    operand = tuple(FIXED if d in reduced else f"d{d}" for d in range(rank))
    kept = tuple(x for d, x in enumerate(operand) if d not in reduced)
    output = operand if held[0].dim() == rank else kept
    return Axes({(0,): operand}, (output,))


def reduction_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Split and roll along the longest kept axis; negation moves the bit pattern of every sum."""
    axes = reduction_axes(call, held)
    sizes = {x: int(held[0].shape[i]) for i, x in enumerate(axes.outputs[0]) if x != FIXED}
    signed = () if not held[0].is_floating_point() else (negate("self"),)
    longest = max(sizes, key=lambda x: sizes[x], default=None)
    if longest is None or sizes[longest] < 2:
        return (RERUN, *signed)
    return (roll(longest, lane=True), split(longest, known=False), *signed)


def num_terms(call: BoundCall) -> int:
    return math.prod(int(call["self"].shape[d]) for d in reduced_dims(call))


def input_flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """One addition per element read."""
    return int(call["self"].numel())


@checked(
    aten.sum,
    family="reduction",
    axes=reduction_axes,
    symmetries=reduction_symmetries,
    flops=input_flops,
    reduction=True,
    window=("d0", "d1", "d2", "d3"),
)
def sum_(call: HostCall) -> tuple[Reference | None, ...]:
    """|s - sum x| <= (n-1) u sum|x| in any order; h u sum|x| in ATen's cascade of depth h."""
    x = call.array("self")
    dims = reduced_dims(call.call)
    keepdim = call.held[0].dim() == x.ndim and bool(x.ndim)
    out_dtype = call.held[0].dtype
    if not out_dtype.is_floating_point:
        if x.dtype.kind == "f":
            return (None,)
        exact = x.sum(axis=dims, dtype=np.int64, keepdims=keepdim)
        return (Reference(exact, 0.0, 0.0, "exact integers modulo 2^64"),)
    if not is_covered_float(out_dtype):
        return (None,)
    x = x.astype(np.float64, copy=False)
    expected = x.sum(axis=dims, keepdims=keepdim)
    abs_sum = np.abs(x).sum(axis=dims, keepdims=keepdim)
    n = num_terms(call.call)
    acc = accumulator_of(out_dtype)
    out = format_of(out_dtype)
    own = sums.reference_error(n, abs_sum)
    proof, contract = sums.any_order(n, abs_sum, acc), sums.cascade(n, abs_sum, acc)
    if out.precision < FLOAT32.precision:
        proof, contract = stored(proof, expected, out), stored(contract, expected, out)
    return (Reference(expected, proof + own, contract + own, "(n-1) u sum|x|, any order", abs_sum),)
