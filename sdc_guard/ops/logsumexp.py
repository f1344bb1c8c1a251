"""``logsumexp`` over dimensions; bound in :mod:`sdc_guard.bounds.chains`.

ATen composes it from ``amax``, a difference, ``exp``, ``sum``, ``log`` and a sum
(``aten/src/ATen/native/ReduceOps.cpp``), each stored in the format of the result: half formats are
rounded six times, which is part of proof and contract.  The depth of the sum is that of ATen's
cascade in the contract, any order in the proof.

Place: kept dimensions roll and split where a thread does not get a part of a sum.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard.bounds import chains, softmax, sums
from sdc_guard.bounds.gamma import rounding
from sdc_guard.calls import BoundCall
from sdc_guard.formats import accumulator_of, is_covered_float
from sdc_guard.ops._lines import selection_axes
from sdc_guard.ops._reductions import (
    input_flops,
    num_terms,
    reduced_dims,
    reduction_symmetries,
)
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry, roll, split

aten = torch.ops.aten


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """The moves of a sum; learned, because the elementwise steps between have tails."""
    found = [s for s in reduction_symmetries(call, held) if not s.name.startswith("negate")]
    known = {"roll": roll, "split": split}
    moves = (known[s.name.split()[0]](s.name.split()[1], known=False)
             for s in found if s.name.split()[0] in known)
    return (*moves, SHIFTED, RERUN)


def _shifted(call: BoundCall, visit: int) -> tuple[Tensor | None, ...]:
    """The operand at another address, contiguous or not as it was."""
    x = call["self"]
    lead = 16 * (1 + visit % 3)
    memory = torch.empty(lead + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
                         + 1, dtype=x.dtype, device=x.device)
    image = memory.as_strided(x.shape, x.stride(), lead)
    if 0 in x.stride() or not x.numel():
        return call.run()
    return call.replaced(self=image.copy_(x)).run()


SHIFTED = Symmetry("another address", (Move("custom", function=_shifted),),
                   frozenset({"address"}), True)


def _samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype not in FLOATS:
        return []
    draw = draw_values(generator, dtype, "any")
    op = aten.logsumexp
    return [(op.default, (draw(9, 37), [1]), {}), (op.default, (draw(9, 37), [0], True), {}),
            (op.default, (draw(37, 9).t(), [-1]), {}), (op.default, (draw(3, 5, 7), [0, 2]), {}),
            (op.default, (draw(8, 70)[1:7, 3:67], [1]), {}), (op.default, (draw(700), [0]), {}),
            (op.out, (draw(9, 37), [1]), {"out": draw(9)})]


def _lines_last(x: Any, dims: tuple[int, ...]) -> Any:
    """The reduced dimensions flattened into a last one."""
    kept = [d for d in range(x.ndim) if d not in dims]
    return x.transpose(*kept, *dims).reshape(*(x.shape[d] for d in kept), -1)


@checked(aten.logsumexp, family="reduction", axes=selection_axes, symmetries=_symmetries,
         flops=input_flops, reduction=True, window=("d0", "d1", "d2", "d3"), samples=_samples)
def logsumexp(call: HostCall) -> tuple[Reference | None, ...]:
    """``m + log sum exp(x - m)`` with m the largest element."""
    held, given = call.held[0], call["self"]
    if not is_covered_float(held.dtype) or given.dtype is not held.dtype or not given.numel():
        return (None,)
    x, shape = call.array("self"), tuple(held.shape)
    x = _lines_last(x, reduced_dims(call.call)) if x.ndim else x.reshape(1)
    n, out, acc = num_terms(call.call) if given.dim() else 1, call.out_format(), \
        accumulator_of(held.dtype)
    sizes = [int(given.shape[d]) for d in reduced_dims(call.call)] if given.dim() else [1]
    longer = [size for size in sizes if size > 1]
    runs = n // min(longer) if len(longer) > 1 else 1
    parts = torch.get_num_threads() if held.numel() == 1 and n >= sums.PARALLEL_FROM else 0
    with np.errstate(all="ignore"):
        largest = x.max(-1, keepdims=True)
        largest = np.where(np.isinf(largest), 0.0, largest)
        d = x - largest
        terms = np.exp(d)
        total = terms.sum(-1, keepdims=True)
        expected = largest + np.log(total)
        # A term 0 adds nothing, however far it is.
        distance = np.where(terms > 0, np.abs(d), 0.0)
        v = out.u + math.ulp(1.0)
        limits = []
        for depth, phi in ((n - 1, softmax.exp_proof(acc)),
                           (sums.cascade_depth(n, runs, parts), softmax.exp_contract(acc))):
            error = chains.log_sum_exp_error(
                distance, terms, total, depth, softmax.with_reference(acc), phi, v,
                out.eta + acc.tiny)
            limits.append(error + 2 * rounding(np.abs(expected) + error, out))
        # Of a largest element +inf the sum is infinite by definition, and nothing overflows.
        endless = x.max(-1, keepdims=True) == np.inf
        magnitude = np.where(np.isfinite(total), total, np.where(endless, 0.0, np.inf))
    return (Reference(expected.reshape(shape), limits[0].reshape(shape), limits[1].reshape(shape),
                      "-log(1 - r_S) + (phi + v)|log S| + 2 v |L|", magnitude.reshape(shape),
                      keeps_infinities=True),)
