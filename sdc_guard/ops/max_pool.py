"""Max pools with indices, and the scatters that are their gradients.

*Forward.*  A maximum is an operand, so the values are exact: the reference takes the maximum over
the taps in NumPy (:mod:`sdc_guard.ops._shifts`).  A NaN anywhere in a window is its maximum.  Which
of several equal elements the index names is the kernel's own choice: any of them is right.

*Backward.*  Gradients are added where the indices say.  An element that at most one window names is
exact; one that ``t`` windows name is a sum of t terms that ATen's CPU kernels add in the storage
format: ``gamma_{t-1}(u) sum|dy|``, any order.

*Place.*  Planes are computed by themselves: rolled images and channels keep every bit (seen in 4
formats, contiguous and channels-last, 1 and 2 threads).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.gamma import gamma
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT64, format_of, is_covered_float
from sdc_guard.ops._determinism import NOT_DETERMINISTIC_ON_CUDA
from sdc_guard.ops._pools import (
    Pool,
    plane_axes,
    plane_symmetries,
    pool_flops,
    pool_samples,
    rank_of,
)
from sdc_guard.ops._registry import HostCall, Reference, SamplesFn, checked, packet_name
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values
from sdc_guard.ops._shifts import Window, per_dim, taps
from sdc_guard.ops._symmetry import Symmetry, negate

aten = torch.ops.aten
Array = NDArray[Any]


def linear_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Rolled images and channels, and the negated gradient."""
    signed = (negate("grad_output"),) if held[0].is_floating_point() else ()
    moved = plane_symmetries(call, held)
    return (*moved[:-1], *signed, moved[-1])


def window_of(call: HostCall) -> Window:
    """Kernel, stride (the kernel where none is given), padding and dilation."""
    rank = rank_of(call)
    kernel = per_dim(call["kernel_size"], rank)
    stride = per_dim(call["stride"], rank) if call["stride"] else kernel
    return Window(kernel, stride, per_dim(call["padding"], rank), per_dim(call["dilation"], rank))


def _lowest(dtype: np.dtype[Any]) -> Any:
    return -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


def _judged(maximum: Array, index: Array, named: Array, held: Sequence[Tensor]
            ) -> tuple[Reference | None, ...]:
    """``named``: where the held index is that of an element equal to the maximum."""
    got = bits.values(held[1])
    return (Reference(maximum, 0.0, 0.0, "exact: the maximum of its window"),
            Reference(np.where(named, got, index), 0.0, 0.0, "exact: an index of the maximum"))


def _positions(shape: Sequence[int]) -> Array:
    """The index that the op gives each element of a plane, as float64 (exact)."""
    return np.arange(math.prod(shape), dtype=np.float64).reshape(tuple(shape))


def max_pool(call: HostCall) -> tuple[Reference | None, ...]:
    """The maximum of each window and the index of an element that equals it."""
    held = call.held
    if not bits.has_values(held[0].dtype):
        return (None, None)
    x, rank = call.array("self"), rank_of(call)
    window, small = window_of(call), tuple(held[0].shape[-rank:])
    lowest = _lowest(x.dtype)
    maximum = np.full(tuple(held[0].shape), lowest, dtype=x.dtype)
    reads = [(read, where) for (_, read), (_, where) in zip(
        taps(x, small, window, lowest), taps(_positions(x.shape[-rank:]), small, window, -1.0),
        strict=True)]
    for read, _ in reads:
        maximum = np.maximum(maximum, read)
    return _named(maximum, reads, held)


def _named(maximum: Array, reads: list[tuple[Array, Array]], held: Sequence[Tensor]
           ) -> tuple[Reference | None, ...]:
    got = bits.values(held[1])
    index = np.zeros(maximum.shape, dtype=np.int64)
    named = np.zeros(maximum.shape, dtype=bool)
    for read, where in reversed(reads):
        equal = ((read == maximum) | ((read != read) & (maximum != maximum))) & (where >= 0)
        index = np.where(equal, where.astype(np.int64), index)
        named |= equal & (got == where)
    return _judged(maximum, index, named, held)


