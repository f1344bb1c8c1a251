"""Fractional max pools (Graham 2014) with given samples, and their gradients.

With n elements, m results, windows of k and a sample u in [0, 1), ``a = (n - k) / (m - 1)``,
result i < m - 1 takes the window from ``floor((i + u) a) - floor(u a)`` and the last one that from
``n - k``.  The values are exact and the index may name any element that equals the maximum.  A
kernel computes the products in the operand's own format: each is off by at most ``4 u (i + 1) a``,
and a result of which one of the two lies that close to an integer is not judged.

The gradient adds what the indices name, see :mod:`sdc_guard.ops.max_pool`.  Rolled images and
channels keep every bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.interpolation import floored_in_fp32
from sdc_guard.calls import BoundCall
from sdc_guard.formats import format_of, is_covered_float
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._pools import plane_axes, plane_symmetries, rank_of
from sdc_guard.ops._registry import F64, HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values
from sdc_guard.ops.max_pool import _named, _positions, linear_symmetries, scattered

aten = torch.ops.aten


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    axes = plane_axes(call, held)
    path = (call.form.position("random_samples"),)
    batched = held[0].dim() > rank_of(call) + 1
    return Axes({**axes.operands, path: ("n" if batched else FIXED, "c", FIXED)}, axes.outputs)


def starts(samples: F64, size: int, out: int, kernel: int, u: float
           ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where the windows of each plane start [planes, out], and where that is certain."""
    place = np.arange(out, dtype=np.float64)
    step = (size - kernel) / (out - 1) if out > 1 else 0.0
    first, later = samples[:, None] * step, (place + samples[:, None]) * step
    sure = np.ones(later.shape, dtype=bool)
    for x in (first, later):
        off = 4 * (u + 2.0**-52) * (place + 1) * step + floored_in_fp32(x, u)
        sure &= (np.abs(x - np.rint(x)) > off) | (x == 0)
    start = (np.floor(later) - np.floor(first)).astype(np.int64)
    start[:, -1:], sure[:, -1:] = size - kernel, True
    return start, sure


def fractional_max_pool(call: HostCall) -> tuple[Reference | None, ...]:
    """The maximum of each window and the index of an element that equals it."""
    held = call.held
    if not is_covered_float(held[0].dtype) or not held[0].numel():
        return (None, None)
    rank, x = rank_of(call), call.array("self")
    sizes, outs, kernel = x.shape[-rank:], held[0].shape[-rank:], call["kernel_size"]
    samples = call.array("random_samples").reshape(-1, rank)
    planes = samples.shape[0]
    u = format_of(call["random_samples"].dtype).u
    x, places = x.reshape(planes, *sizes), _positions(sizes)
    found = []
    for d in range(rank):
        # Two dimensions have the sample of the width first, three that of the depth.
        column = samples[:, rank - 1 - d if rank == 2 else d]
        found.append(starts(column, sizes[d], outs[d], kernel[d], u))
    certain = np.ones((planes, *outs), dtype=bool)
    for d, (_, sure) in enumerate(found):
        certain &= sure.reshape(planes, *(outs[d] if e == d else 1 for e in range(rank)))
    plane = np.arange(planes).reshape(planes, *(1,) * rank)
    maximum = np.full((planes, *outs), -np.inf)
    reads = []
    for tap in np.ndindex(*kernel):
        index: Any = tuple(
            np.clip(start + t, 0, sizes[d] - 1).reshape(
                planes, *(outs[d] if e == d else 1 for e in range(rank)))
            for d, ((start, _), t) in enumerate(zip(found, tap, strict=True)))
        read = np.broadcast_to(x[(plane, *index)], maximum.shape)
        where = np.broadcast_to(places[index], maximum.shape)
        shape = tuple(held[0].shape)
        reads.append((read.reshape(shape), where.reshape(shape)))
        maximum = np.maximum(maximum, read)
    unsure = ~certain.reshape(tuple(held[0].shape))
    value, index = _named(maximum.reshape(tuple(held[0].shape)), reads, held)
    if value is not None:
        limit = np.where(unsure, np.inf, 0.0)
        value = Reference(value.expected, limit, limit, value.formula)
    if index is not None:  # no limit speaks of integers
        index = Reference(np.where(unsure, bits.values(held[1]), index.expected), 0.0, 0.0,
                          index.formula)
    return value, index


_CALLS: dict[int, tuple[tuple[tuple[int, ...], list[int], list[int]], ...]] = {
    2: (((2, 3, 9, 11), [2, 3], [4, 5]), ((4, 8, 8), [3, 3], [3, 5]),
        ((1, 2, 5, 6), [5, 2], [1, 3])),
    3: (((2, 3, 5, 6, 7), [2, 2, 3], [3, 2, 4]), ((2, 6, 6, 6), [2, 2, 2], [4, 3, 1])),
}


def _samples(packet: Any, rank: int) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in FLOATS:
            return []
        calls: SampleList = []
        for shape, kernel, outs in _CALLS[rank]:
            lead = shape[:-rank] if len(shape) > rank + 1 else (1, shape[0])
            drawn = torch.rand(*lead, rank, generator=generator, dtype=torch.float64).to(dtype)
            x = draw_values(generator, dtype, "mixed")(*shape)
            calls.append((packet.default, (x, kernel, outs, drawn), {}))
        return calls

    return samples


def _backward_samples(packet: Any, forward: Any, rank: int) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        calls: SampleList = []
        for op, (x, kernel, outs, drawn), _ in _samples(forward, rank)(generator, dtype):
            value, index = op(x, kernel, outs, drawn)
            grad = draw_values(generator, dtype, "mixed")(*value.shape)
            calls.append((packet.default, (grad, x, kernel, outs, index), {}))
        return calls

    return samples


for _rank in (2, 3):
    _packet = getattr(aten, f"fractional_max_pool{_rank}d")
    _gradient = getattr(aten, f"fractional_max_pool{_rank}d_backward")
    checked(_packet, family="pooling", axes=_axes, symmetries=plane_symmetries,
            window=("n", "c"), samples=_samples(_packet, _rank))(fractional_max_pool)
    checked(_gradient, family="pooling", axes=plane_axes, symmetries=linear_symmetries,
            window=("n", "c"), deterministic=False,
            samples=_backward_samples(_gradient, _packet, _rank))(scattered)
