"""``_trilinear``: a sum of products of three factors (``torch.nn.Bilinear``).

Operands are brought to one rank by dimensions of size 1, multiplied and summed over dimensions.  In
any order and association a term passes through two products and at most n additions of n terms,
each of which may be stored in the result's format (``_trilinear`` in ``Linear.cpp`` adds stored
products), so ``|error| <= ((1 + u)^(n+2) - 1) sum|abc|`` with u of that format.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard.bounds.gamma import own_rounding
from sdc_guard.calls import BoundCall
from sdc_guard.formats import is_covered_float
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._places import odd_in
from sdc_guard.ops._registry import F64, HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values
from sdc_guard.ops._symmetry import RERUN, Symmetry

aten = torch.ops.aten


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    return Axes({path: (FIXED,) * t.dim() for path, t in call.tensors()},
                ((FIXED,) * held[0].dim(),))


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    return (RERUN, *odd_in(call, "i1"))


def _samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype not in FLOATS:
        return []
    draw = draw_values(generator, dtype, "any")
    dims = ([1, 3], [0], [1, 2], [2, 3])
    return [(aten._trilinear.default, (draw(9, 7), draw(5, 7, 6), draw(9, 6), *dims), {}),
            (aten._trilinear.default, (draw(7, 9).t(), draw(1, 7, 33), draw(9, 33), *dims), {})]


def _expanded(call: HostCall) -> list[F64]:
    found = []
    for name, places in (("i1", "expand1"), ("i2", "expand2"), ("i3", "expand3")):
        x: Any = call.array(name)
        for place in sorted(call[places]):
            x = np.expand_dims(x, place)
        found.append(x)
    return found


def _flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    return int(2 * call["i1"].shape[0] * call["i2"].numel())


@checked(aten._trilinear, family="product", axes=_axes, symmetries=_symmetries, flops=_flops,
         samples=_samples)
def trilinear(call: HostCall) -> tuple[Reference | None, ...]:
    """``((1 + u)^(n+2) - 1) sum|abc|`` for n terms."""
    held = call.held[0]
    if not is_covered_float(held.dtype):
        return (None,)
    a, b, c = _expanded(call)
    over = tuple(call["sumdim"])
    sizes = [max(x.shape[d] for x in (a, b, c)) for d in over]
    if max(int(np.prod(np.broadcast_shapes(a.shape, b.shape, c.shape))), 1) > 1 << 24:
        return (None,)
    total = (a * b * c).sum(over)
    size = (np.abs(a) * np.abs(b) * np.abs(c)).sum(over)
    out, n = call.out_format(), int(np.prod(sizes)) + 2
    error = math.expm1(min(n * out.u, 700.0)) * size + own_rounding(n, size) + n * out.eta
    tops = sorted(float(np.abs(x).max(initial=0)) for x in (a, b, c))
    largest = tops[-1]
    # A product of two factors that underflows is off by eta times the third.
    error = error + n * out.eta * largest
    # Products of two factors, or their sum, may overflow before the third, even a 0, comes in.
    formula, reach = "((1 + u)^(n+2) - 1) sum|abc|", np.maximum(size, n * largest * tops[-2])
    return (Reference(total, error, error, formula, reach),)
