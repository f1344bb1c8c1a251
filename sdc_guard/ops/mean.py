"""Means over any dimensions: a sum and one division."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from sdc_guard.bounds.gamma import own_rounding, rounding, stored
from sdc_guard.formats import accumulator_of, is_covered_float
from sdc_guard.ops._kernel_reductions import mean_kernel
from sdc_guard.ops._reductions import REDUCTION, Call, drawn, floating_sum, num_terms
from sdc_guard.ops._registry import HostCall, Reference, checked

aten = torch.ops.aten

DIVISION_ROUNDINGS = 3
"""The quotient, the divisor where it does not fit the format, and a reciprocal in its place."""


def samples(generator: torch.Generator, dtype: torch.dtype) -> list[Call]:
    """Representative calls for a dtype; none where the op does not take it."""
    if not is_covered_float(dtype):
        return []
    x = drawn(generator, dtype, 7, 33, 65)
    return [
        (aten.mean.default, (x,), {}),
        (aten.mean.dim, (x, [2]), {}),
        (aten.mean.dim, (x, [1], True), {}),
        (aten.mean.dim, (x, [0, 2]), {}),
        (aten.mean.dim, (x[:, 1:, 3:].transpose(0, 2), [-1]), {}),
        (aten.mean.default, (drawn(generator, dtype, 70000),), {}),
        (aten.mean.out, (x, [1]), {"out": torch.empty(7, 65, dtype=dtype)}),
    ]


@checked(aten.mean, samples=samples, streams=True,
         kernel=partial(mean_kernel, roundings=DIVISION_ROUNDINGS), **REDUCTION)
def mean(call: HostCall) -> tuple[Reference | None, ...]:
    """The error of the sum over n, and the roundings of the division.

    ATen's CPU kernel stores the sum in the result's dtype before it divides, so a half format is
    rounded twice and a sum beyond its range is infinite: ``magnitude`` is ``sum|x|``.
    """
    if not is_covered_float(call.held[0].dtype):
        return (None,)
    found = floating_sum(call)
    n = num_terms(call.call)
    if n == 0:
        return (None,)
    out, acc = call.out_format(), accumulator_of(call.held[0].dtype)
    expected = found.value / n
    limits = []
    for limit in (found.proof, found.contract):
        if out.precision < acc.precision:
            limit = stored(limit, found.value, out)
        error = limit / n
        error = error + DIVISION_ROUNDINGS * rounding(np.abs(expected) + error, acc)
        if out.precision < acc.precision:
            error = error + rounding(np.abs(expected) + error, out)
        limits.append(error + own_rounding(2, expected))
    return (Reference(expected, limits[0], limits[1], "(n-1) u mean|x|, any order, and a division",
                      found.abs_sum),)
