"""Sums over any dimensions; :mod:`sdc_guard.ops._reductions` has the bound."""

from __future__ import annotations

import numpy as np
import torch

from sdc_guard import bits
from sdc_guard.bounds.gamma import stored
from sdc_guard.formats import FLOAT32, is_covered_float
from sdc_guard.ops._kernel_reductions import sum_kernel
from sdc_guard.ops._reductions import REDUCTION, Call, drawn, floating_sum, parts_of, reduced_dims
from sdc_guard.ops._registry import HostCall, Reference, checked

aten = torch.ops.aten


def samples(generator: torch.Generator, dtype: torch.dtype) -> list[Call]:
    """Representative calls for a dtype; none where the op does not take it."""
    if dtype.is_complex:
        return []
    x = drawn(generator, dtype, 7, 33, 65)
    calls: list[Call] = [
        (aten.sum.default, (x,), {}),
        (aten.sum.dim_IntList, (x, [2]), {}),
        (aten.sum.dim_IntList, (x, [1], True), {}),
        (aten.sum.dim_IntList, (x, [0, 2]), {}),
        (aten.sum.dim_IntList, (x[:, 1:, 3:].transpose(0, 2), [-1]), {}),
        (aten.sum.dim_IntList, (drawn(generator, dtype, 70000), None), {}),
    ]
    if dtype.is_floating_point:
        calls.append((aten.sum.IntList_out, (x, [1]), {"out": torch.empty(7, 65, dtype=dtype)}))
    return calls


@checked(aten.sum, samples=samples, streams=True, kernel=sum_kernel, **REDUCTION)
def sum_(call: HostCall) -> tuple[Reference | None, ...]:
    """|s - sum x| <= (n-1) u sum|x| in any order; h u sum|x| in ATen's cascade of depth h."""
    out_dtype = call.held[0].dtype
    if not out_dtype.is_floating_point:
        x = call["self"]
        if x.is_floating_point() or x.is_complex():
            return (None,)
        keepdim = call.held[0].dim() == x.dim() and bool(x.dim())
        if call.held[0].numel() == 1:
            total = sum((part.sum(dtype=np.int64) for part in parts_of(x)), np.int64(0))
            exact = np.full(tuple(call.held[0].shape), total)
        else:
            exact = bits.values(x).sum(axis=reduced_dims(call.call), dtype=np.int64,
                                       keepdims=keepdim)
        exact = np.asarray(exact).astype(bits.values(call.held[0]).dtype)
        return (Reference(exact, 0.0, 0.0, "exact integers modulo 2^b"),)
    if not is_covered_float(out_dtype):
        return (None,)
    found = floating_sum(call)
    proof, contract = found.proof, found.contract
    if call.out_format().precision < FLOAT32.precision:
        proof, contract = (stored(limit, found.value, call.out_format())
                           for limit in (proof, contract))
    return (Reference(found.value, proof, contract, "(n-1) u sum|x|, any order", found.abs_sum),)
