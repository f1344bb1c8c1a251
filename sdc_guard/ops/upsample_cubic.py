"""Bicubic interpolation and antialiased resizing (linear, cubic, Lanczos), forward and backward.

Each is one linear map per dimension, the gradient its transpose.  The reference applies the
matrices of :mod:`sdc_guard.bounds.interpolation` in float64 by BLAS; the bound there on each
weight's error and that of the sums (:func:`sdc_guard.ops._separable.weighted`) make the proof.
Weights are computed in fp32 at least, and kept and added up in the operand's own format.

*Contract.*  Forward, a row is finished before it enters a column
(``aten/src/ATen/native/cpu/UpSampleKernel.cpp``), so the chain of sums is as long as the
dimensions' numbers of terms together; backward every product is added to the gradient by itself.

Some of these kernels copy what keeps its size, others go by the given scale, and a gradient does
not always do what its forward did: nothing is judged where a dimension keeps its size although a
scale other than 1 is given.  Images of bytes have integer weights of their own and are left to
replay.

torch 2.13 resizes columns of width 1 antialiased with the weights of the first result (``size=(3,
1)`` of a ramp of 6 gives 0.71 three times on a CPU): that is found and is no false alarm.

*Place.*  As for linear interpolation: rolled images, rolled channels where no vector of them is
left over, negation (seen in 4 formats, contiguous and channels-last, 1 and 2 threads).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sdc_guard.bounds.interpolation import antialias_weights, cubic_weights
from sdc_guard.formats import FLOAT32, accumulator_of, format_of, is_covered_float
from sdc_guard.ops._determinism import NOT_DETERMINISTIC_ON_CUDA
from sdc_guard.ops._registry import F64, HostCall, Reference, checked, packet_name
from sdc_guard.ops._samples import FLOATS, SampleList
from sdc_guard.ops._separable import Map, weighted
from sdc_guard.ops.upsample_linear import _axes, flops, symmetries

aten = torch.ops.aten
FORMULA = "((|W| + B) - |W|) |x| + gamma_T (|W| + B) |x|"
Weights = Callable[[int, int, bool, float | None, float], tuple[F64, F64]]


def _matrices(call: HostCall, weights: Weights, sizes: tuple[int, ...], outs: tuple[int, ...]
              ) -> list[Map] | None:
    """One map per dimension; None where kernels differ."""
    align, held = bool(call["align_corners"]), call.held[0]
    scales = (call.get("scales_h"), call.get("scales_w"))
    if not align and any(n == m and s not in (None, 1.0)
                         for n, m, s in zip(sizes, outs, scales, strict=True)):
        return None
    fmt, compute = format_of(held.dtype), accumulator_of(held.dtype)
    found = []
    for size, out, scale in zip(sizes, outs, scales, strict=True):
        weight, limit = weights(size, out, align, scale, compute.u)
        if fmt.precision < FLOAT32.precision:
            limit = limit + fmt.u * (abs(weight) + limit)
        found.append(Map.of(weight, limit))
    return found


def _forward(weights: Weights) -> Callable[[HostCall], tuple[Reference | None, ...]]:
    def interpolate(call: HostCall) -> tuple[Reference | None, ...]:
        """The weighted sum of the elements in reach along both dimensions."""
        held = call.held[0]
        if not is_covered_float(held.dtype):
            return (None,)
        x = call.array("self")
        maps = _matrices(call, weights, tuple(x.shape[2:]), tuple(held.shape[2:]))
        if maps is None:
            return (None,)
        depth = sum(m.depth for m in maps)
        return (weighted(x, maps, format_of(held.dtype), held, FORMULA, depth=depth),)

    return interpolate


def _backward(weights: Weights) -> Callable[[HostCall], tuple[Reference | None, ...]]:
    def interpolate_backward(call: HostCall) -> tuple[Reference | None, ...]:
        """Each element adds its shares of the gradients in reach."""
        held = call.held[0]
        if not is_covered_float(held.dtype):
            return (None,)
        grad = call.array("grad_output")
        maps = _matrices(call, weights, tuple(held.shape[2:]), grad.shape[2:])
        if maps is None:
            return (None,)
        turned = [m.turned for m in maps]
        return (weighted(grad, turned, format_of(held.dtype), held, FORMULA),)

    return interpolate_backward


def _antialiased(kind: str) -> Weights:
    return lambda n, m, align, scale, u: antialias_weights(kind, n, m, align, scale, u)


_CALLS: tuple[tuple[tuple[int, ...], tuple[int, int], bool, tuple[float, ...]], ...] = (
    ((2, 3, 7, 5), (12, 9), False, ()), ((2, 5, 6, 4), (12, 8), True, ()),
    ((3, 4, 9, 8), (4, 3), False, ()), ((1, 2, 33, 6), (8, 6), True, ()),
    ((2, 1, 10, 11), (15, 8), False, (1.55, 0.75)))


def _samples(packet: Any, *, backward: bool) -> Any:
    halves = "_aa" not in str(packet)

    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in FLOATS or (dtype.itemsize == 2 and not halves):
            return []
        calls: SampleList = []
        for shape, outs, align, scales in _CALLS:
            drawn = (*shape[:2], *outs) if backward else shape
            rest = (list(outs), list(shape)) if backward else (list(outs),)
            x: Tensor = torch.randn(drawn, generator=generator, dtype=torch.float64).to(dtype)
            last = x.contiguous(memory_format=torch.channels_last)
            calls += [(packet.default, (t, *rest, align, *scales), {}) for t in (x, last)]
        return calls

    return samples


KINDS: dict[str, Weights] = {
    "upsample_bicubic2d": cubic_weights,
    "_upsample_bilinear2d_aa": _antialiased("linear"),
    "_upsample_bicubic2d_aa": _antialiased("cubic"),
    "_upsample_lanczos2d_aa": _antialiased("lanczos"),
}

for _name, _weights in KINDS.items():
    if not hasattr(aten, _name):  # Lanczos is younger than the oldest torch that is supported
        continue
    _packet, _gradient = getattr(aten, _name), getattr(aten, f"{_name}_backward")
    checked(_packet, family="upsample", axes=_axes, symmetries=symmetries, flops=flops,
            window=("n", "c"), samples=_samples(_packet, backward=False))(_forward(_weights))
    checked(_gradient, family="upsample", axes=_axes, symmetries=symmetries, flops=flops,
            window=("n", "c"), samples=_samples(_gradient, backward=True),
            deterministic=packet_name(_gradient) not in NOT_DETERMINISTIC_ON_CUDA)(
        _backward(_weights))
