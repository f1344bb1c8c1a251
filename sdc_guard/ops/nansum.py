"""Sums that leave NaN out: ATen's cascade with a NaN loaded as 0.

The contract is that of a sum; where threads share the work, and of expanded operands, it is any
order.  The proof of half formats allows the storage format in any order: unlike ``sum``, the kernel
adds up in it what it has summed run by run (``cascade_sum`` with ``ignore_nan`` in
``aten/src/ATen/native/cpu/SumKernel.cpp``), and a long sum stagnates.  That is the loss of
precision that the contract reports: 2e6 in the place of 7e7 was seen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.gamma import stored
from sdc_guard.bounds.sums import PARALLEL_FROM
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT32, is_covered_float
from sdc_guard.ops._reductions import (
    REDUCTION,
    Call,
    drawn,
    floating_sum,
    num_terms,
    reduced_dims,
    reduction_symmetries,
)
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._symmetry import RERUN, Symmetry

aten = torch.ops.aten


class _WithoutNan(HostCall):
    """The call with 0 in the place of each NaN."""

    def array(self, argument: str) -> NDArray[Any]:
        values = super().array(argument)
        return np.where(np.isnan(values), 0.0, values) if values.dtype.kind == "f" else values


def _samples(generator: torch.Generator, dtype: torch.dtype) -> list[Call]:
    x = drawn(generator, dtype, 7, 33, 65)
    if dtype.is_floating_point:
        x[torch.rand(7, 33, 65, generator=generator) < 0.1] = torch.nan
    op = aten.nansum
    calls: list[Call] = [
        (op.default, (x,), {}), (op.default, (x, [2]), {}), (op.default, (x, [1], True), {}),
        (op.default, (x, [0, 2]), {}),
        (op.default, (x[:, 1:, 3:].transpose(0, 2), [-1]), {}),
        (op.default, (drawn(generator, dtype, 70000), None), {}),
    ]
    if dtype.is_floating_point:
        calls.append((op.out, (x, [1]), {"out": torch.empty(7, 65, dtype=dtype)}))
    return calls


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """As for a sum; only floating operands have a sign to change."""
    found = reduction_symmetries(call, held)
    if call["self"].is_floating_point():
        return found
    return tuple(s for s in found if s.name != "negate self") or (RERUN,)


@checked(aten.nansum, samples=_samples, **{**REDUCTION, "symmetries": _symmetries})
def nansum(call: HostCall) -> tuple[Reference | None, ...]:
    """The sum of the elements that are not NaN, with the bounds of a sum."""
    held, x = call.held[0], call["self"]
    if not bits.has_values(x.dtype):
        return (None,)
    if not held.is_floating_point():
        if x.is_floating_point():
            return (None,)
        exact = call.array("self").sum(axis=reduced_dims(call.call) if x.dim() else None,
                                       dtype=np.int64)
        exact = np.asarray(exact).reshape(tuple(held.shape)).astype(bits.values(held).dtype)
        return (Reference(exact, 0.0, 0.0, "exact integers modulo 2^b"),)
    if not is_covered_float(held.dtype) or not x.dim():
        return (None,)
    found = floating_sum(_WithoutNan(call.call, call.held))
    proof, contract = found.proof, found.contract
    parted = x.numel() >= PARALLEL_FROM and torch.get_num_threads() > 1
    if parted or 0 in x.stride():
        contract = proof
    if call.out_format().precision < FLOAT32.precision:
        out, n = call.out_format(), num_terms(call.call)
        proof = proof + (n - 1) * out.u * found.abs_sum * (1 + out.u) + n * out.eta
        proof, contract = (stored(limit, found.value, out) for limit in (proof, contract))
    return (Reference(found.value, proof, contract, "(n-1) u sum|x|, any order", found.abs_sum),)
