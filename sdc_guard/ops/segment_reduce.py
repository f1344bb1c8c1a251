"""``segment_reduce``: sums, means, extrema and products of runs of rows; fp32 and fp64.

A run of K elements and the initial value, in any order: the sum is K additions,
``gamma_K sum|x|``, and the mean a division more; extrema are exact; the product is K roundings,
``gamma_K |prod|``, judged where no partial product of any order can underflow.  Half formats, which
ATen adds in the format itself (``SegmentReduce.cpp``), are repeated only.

The gradient of a sum is a copy, that of a mean one division; the elements of no run have 0.  Those
of extrema and products are not judged: ATen shares the gradient of equal extrema only where it is
positive.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.casts import nearest
from sdc_guard.bounds.gamma import gamma, own_rounding
from sdc_guard.calls import BoundCall
from sdc_guard.formats import Format
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._registry import F64, HostCall, Reference, checked
from sdc_guard.ops._samples import SampleList, draw_values
from sdc_guard.ops._symmetry import RERUN

aten = torch.ops.aten

WIDE = (torch.float32, torch.float64)
FORMULA = "gamma_{K+1} sum|x|"


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    return Axes({path: (FIXED,) * t.dim() for path, t in call.tensors()},
                ((FIXED,) * held[0].dim(),))


def _input_flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    return int(call["data"].numel())


def _edges(call: HostCall) -> Any:
    """Where the runs begin and end, [..., runs + 1]."""
    if call.get("offsets") is not None:
        return bits.values(call["offsets"]).astype(np.int64)
    lengths = bits.values(call["lengths"]).astype(np.int64)
    return np.concatenate([np.zeros_like(lengths[..., :1]), lengths.cumsum(-1)], axis=-1)


def _fit(edges: Any, size: int) -> bool:
    """True for runs inside of the data: others are read from memory that is not the data's."""
    inside = np.all((edges >= 0) & (edges <= size))
    return bool(inside and np.all(np.diff(edges, axis=-1) >= 0))


def _runs(edges: Any) -> Iterator[tuple[Any, Any]]:
    """Index of each run in the result, and of its rows in the data."""
    for lead in itertools.product(*(range(n) for n in edges.shape[:-1])):
        for i, (start, stop) in enumerate(itertools.pairwise(edges[lead])):
            yield (*lead, i), (*lead, slice(int(start), int(stop)))


def _is_judged(call: HostCall, axis: int) -> bool:
    given = call.get("lengths") if call.get("offsets") is None else call.get("offsets")
    return (call.held[0].dtype in WIDE and given is not None and given.dim() == axis + 1
            and all(call[n].dtype is call.held[0].dtype for n in ("data", "grad")
                    if call.get(n) is not None))


def _samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype not in WIDE:
        return []
    draw, op = draw_values(generator, dtype, "any"), aten.segment_reduce.default
    lengths = torch.tensor([3, 1, 7, 0, 2])
    calls: SampleList = [(op, (draw(13, 5), how), {"lengths": lengths, "initial": 0.7})
                         for how in ("sum", "mean", "max", "min", "prod")]
    return [*calls, (op, (draw(700), "sum"), {"lengths": torch.tensor([300, 400])}),
            (op, (draw(5, 13).t(), "mean"), {"lengths": torch.tensor([6, 7])}),
            (op, (draw(2, 13, 3), "sum"), {"lengths": lengths.expand(2, 5), "axis": 1}),
            (op, (draw(13, 5), "sum"), {"offsets": torch.tensor([0, 4, 4, 13])})]


def _product(x: F64, start: float, fmt: Format) -> tuple[F64, F64, F64]:
    """The product with its limit, and the largest partial product of any order: infinite where the
    smallest may underflow."""
    sizes = np.abs(np.concatenate([x, np.full((1, *x.shape[1:]), start)]))
    value = start * x.prod(0)
    largest, smallest = np.maximum(sizes, 1).prod(0), np.minimum(sizes, 1).prod(0)
    limit = gamma(len(x) + 1, fmt.u) * np.abs(value) + own_rounding(len(x) + 1, np.abs(value))
    return value, limit, np.where(smallest > 2 * fmt.tiny, 2 * largest, np.inf)


@checked(aten.segment_reduce, family="reduction", axes=_axes, symmetries=(RERUN,),
         flops=_input_flops, reduction=True, deterministic=False, samples=_samples)
def segment_reduce(call: HostCall) -> tuple[Reference | None, ...]:
    """Every run of rows reduced to one row; a run of none has the initial value."""
    held, how = call.held[0], str(call["reduce"])
    axis = int(call["axis"])
    if not _is_judged(call, axis) or not _fit(_edges(call), call["data"].shape[axis]):
        return (None,)
    fmt, data, shape = call.out_format(), call.array("data"), tuple(held.shape)
    given = call.get("initial")
    neutral = {"max": -math.inf, "min": math.inf, "prod": 1.0}.get(how, 0.0)
    start = neutral if given is None else float(nearest(given, fmt))
    if math.isnan(start):
        return (None,)
    expected, limit, size = (np.zeros(shape) for _ in range(3))
    with np.errstate(all="ignore"):
        for at, rows in _runs(_edges(call)):
            x = data[rows]
            n = len(x)
            if how in ("max", "min"):
                expected[at] = (np.max if how == "max" else np.min)(x, axis=0, initial=start)
            elif how == "prod":
                expected[at], limit[at], size[at] = _product(x, start, fmt)
            else:
                divisor = n if how == "mean" and n else 1
                total, sizes = start + x.sum(0), abs(start) + np.abs(x).sum(0)
                empty = how == "mean" and not n and given is None
                expected[at] = math.nan if empty else total / divisor
                bound = gamma(n + 1, fmt.u) * sizes + own_rounding(n + 2, sizes)
                limit[at] = 0.0 if not n else bound / divisor + fmt.eta
                size[at] = sizes
    return (Reference(expected, limit, limit, FORMULA, size),)


def _backward_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype not in WIDE:
        return []
    calls: SampleList = []
    draw = draw_values(generator, dtype, "any")
    for op, args, kwargs in _samples(generator, dtype):
        if args[1] in ("sum", "mean"):
            result = op(*args, **kwargs)
            calls.append((aten._segment_reduce_backward.default,
                          (draw(*result.shape), result, *args), kwargs))
    return calls


@checked(aten._segment_reduce_backward, family="reduction", axes=_axes, symmetries=(RERUN,),
         flops=_input_flops, deterministic=False, samples=_backward_samples)
def segment_reduce_backward(call: HostCall) -> tuple[Reference | None, ...]:
    """Each element has the gradient of its run, for a mean divided by the run's length."""
    held, how = call.held[0], str(call["reduce"])
    axis = int(call["axis"])
    if how not in ("sum", "mean") or not _is_judged(call, axis) or not _fit(
            _edges(call), call["data"].shape[axis]):
        return (None,)
    grad, fmt = call.array("grad"), call.out_format()
    expected = np.zeros(tuple(held.shape))
    with np.errstate(all="ignore"):
        for at, rows in _runs(_edges(call)):
            n = rows[-1].stop - rows[-1].start
            if n:
                expected[rows] = grad[at] / (n if how == "mean" else 1)
        size = np.abs(expected)
        limit = np.where(size > 0, 2 * fmt.u * size + fmt.eta, 0.0) if how == "mean" else 0.0
    return (Reference(expected, limit, limit, "a copy" if how == "sum" else "u |g / K|", size),)
