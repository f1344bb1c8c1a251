"""Linear, bilinear and trilinear interpolation, forward and backward.

*Definition.*  Along each dimension result i lies at ``r = s (i + 1/2) - 1/2`` of the operand (at
least 0), or ``r = s i`` with aligned corners, and takes ``1 - l`` of element ``floor(r)`` and ``l``
of the next one, ``l = r - floor(r)``; the dimensions multiply.  The reference applies one matrix
of such weights per dimension, in float64 by BLAS; the gradient applies the transposes.

*Bound.*  A kernel computes r in fp32 or in the operand's own format, so r is off by at most
``4 u (s (i + 1) + 1) = D / 2``: the step, the half, the product and the difference are rounded.
The interpolant is continuous in r, also where floor(r) jumps: each weight changes by at most what
r is off, those of the elements one further included, and is rounded itself.
With B the matrix of these (1 for the elements from ``floor(r) - 1`` to
``floor(r) + 2``) and W the weights, each of ``rank`` dimensions turns ``W`` into at most
``W + D B``, and T terms are multiplied and added in any order:

    |y^ - y| <= ((W + D B)...) |x| - (W...) |x| + gamma_{T + 4 rank}(u) ((W + D B)...) |x|,

T being the largest number of terms, 2^rank forward.  Half formats keep weights and partial sums
in their own format in some kernels, so u is theirs.

*Place.*  Rolled images and negation keep every bit (seen in 4 formats, contiguous and
channels-last, 1 and 2 threads); so do rolled channels, but some kernels take channels by vectors,
also of contiguous operands, so they move only where none is left over.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard.bounds.interpolation import floored_in_fp32, step_of
from sdc_guard.calls import BoundCall
from sdc_guard.formats import Format, accumulator_of, format_of, is_covered_float
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._determinism import NOT_DETERMINISTIC_ON_CUDA
from sdc_guard.ops._places import BODY_MULTIPLE
from sdc_guard.ops._registry import HostCall, Reference, checked, packet_name
from sdc_guard.ops._samples import FLOATS, SampleList
from sdc_guard.ops._separable import Map, weighted
from sdc_guard.ops._symmetry import RERUN, Symmetry, negate, roll

aten = torch.ops.aten
NAMES = {1: "upsample_linear1d", 2: "upsample_bilinear2d", 3: "upsample_trilinear3d"}
FORMULA = "((W + D B) - W) |x| + gamma_T (W + D B) |x|"
SCALES = {1: ("scales",), 2: ("scales_h", "scales_w"), 3: ("scales_d", "scales_h", "scales_w")}


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    labels = ("n", "c", *(FIXED,) * (held[0].dim() - 2))
    return Axes({p: labels for p, _ in call.tensors()}, (labels,))


def symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Rolled images, rolled channels, negation."""
    channels = () if held[0].shape[1] % BODY_MULTIPLE else (roll("c", lane=True),)
    name = "grad_output" if "grad_output" in call.form.argument_names else "self"
    return (roll("n"), *channels, negate(name), RERUN)


def weights(size: int, out: int, align: bool, scale: float | None, u: float) -> Map:
    """The weights of one dimension, and the limit on each weight's error: of the elements at both
    sides of the place, and of one more at each side, which another rounding of it may reach."""
    place = np.arange(out, dtype=np.float64)
    step = step_of(size, out, align, scale)
    real = step * place if align else np.maximum(step * (place + 0.5) - 0.5, 0.0)
    off = 8 * u * (step * (place + 1) + 1) + floored_in_fp32(real, u)
    if size == out:
        real, off = place, np.zeros(out)
    low = np.minimum(np.floor(real).astype(np.int64), size - 1)
    share = np.minimum(real - low, 1.0)
    columns = low[:, None] + np.arange(-1, 3)
    shares = np.zeros((out, 4))
    shares[:, 1] = np.where(low + 1 < size, 1.0 - share, 1.0 - share + share)
    shares[:, 2] = share
    limits = np.broadcast_to(off[:, None], (out, 4))
    there = (columns >= 0) & (columns < size) & ((shares != 0) | (limits != 0))
    return Map(out, size, np.nonzero(there)[0], columns[there], shares[there], limits[there])


