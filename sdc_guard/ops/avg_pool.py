"""Average pools, plain and adaptive, forward and backward.

An average over a box is separable: along each dimension a 0/1 matrix adds the elements of each
window, and the divisor is a product of window lengths (padding included or not, or one given
number).  The reference applies these matrices in float64 by BLAS, the gradient their transposes.

*Bounds*, any order.  A window of K elements: K - 1 additions and a division,
``gamma_{K+1} sum|x| / div``.  A gradient of T windows: T quotients and T - 1 additions,
``gamma_{T+1} sum|dy| / div``; ATen's CPU kernels add these in the storage format, the windows in
the accumulator's (``AvgPoolKernel.cpp``, ``AdaptiveAvgPoolKernel.cpp``).  The adaptive pool in
three dimensions adds in the storage format too, and divides three times
(``AdaptiveAveragePooling3d.cpp``).

*Integers* (int64; plain pools only): the sum modulo 2^b, divided towards 0 as C++ divides; each
share of a gradient is divided so before it is added (``AvgPoolKernel.cpp``, ``AveragePool3d.cpp``).

*Place.*  As for max pools: rolled images and channels keep every bit, and so does negation.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard.bounds.gamma import gamma, own_rounding, rounding
from sdc_guard.calls import BoundCall
from sdc_guard.formats import Format, accumulator_of, format_of, is_covered_float
from sdc_guard.ops._determinism import NOT_DETERMINISTIC_ON_CUDA
from sdc_guard.ops._integers import exact, is_integer, summable, truncated_quotient, whole
from sdc_guard.ops._places import BODY_MULTIPLE
from sdc_guard.ops._pools import (
    Pool,
    plane_axes,
    plane_symmetries,
    pool_flops,
    pool_samples,
    rank_of,
)
from sdc_guard.ops._registry import F64, HostCall, Reference, SamplesFn, checked, packet_name
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values
from sdc_guard.ops._separable import applied, outer
from sdc_guard.ops._shifts import per_dim
from sdc_guard.ops._symmetry import RERUN, Symmetry, negate
from sdc_guard.ops.max_pool import adaptive_edges

aten = torch.ops.aten
INTEGERS = "exact sum, divided towards 0"
Array = NDArray[Any]
Boxes = tuple[list[F64], F64]
"""A 0/1 matrix per dimension [out, in] and the divisors [out...]."""


def _plain_boxes(call: HostCall, large: tuple[int, ...], small: tuple[int, ...]) -> Boxes:
    rank = len(large)
    kernel = per_dim(call["kernel_size"], rank)
    stride = per_dim(call["stride"], rank) if call["stride"] else kernel
    padding = per_dim(call["padding"], rank)
    matrices: list[F64] = []
    lengths: list[F64] = []
    for n, m, k, s, p in zip(large, small, kernel, stride, padding, strict=True):
        start = np.arange(m) * s - p
        stop = np.minimum(start + k, n + p)
        columns = np.arange(n)
        inside = (columns >= start[:, None]) & (columns < stop[:, None])
        matrices.append(inside.astype(np.float64))
        length = stop - start if call["count_include_pad"] else inside.sum(1)
        lengths.append(length.astype(np.float64))
    override = call["divisor_override"]
    divisors = outer(lengths) if override is None else np.full(small, float(override))
    return matrices, divisors


def _adaptive_boxes(call: HostCall, large: tuple[int, ...], small: tuple[int, ...]) -> Boxes:
    matrices = []
    for n, m in zip(large, small, strict=True):
        matrix = np.zeros((m, n))
        for i, (start, stop) in enumerate(adaptive_edges(n, m)):
            matrix[i, start:stop] = 1.0
        matrices.append(matrix)
    return matrices, outer([m.sum(1) for m in matrices])


def _boxes(call: HostCall, large: tuple[int, ...], small: tuple[int, ...]) -> Boxes:
    adaptive = "kernel_size" not in call.call.form.argument_names
    return (_adaptive_boxes if adaptive else _plain_boxes)(call, large, small)


def symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Rolled images and channels, and negation.  Channels that lie side by side in memory stay
    where some are left over after the vectors: those round otherwise."""
    name = "grad_output" if "grad_output" in call.form.argument_names else "self"
    rank = rank_of(call)
    moved = plane_symmetries(call, held)[:-1]
    channels = call[name].dim() - rank - 1
    beside = any(t.stride(channels) == 1 for t in (call[name], call["self"], held[0]))
    if beside and held[0].shape[channels] % BODY_MULTIPLE:
        moved = tuple(s for s in moved if s.name != "roll c")
    return (*moved, negate(name), RERUN)


def _mean_reference(expected: F64, size: F64, num_terms: int, compute: Format, held: Tensor,
                    touched: F64 | None = None) -> Reference:
    out = format_of(held.dtype)
    error = gamma(num_terms + 1, compute.u) * size + own_rounding(num_terms + 4, size)
    error = error + (num_terms + 1) * compute.eta
    if compute is not out:
        error = error + rounding(np.abs(expected) + error, out)
    # An element in no window is exactly 0; the size of others may underflow.
    error = np.where((size if touched is None else touched) == 0.0, 0.0, error)
    return Reference(expected, error, error, "gamma_{K+1} sum|x| / div + rounding", size)


def _integer_pool(x: Array, matrices: list[F64], terms: int) -> Array:
    """The 0/1 maps applied to integers, modulo 2^64."""
    (factor,) = summable(terms, x)
    maps: list[Array] = [m.astype(factor.dtype) for m in matrices]
    return whole(applied(factor, maps))


