"""Products over a dimension or all elements; bound in :mod:`sdc_guard.bounds.chains`.

ATen's CPU kernel multiplies in the format of the result (``prod_kernel_impl`` in
``ReduceOpsKernel.cpp``): half formats are rounded after every factor, which is the format of proof
and contract there; CUDA multiplies half formats in fp32 (``prod_functor``), which is within.  Any
order is allowed, so the contract is the proof.

Place: negation multiplies by ``(-1)^n``; kept dimensions roll and split where no thread gets a part
of a line.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds import chains
from sdc_guard.bounds.casts import nearest
from sdc_guard.bounds.gamma import own_rounding
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT64, is_covered_float
from sdc_guard.ops._lines import selection_axes
from sdc_guard.ops._places import negated
from sdc_guard.ops._reductions import (
    Call,
    drawn,
    input_flops,
    num_terms,
    reduced_dims,
    reduction_symmetries,
)
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry

aten = torch.ops.aten


def _negated(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    x = call["self"]
    got = call.replaced(self=negated(x)).run()[0]
    return (got.neg() if num_terms(call) % 2 else got,)


NEGATED = Symmetry("negate every factor", (Move("custom", function=_negated),),
                   frozenset({"address", "bits"}), True)


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """As for a sum, which is divided among lanes and threads alike."""
    x = call["self"]
    found = tuple(s for s in reduction_symmetries(call, held) if s.name != "negate self")
    if x.is_floating_point() and bits.is_dense(x):
        return (*found, NEGATED)
    return found or (RERUN,)


def _samples(generator: torch.Generator, dtype: torch.dtype) -> list[Call]:
    """Factors near 1, so that long products stay in range."""
    def draw(*shape: int) -> Tensor:
        x = drawn(generator, dtype, *shape)
        return (1 + x / 16) * torch.sign(x) if dtype.is_floating_point else x

    op = aten.prod
    calls: list[Call] = [
        (op.default, (draw(7, 33),), {}), (op.default, (draw(300),), {}),
        (op.dim_int, (draw(7, 33, 65), 2), {}), (op.dim_int, (draw(7, 33, 65), 1, True), {}),
        (op.dim_int, (draw(7, 33, 65)[:, 1:, 3:].transpose(0, 2), -1), {}),
        (op.dim_int, (draw(3, 33), 0), {}), (op.default, (draw(),), {}),
    ]
    if dtype.is_floating_point:
        calls.append((op.int_out, (draw(7, 33), 1), {"out": torch.empty(7, dtype=dtype)}))
    return calls


@checked(aten.prod, family="reduction", axes=selection_axes, symmetries=_symmetries,
         flops=input_flops, reduction=True, window=("d0", "d1", "d2", "d3"), samples=_samples)
def prod(call: HostCall) -> tuple[Reference | None, ...]:
    """``|p - prod x| <= gamma_{n-1} |prod x|`` in any order; integers modulo 2^b."""
    held, dtype = call.held[0], call["self"].dtype
    if not bits.has_values(dtype) or not bits.has_values(held.dtype):
        return (None,)
    x, shape = call.array("self"), tuple(held.shape)
    axis = reduced_dims(call.call) if x.ndim else None
    if not held.is_floating_point():
        if x.dtype.kind == "f":
            return (None,)
        product = np.prod(x.astype(np.int64), axis=axis, dtype=np.int64)
        exact = np.asarray(product).reshape(shape).astype(bits.values(held).dtype)
        return (Reference(exact, 0.0, 0.0, "exact integers modulo 2^b"),)
    if not is_covered_float(held.dtype):
        return (None,)
    out = call.out_format()
    casts = 0 if dtype is held.dtype else 1
    x = nearest(x, out) if casts else x
    wide = np.longdouble if out is FLOAT64 else np.float64
    n = num_terms(call.call)
    with np.errstate(all="ignore"):
        value = np.asarray(np.prod(x, axis=axis, dtype=wide)).astype(np.float64).reshape(shape)
        low, high = (np.asarray(b.sum(axis=axis)).reshape(shape) for b in chains.binades(x))
        has_zero = np.asarray((x == 0).any(axis=axis)).reshape(shape)
        limit = chains.product_error(max(n - 1, 0) + n * casts, value, low, high, has_zero, out)
        limit = limit + np.where(has_zero | (n == 1), 0.0, own_rounding(n, value))
    # An infinite or NaN factor beside finite ones gives the same in any order only without zeros.
    magnitude = np.where(np.isnan(limit) | np.isinf(limit), np.inf, 0.0)
    return (Reference(value, limit, limit, "gamma_{n-1} |prod x|, any order", magnitude),)
