"""``histogram``: how many elements, or how much weight, falls between two edges.

The counts are judged against the edges that the call returned, which ATen compares every element
with: given edges by binary search, its own by a place computed to within one bin and a search among
the neighbours (``HistogramKernel.cpp``); where rounding may shift that place by half a bin nothing
is judged.  Counts are exact below ``1 / u`` elements; k weights are a sum in any order,
``gamma_k sum|w|``.  Given edges are returned as they are; ATen's own are equal steps over the
range, off by 8 u of its reach and of its ends (a contract: a product and two sums for each).
Densities and edges that are not sorted are not judged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.gamma import gamma, own_rounding
from sdc_guard.calls import BoundCall
from sdc_guard.formats import Format
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._reductions import input_flops
from sdc_guard.ops._registry import F64, HostCall, Reference, checked
from sdc_guard.ops._samples import SampleList, draw_values
from sdc_guard.ops._symmetry import RERUN

aten = torch.ops.aten

WIDE = (torch.float32, torch.float64)


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    return Axes({path: (FIXED,) * t.dim() for path, t in call.tensors()},
                tuple((FIXED,) * t.dim() for t in held))


def _samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype not in WIDE:
        return []
    draw, op = draw_values(generator, dtype, "any"), aten.histogram
    edges = draw(9).sort().values
    return [(op.bin_ct, (draw(300), 13), {}), (op.bin_ct, (draw(9, 37).t(), 7),
             {"range": [-2.0, 3.0]}), (op.bin_ct, (draw(600)[::2], 5), {"weight": draw(300)}),
            (op.bins_tensor, (draw(300), edges), {}),
            (op.bins_tensor, (draw(9, 37), edges), {"weight": draw(9, 37)})]


def _steps(low: float, high: float, bins: int, fmt: Format) -> Reference | None:
    """Equal steps; None where rounding may shift a place by half a bin."""
    reach, ends = high - low, max(abs(low), abs(high))
    if not 4 * fmt.tiny * (bins + 1) < reach < fmt.max / 4 / (bins + 1):
        return None
    if 8 * fmt.u * bins * (1 + ends / reach) >= 0.5:
        return None
    limit = (8 * fmt.u + 2.0**-50) * (ends + reach)
    return Reference(low + reach * np.arange(bins + 1) / bins, None, limit,
                     "8 u (max|end| + reach)", ends + reach)


def _range(call: HostCall, x: F64) -> tuple[float, float]:
    given = call.get("range")
    low, high = (given[0], given[1]) if given is not None else (
        (x.min(), x.max()) if x.size else (0.0, 1.0))
    return (low - 0.5, high + 0.5) if low == high else (float(low), float(high))


@checked(aten.histogram, family="selection", axes=_axes, symmetries=(RERUN,), flops=input_flops,
         reduction=True, deterministic=False, samples=_samples)
def histogram(call: HostCall) -> tuple[Reference | None, ...]:
    """The weight between two edges, the last of them included, and the edges."""
    held = call.held
    tensors = [t for _, t in call.call.tensors()]
    if held[0].dtype not in WIDE or any(t.dtype is not held[0].dtype for t in (*tensors, held[1])):
        return None, None
    fmt, x = call.out_format(), call.array("self").reshape(-1)
    if isinstance(call["bins"], Tensor):
        given = call.array("bins")
        steps: Reference | None = Reference(given, 0.0, 0.0, "a copy")
        if not (given[1:] >= given[:-1]).all():
            return None, steps
    else:
        if not np.isfinite(x).all():
            return None, None
        steps = _steps(*_range(call, x), int(call["bins"]), fmt)
        if steps is None:
            return None, None
    edges = bits.values(held[1])
    if call["density"] or x.size * fmt.u >= 1 or not (edges[1:] >= edges[:-1]).all():
        return None, steps
    return _filled(call, x, edges, fmt), steps


def _filled(call: HostCall, x: F64, edges: F64, fmt: Format) -> Reference:
    inside = (x >= edges[0]) & (x <= edges[-1])
    bins = len(edges) - 1
    place = np.minimum(np.searchsorted(edges, x[inside], side="right") - 1, bins - 1)
    count = np.bincount(place, minlength=bins).astype(np.float64)
    if call.get("weight") is None:
        return Reference(count, 0.0, 0.0, "exact")
    weight: Any = call.array("weight").reshape(-1)[inside]
    with np.errstate(all="ignore"):
        total = np.bincount(place, weight, minlength=bins)
        size = np.bincount(place, np.abs(weight), minlength=bins)
        error = (gamma(x.size, fmt.u) + own_rounding(max(x.size, 1), 1.0)) * size
    return Reference(total, error, error, "gamma_k sum|w|", size)