def adaptive_edges(size: int, out: int) -> list[tuple[int, int]]:
    """The windows of an adaptive pool: from ``floor(i n / m)`` to ``ceil((i + 1) n / m)``."""
    return [(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]


def adaptive_max_pool(call: HostCall) -> tuple[Reference | None, ...]:
    """The maximum of each adaptive window and the index of an element that equals it."""
    held = call.held
    if not bits.has_values(held[0].dtype):
        return (None, None)
    x, rank = call.array("self"), rank_of(call)
    small = held[0].shape[-rank:]
    lead = x.ndim - rank
    edges = [adaptive_edges(n, m) for n, m in zip(x.shape[-rank:], small, strict=True)]
    longest = [max((e - s for s, e in pairs), default=0) for pairs in edges]
    places = _positions(x.shape[-rank:])
    reads: list[tuple[Array, Array]] = []
    maximum = np.full(tuple(held[0].shape), _lowest(x.dtype), dtype=x.dtype)
    for tap in np.ndindex(*longest):
        # A window shorter than the longest reads its last element again.
        index: Any = np.ix_(*(np.array([min(s + t, e - 1) for s, e in pairs], dtype=np.int64)
                         for pairs, t in zip(edges, tap, strict=True)))
        everywhere: Any = (slice(None),) * lead
        reads.append((x[(*everywhere, *index)], places[index]))
        maximum = np.maximum(maximum, reads[-1][0])
    return _named(maximum, reads, held)


def scattered(call: HostCall) -> tuple[Reference | None, ...]:
    """The gradients of the windows, added where their indices say; 0 elsewhere."""
    held = call.held[0]
    if not is_covered_float(held.dtype):
        return (None,)
    rank, grad = rank_of(call), call.array("grad_output")
    size = math.prod(held.shape[-rank:])
    planes = held.numel() // size if size else 0
    places = call.array("indices").reshape(planes, -1) + size * np.arange(planes)[:, None]
    index = places.ravel()
    flat = grad.ravel()
    with np.errstate(all="ignore"):
        total, abs_sum, count = (
            np.bincount(index, weights, minlength=planes * size).reshape(tuple(held.shape))
            for weights in (flat, np.abs(flat), None))
        fmt = format_of(held.dtype)
        many = int(count.max(initial=0))
        limit = gamma(max(many - 1, 0), fmt.u) + gamma(max(many - 1, 0), FLOAT64.u)
        error = np.where(count > 1, limit * abs_sum + many * fmt.eta, 0.0)
    return (Reference(total, error, error, "gamma_{t-1} sum|dy|", abs_sum),)


POOLS: dict[str, tuple[Pool, ...]] = {
    "aten.max_pool2d_with_indices": (
        ((2, 5, 9, 11), ([2, 2],)), ((2, 5, 9, 11), ([3, 2], [2, 1], [1, 0], [1, 2])),
        ((5, 7, 8), ([3, 3], [1, 1], [1, 1])), ((2, 3, 7, 7), ([3, 3], [2, 2], 0, 1, True))),
    "aten.max_pool3d_with_indices": (
        ((2, 3, 5, 6, 7), ([2, 2, 2],)), ((3, 5, 6, 7), ([3, 2, 3], [2, 1, 2], [1, 0, 1]))),
    "aten.adaptive_max_pool2d": (((2, 5, 9, 11), ([4, 3],)), ((3, 5, 7), ([1, 7],))),
    "aten.adaptive_max_pool3d": (((2, 3, 5, 6, 7), ([2, 4, 3],)),),
}


def _forward_samples(packet: Any) -> SamplesFn:
    return pool_samples(packet, POOLS[str(packet)], "mixed", FLOATS)


def _backward_samples(packet: Any, forward: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        calls: SampleList = []
        for op, args, _ in _forward_samples(forward)(generator, dtype):
            value, index = op(*args)
            draw = draw_values(generator, dtype, "mixed")
            grad = torch.empty_like(value).copy_(draw(*value.shape))
            if "adaptive" in str(packet):
                calls.append((packet.default, (grad, args[0], index), {}))
                continue
            rank = 3 if "3d" in str(packet) else 2
            kernel, stride, padding, dilation, ceil = (*args[1:], *(None,) * 5)[:5]
            calls.append((packet.default, (
                grad, args[0], kernel, stride or [], padding or [0] * rank, dilation or [1] * rank,
                bool(ceil), index), {}))
        return calls

    return samples


_PAIRS = (
    (aten.max_pool2d_with_indices, aten.max_pool2d_with_indices_backward, max_pool),
    (aten.max_pool3d_with_indices, aten.max_pool3d_with_indices_backward, max_pool),
    (aten.adaptive_max_pool2d, aten.adaptive_max_pool2d_backward, adaptive_max_pool),
    (aten.adaptive_max_pool3d, aten.adaptive_max_pool3d_backward, adaptive_max_pool),
)


for _forward, _backward, _reference in _PAIRS:
    checked(_forward, family="pool", axes=plane_axes, symmetries=plane_symmetries,
            flops=pool_flops, window=("n", "c"), samples=_forward_samples(_forward))(_reference)
    checked(_backward, family="pool", axes=plane_axes, symmetries=linear_symmetries,
            window=("n", "c"), samples=_backward_samples(_backward, _forward),
            deterministic=packet_name(_backward) not in NOT_DETERMINISTIC_ON_CUDA)(scattered)