def _integer_avg_pool(call: HostCall, held: Tensor) -> Reference | None:
    if call["self"].dtype is not held.dtype:
        return None
    rank, x = rank_of(call), call.array("self")
    matrices, divisors = _boxes(call, x.shape[-rank:], tuple(held.shape[-rank:]))
    with np.errstate(all="ignore"):
        total = _integer_pool(x, matrices, math.prod(x.shape[-rank:]))
        return exact(truncated_quotient(total, divisors.astype(np.int64)), held, INTEGERS)


def _integer_avg_pool_backward(call: HostCall, held: Tensor) -> Reference | None:
    if call["grad_output"].dtype is not held.dtype:
        return None
    rank, grad = rank_of(call), call.array("grad_output")
    matrices, divisors = _boxes(call, tuple(held.shape[-rank:]), grad.shape[-rank:])
    with np.errstate(all="ignore"):
        shares = truncated_quotient(grad.astype(np.int64), divisors.astype(np.int64))
        total = _integer_pool(shares, [m.T for m in matrices], math.prod(grad.shape[-rank:]))
    return exact(total, held, INTEGERS)


def avg_pool(call: HostCall) -> tuple[Reference | None, ...]:
    """The sum of each window, divided."""
    held = call.held[0]
    if is_integer(held.dtype):
        return (_integer_avg_pool(call, held),)
    if not is_covered_float(held.dtype):
        return (None,)
    rank, x = rank_of(call), call.array("self")
    with np.errstate(all="ignore"):
        matrices, divisors = _boxes(call, x.shape[-rank:], tuple(held.shape[-rank:]))
        total, size = applied(x, matrices), applied(np.abs(x), matrices)
        terms = math.prod(int(m.sum(1).max(initial=0)) for m in matrices)
        own = call.call.form.packet == "aten._adaptive_avg_pool3d"
        compute = format_of(held.dtype) if own else accumulator_of(held.dtype)
        reference = _mean_reference(total / divisors, size / np.abs(divisors), terms + 2 * own,
                                    compute, held)
    return (_with_size(reference, size),)


def avg_pool_backward(call: HostCall) -> tuple[Reference | None, ...]:
    """Each element adds the gradients of its windows, divided."""
    held = call.held[0]
    if is_integer(held.dtype):
        return (_integer_avg_pool_backward(call, held),)
    if not is_covered_float(held.dtype):
        return (None,)
    rank, grad = rank_of(call), call.array("grad_output")
    with np.errstate(all="ignore"):
        matrices, divisors = _boxes(call, tuple(held.shape[-rank:]), grad.shape[-rank:])
        shares = grad / divisors
        transposed = [m.T for m in matrices]
        size = applied(np.abs(shares), transposed)
        terms = math.prod(int(m.sum(0).max(initial=0)) for m in matrices)
        touched = applied((grad != 0).astype(np.float64), transposed)
        return (_mean_reference(applied(shares, transposed), size, terms + 1,
                                format_of(held.dtype), held, touched),)


def _with_size(reference: Reference, size: F64) -> Reference:
    """The same with the undivided sum as the largest intermediate."""
    return Reference(reference.expected, reference.proof, reference.contract, reference.formula,
                     np.maximum(size, reference.magnitude))


POOLS: dict[str, tuple[Pool, ...]] = {
    "aten.avg_pool2d": (
        ((2, 5, 9, 11), ([2, 2], [2, 2], [0, 0], False, True, None)),
        ((2, 5, 9, 11), ([3, 2], [2, 1], [1, 0], False, False, None)),
        ((5, 7, 8), ([3, 3], [2, 2], [1, 1], True, True, None)),
        ((2, 3, 7, 7), ([3, 3], [1, 1], [1, 1], False, True, 5))),
    "aten.avg_pool3d": (
        ((2, 3, 5, 6, 7), ([2, 2, 2], [2, 2, 2], [0, 0, 0], False, True, None)),
        ((3, 5, 6, 7), ([3, 2, 3], [2, 1, 2], [1, 0, 1], True, False, None))),
    "aten._adaptive_avg_pool2d": (((2, 5, 9, 11), ([4, 3],)), ((3, 5, 7), ([2, 7],))),
    "aten._adaptive_avg_pool3d": (((2, 3, 5, 6, 7), ([2, 4, 3],)),),
}


def _forward_samples(packet: Any) -> SamplesFn:
    floats = tuple(d for d in FLOATS if d.itemsize > 2 or packet is not aten.avg_pool3d)
    plain = (torch.int64,) if "adaptive" not in str(packet) else ()
    return pool_samples(packet, POOLS[str(packet)], "any", (*floats, *plain))


def _backward_samples(packet: Any, forward: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        calls: SampleList = []
        for op, args, _ in _forward_samples(forward)(generator, dtype):
            value = op(*args)
            draw = draw_values(generator, dtype, "any")
            grad = torch.empty_like(value).copy_(draw(*value.shape))
            rest = () if "adaptive" in str(packet) else args[1:]
            calls.append((packet.default, (grad, args[0], *rest), {}))
        return calls

    return samples


for _forward, _backward in (
    (aten.avg_pool2d, aten.avg_pool2d_backward), (aten.avg_pool3d, aten.avg_pool3d_backward),
    (aten._adaptive_avg_pool2d, aten._adaptive_avg_pool2d_backward),
    (aten._adaptive_avg_pool3d, aten._adaptive_avg_pool3d_backward),
):
    checked(_forward, family="pool", axes=plane_axes, symmetries=symmetries, flops=pool_flops,
            window=("n", "c"), samples=_forward_samples(_forward))(avg_pool)
    checked(_backward, family="pool", axes=plane_axes, symmetries=symmetries,
            window=("n", "c"), samples=_backward_samples(_backward, _forward),
            deterministic=packet_name(_backward) not in NOT_DETERMINISTIC_ON_CUDA)(
                avg_pool_backward)