def _dims(call: HostCall, sizes: tuple[int, ...], outs: tuple[int, ...], u: float
          ) -> list[Map]:
    names = SCALES[len(sizes)]
    return [weights(n, m, bool(call["align_corners"]), call.get(name), u)
            for n, m, name in zip(sizes, outs, names, strict=True)]


def linear(call: HostCall) -> tuple[Reference | None, ...]:
    """The weighted mean of the nearest elements along each dimension."""
    held = call.held[0]
    if not is_covered_float(held.dtype):
        return (None,)
    x, fmt, acc = call.array("self"), format_of(held.dtype), accumulator_of(held.dtype)
    sizes, outs = x.shape[2:], tuple(held.shape[2:])
    found = weighted(x, _dims(call, sizes, outs, fmt.u), fmt, held, FORMULA)
    if acc is fmt:
        return (found,)
    # Kernels find the places of half formats in fp32 (``opmath_t`` in ``UpSampleKernel.cpp``,
    # ``accscalar_t`` on CUDA); a CPU may store weights and sums in the half format: the contract.
    stored = [replace(m, limits=m.limits + fmt.u * (m.weights + m.limits))
              for m in _dims(call, sizes, outs, acc.u)]
    near = weighted(x, stored, fmt, held, FORMULA)
    return (replace(found, contract=np.minimum(near.contract, found.contract)),)


def linear_backward(call: HostCall) -> tuple[Reference | None, ...]:
    """Each element adds its shares of the gradients."""
    held = call.held[0]
    if not is_covered_float(held.dtype):
        return (None,)
    grad, fmt = call.array("grad_output"), format_of(held.dtype)

    def in_format(fmt: Format) -> Reference:
        turned = [m.turned for m in _dims(call, tuple(held.shape[2:]), grad.shape[2:], fmt.u)]
        return weighted(grad, turned, fmt, held, FORMULA)

    found, acc = in_format(fmt), accumulator_of(held.dtype)
    if acc is fmt or held.device.type != "cpu":
        return (found,)
    # A CPU computes weights of half formats and adds in fp32 (``cpu_upsample_linear_backward`` in
    # ``UpSampleMoreKernel.cpp``, ``opmath_t``); CUDA adds with atomics in the storage format.
    return (replace(found, contract=np.minimum(in_format(acc).contract, found.contract)),)


def flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """Four operations per element of the larger side and dimension."""
    (_, operand), = call.tensors()
    return 4 * (held[0].dim() - 2) * max(int(operand.numel()), int(held[0].numel()))


_CALLS: tuple[tuple[tuple[int, int], tuple[int, int, int], tuple[int, int, int], bool], ...] = (
    ((2, 3), (7, 5, 4), (12, 9, 7), False), ((2, 5), (6, 4, 5), (12, 8, 10), True),
    ((3, 4), (9, 8, 6), (4, 3, 5), False))


def _samples(rank: int, *, backward: bool) -> Any:
    packet = getattr(aten, NAMES[rank] + ("_backward" if backward else ""))

    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in FLOATS:
            return []

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

        calls: SampleList = []
        for lead, sizes, outs, align in _CALLS:
            small, large = sizes[:rank], outs[:rank]
            rest = (list(large), [*lead, *small]) if backward else (list(large),)
            x = draw(*lead, *(large if backward else small))
            calls.append((packet.default, (x, *rest, align), {}))
            if rank == 2:
                last = x.contiguous(memory_format=torch.channels_last)
                calls.append((packet.default, (last, *rest, align), {}))
        return calls

    return samples


for _rank, _name in NAMES.items():
    _forward, _backward = getattr(aten, _name), getattr(aten, f"{_name}_backward")
    checked(_forward, family="upsample", axes=_axes, symmetries=symmetries, flops=flops,
            window=("n", "c"), samples=_samples(_rank, backward=False))(linear)
    checked(_backward, family="upsample", axes=_axes, symmetries=symmetries, flops=flops,
            window=("n", "c"), samples=_samples(_rank, backward=True),
            deterministic=packet_name(_backward) not in NOT_DETERMINISTIC_ON_CUDA)(linear_backward)
