"""``bincount`` and ``histc``: how many elements fall into each bin.

``bincount`` is exact; with weights a bin of k elements is a sum of k terms in the format of the
result, ``(k - 1) u sum|w|`` in any order.

``histc`` computes an element's bin as ``(x - min) * bins / (max - min)`` in the operand's format,
four roundings of a number up to ``bins``, of ``x - min`` relative to the range: an element nearer
than ``8 u`` of the range (times ``1 + max|end| / range``, the rounding of the ends) to an edge may
fall on either side.  So a bin's count is off by at most the elements that near to one of its two
edges, and exact where there are none.  Counts are kept in the operand's format: beyond ``1 / u``
elements nothing is judged.

Place: the order of the elements is nothing to a count.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.gamma import own_rounding
from sdc_guard.calls import BoundCall
from sdc_guard.formats import format_of, is_covered_float
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._reductions import input_flops
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry

aten = torch.ops.aten


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    return Axes({path: (FIXED,) * t.dim() for path, t in call.tensors()}, ((FIXED,),))


def _shuffled(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    """The elements rolled as a vector."""
    x = call["self"].reshape(-1)
    shift = 1 + visit % max(x.numel() - 1, 1)
    return call.replaced(self=torch.cat([x[shift:], x[:shift]])).run()


ROLLED = Symmetry("roll the elements", (Move("custom", function=_shuffled),),
                  frozenset({"address", "core", "tile", "lane"}), True)


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    return (RERUN,) if call.get("weights") is not None else (ROLLED, RERUN)


def _bincount_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    x = torch.randint(0, 23, (300,), generator=generator)
    op = aten.bincount
    if dtype is torch.int64:
        return [(op.default, (x,), {}), (op.default, (x[::2], None, 40), {}),
                (op.default, (x.to(torch.uint8),), {}), (op.default, (x, x),  {})]
    if dtype in (torch.float32, torch.float64):
        draw = draw_values(generator, dtype, "any")
        return [(op.default, (x, draw(300)), {}), (op.default, (x, draw(600)[::2], 40), {})]
    return []


@checked(aten.bincount, family="selection", axes=_axes, symmetries=_symmetries, flops=input_flops,
         reduction=True, deterministic=False, samples=_bincount_samples)
def bincount(call: HostCall) -> tuple[Reference | None, ...]:
    """How often each number occurs, or the sum of the weights that belong to it."""
    index, held, weights = call.array("self").astype(np.int64), call.held[0], call["weights"]
    size = held.numel()
    count = np.bincount(index, minlength=size)
    if len(count) != size:
        return (None,)
    if weights is None:
        return (Reference(count, 0.0, 0.0, "exact"),)
    if not bits.has_values(weights.dtype) or not is_covered_float(held.dtype):
        return (None,)
    out, w = call.out_format(), bits.values(weights).astype(np.float64)
    expected = np.bincount(index, w, minlength=size)
    total = np.bincount(index, np.abs(w), minlength=size)
    added = np.maximum(count - 1, 0)
    cast = out.u * total if weights.dtype is not held.dtype else 0.0
    limit = added * out.u * total + np.where(added > 0, own_rounding(max(len(w), 1), total), 0.0)
    return (Reference(expected, limit + cast, limit + cast, "(k - 1) u sum|w|", total),)


def _histc_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype not in (torch.float32, torch.float64):
        return []
    draw = draw_values(generator, dtype, "any")
    op = aten.histc
    return [(op.default, (draw(300),), {}), (op.default, (draw(9, 37).t(), 7, -2, 3), {}),
            (op.default, (draw(600)[::2], 13), {}), (op.default, (torch.ones(5, dtype=dtype),), {}),
            (op.out, (draw(300), 5), {"out": draw(5)})]


def _ends(call: HostCall, x: Any) -> tuple[float, float]:
    """The range: given, or that of the data, or one around a single value."""
    low, high = float(call["min"]), float(call["max"])
    if low == high and x.size:
        low, high = float(x.min()), float(x.max())
    return (low - 1, high + 1) if low == high else (low, high)


@checked(aten.histc, family="selection", axes=_axes, symmetries=_symmetries, flops=input_flops,
         reduction=True, deterministic=False, samples=_histc_samples)
def histc(call: HostCall) -> tuple[Reference | None, ...]:
    """How many elements fall into each of equal bins; what lies outside the range is left out."""
    given, held = call["self"], call.held[0]
    if given.dtype not in FLOATS or given.dtype is not held.dtype or not given.numel():
        return (None,)
    fmt = format_of(given.dtype)
    x, bins = call.array("self").ravel(), int(call["bins"])
    if x.size * fmt.u >= 1 or not np.isfinite(x).all():
        return (None,)
    low, high = _ends(call, x)
    reach = high - low
    if not 4 * bins / fmt.max < reach < fmt.max / 4 / bins or reach < 4 * fmt.tiny:
        return (None,)
    place = (x - low) / reach * bins
    slack = 8 * fmt.u * bins * (1 + max(abs(low), abs(high)) / reach) + 2.0**-40 * bins
    if slack >= 0.5:
        return (None,)
    inside = (x >= low) & (x <= high)
    expected = np.bincount(np.minimum(place[inside].astype(np.int64), bins - 1), minlength=bins)
    # An element near an edge may be counted on either side of it, or left out at an end.
    edge = np.rint(place)
    near = (np.abs(place - edge) <= slack) & (edge >= 0) & (edge <= bins)
    ambiguous = np.bincount(edge[near].astype(np.int64), minlength=bins + 1)
    limit = (ambiguous[:-1] + ambiguous[1:]).astype(np.float64)
    return (Reference(expected.astype(np.float64), limit, limit, "elements near an edge",
                      float(x.size)),)
