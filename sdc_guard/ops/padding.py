"""Padding by a constant, by reflection and by replication, and the gradients of the last two.

*Forward.*  Every result element is one operand element or the constant, bit for bit: an invariant
gathers them in NumPy by an index per dimension.  A negative pad crops.

*Backward.*  Each element adds the gradients of all places that copied it: one is exact, t are a sum
in any order, ``gamma_{t-1}(u) sum|dy|``.  ATen's CPU kernels add in the accumulator's format or in
the storage format (``PaddingKernel.cpp``), so half formats have the second one's bound.

*Place.*  Dimensions without padding are copied line by line: rolled, they keep every bit, and
so does negation (of the constant too, which must be 0 for that; seen in 4 formats, 1 and 2
threads).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.gamma import gamma, own_rounding
from sdc_guard.calls import BoundCall
from sdc_guard.formats import format_of, is_covered_float
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._determinism import NOT_DETERMINISTIC_ON_CUDA
from sdc_guard.ops._registry import F64, HostCall, Reference, checked, packet_name
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values
from sdc_guard.ops._separable import applied
from sdc_guard.ops._symmetry import RERUN, Symmetry, negate, roll

aten = torch.ops.aten
Index = NDArray[np.int64]
Broken = tuple[int, NDArray[np.bool_], str] | None
OUTSIDE = -1


def _pads(call: BoundCall) -> list[tuple[int, int]]:
    """(before, after) for each of the last dimensions, outermost first."""
    flat = [int(p) for p in (call.get("pad") or call.get("padding") or ())]
    return [(flat[i], flat[i + 1]) for i in range(len(flat) - 2, -1, -2)]


def _sources(call: BoundCall, sizes: tuple[int, ...]) -> list[Index]:
    """For each padded dimension, which operand element each result element copies; ``OUTSIDE``
    where it is the constant."""
    packet = call.form.packet
    found = []
    for (before, after), n in zip(_pads(call), sizes, strict=True):
        place = np.arange(-before, n + after)
        if "reflection" in packet:
            place = np.where(place < 0, -place, place)
            place = np.where(place >= n, 2 * (n - 1) - place, place)
        elif "replication" in packet:
            place = np.clip(place, 0, n - 1)
        else:
            place = np.where((place < 0) | (place >= n), OUTSIDE, place)
        found.append(place)
    return found


def _gathered(x: NDArray[Any], sources: list[Index], fill: Any) -> NDArray[Any]:
    lead = x.ndim - len(sources)
    for d, source in enumerate(sources):
        axis = lead + d
        x = np.take(x, np.maximum(source, 0), axis) if x.shape[axis] else np.full(
            (*x.shape[:axis], len(source), *x.shape[axis + 1:]), fill, x.dtype)
        outside = source == OUTSIDE
        if outside.any():
            x[(*(slice(None),) * axis, outside)] = fill
    return x


def pad_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    """Dimensions without padding."""
    rank = held[0].dim()
    padded = rank - len(_pads(call))
    pads = dict(enumerate(_pads(call), padded))
    constant = call.form.packet == "aten.constant_pad_nd"
    labels = tuple(FIXED if d in pads and (any(pads[d]) or not constant) else f"d{d}"
                   for d in range(rank))
    return Axes({p: labels for p, t in call.tensors() if t.dim() == rank}, (labels,))


def pad_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Rolled dimensions without padding; negation where the constant is 0."""
    labels = pad_axes(call, held).outputs[0]
    moved = tuple(roll(x) for d, x in enumerate(labels) if x != FIXED and held[0].shape[d] > 1)
    name = "grad_output" if "grad_output" in call.form.argument_names else "self"
    odd = held[0].is_floating_point() and not call.get("value", 0)
    return (*moved[:2], *((negate(name),) if odd else ()), RERUN)


def _readable(call: BoundCall, held: tuple[Tensor, ...]) -> bool:
    return held[0].device.type == "cpu" and bits.has_values(held[0].dtype)


def _constant(call: BoundCall, held: Tensor) -> Tensor:
    """The constant in the result's format; the sign of a zero counts."""
    value = call.get("value", 0)
    return torch.full((1,), 0 if value is None else value, dtype=held.dtype)


def copied_bits(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
    """Result elements are operand elements or the constant, bit for bit."""
    if not _readable(call, held):
        return None
    x = call["self"]
    sizes = tuple(x.shape[x.dim() - len(_pads(call)):])
    constant = _constant(call, held[0])  # alive as long as the view on its bits
    expected = _gathered(bits.raw(x), _sources(call, sizes), bits.raw(constant)[0])
    wrong = bits.raw(held[0]) != expected
    if wrong.any():
        return (0, wrong, "result elements are operand elements or the constant, bit for bit")
    return None


def padded(call: HostCall) -> tuple[Reference | None, ...]:
    """The operand's elements where they are copied to, the constant elsewhere."""
    held = call.held[0]
    if not bits.has_values(held.dtype):
        return (None,)
    x = call.array("self")
    sizes = x.shape[x.ndim - len(_pads(call.call)):]
    constant = bits.values(_constant(call.call, held))[0]
    expected = _gathered(x, _sources(call.call, sizes), constant)
    return (Reference(expected, 0.0, 0.0, "exact"),)


def folded(call: HostCall) -> tuple[Reference | None, ...]:
    """The gradients of all copies of an element, added."""
    held = call.held[0]
    if not is_covered_float(held.dtype):
        return (None,)
    grad, num_dims = call.array("grad_output"), len(_pads(call.call))
    sizes = tuple(held.shape[held.dim() - num_dims:])
    matrices: list[F64] = []
    for n, source in zip(sizes, _sources(call.call, sizes), strict=True):
        matrix = np.zeros((n, len(source)))
        matrix[source, np.arange(len(source))] = 1.0
        matrices.append(matrix)
    fmt = format_of(held.dtype)
    with np.errstate(all="ignore"):
        total, size = applied(grad, matrices), applied(np.abs(grad), matrices)
        count = applied(np.ones(grad.shape[-num_dims:]), matrices)
        many = int(count.max(initial=0))
        error = gamma(many, fmt.u) * size + own_rounding(many, size) + many * fmt.eta
        error = np.where(count > 1, error, 0.0)
        # A matrix product multiplies what it does not want by 0, which infinities do not forgive.
        size = np.where(np.isfinite(grad).all(), size, np.inf)
    return (Reference(total, error, error, "gamma_{t-1} sum|dy|", size),)


_CALLS: dict[str, tuple[tuple[tuple[int, ...], tuple[Any, ...]], ...]] = {
    "aten.constant_pad_nd": (
        ((3, 5, 7), ([1, 2],)), ((3, 5, 7), ([2, -1, 0, 3], 1.5)), ((33,), ([-2, -3],)),
        ((2, 3, 4, 5), ([1, 1, 1, 1, 0, 0], 0))),
    "aten.reflection_pad1d": (((3, 5, 7), ([2, 3],)), ((5, 7), ([6, 0],))),
    "aten.reflection_pad2d": (((3, 5, 7, 6), ([2, 3, 1, 4],)), ((5, 7, 6), ([0, 5, 6, 0],))),
    "aten.reflection_pad3d": (((2, 3, 5, 4, 6), ([2, 3, 1, 0, 4, 2],)),),
    "aten.replication_pad1d": (((3, 5, 7), ([2, 9],)), ((5, 7), ([6, 0],))),
    "aten.replication_pad2d": (((3, 5, 7, 6), ([2, 3, 1, 4],)), ((5, 7, 6), ([0, 8, 6, 0],))),
    "aten.replication_pad3d": (((2, 3, 5, 4, 6), ([2, 3, 1, 0, 4, 2],)),),
}


def _samples(packet: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        constant = packet is aten.constant_pad_nd
        if dtype not in (*FLOATS, torch.int64) or (dtype is torch.int64 and not constant):
            return []
        draw = draw_values(generator, dtype, "mixed")
        calls: SampleList = [(packet.default, (draw(*shape), *rest), {})
                             for shape, rest in _CALLS[str(packet)]
                             if dtype.is_floating_point or 1.5 not in rest]
        x, *rest = calls[0][1]
        return [*calls, (packet.default, (x.transpose(0, 1).contiguous().transpose(0, 1), *rest),
                         {})]

    return samples


def _backward_samples(packet: Any, forward: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        draw = draw_values(generator, dtype, "any")
        return [(packet.default, (draw(*op(*args).shape), *args), {})
                for op, args, _ in _samples(forward)(generator, dtype)]

    return samples


def _register(name: str) -> None:
    forward = getattr(aten, name)
    checked(forward, family="copy", axes=pad_axes, symmetries=pad_symmetries,
            invariant=copied_bits, proves=_readable, samples=_samples(forward))(padded)
    if forward is aten.constant_pad_nd:
        return  # its gradient is another constant_pad_nd
    backward = getattr(aten, f"{name}_backward")
    checked(backward, family="padding", axes=pad_axes, symmetries=pad_symmetries,
            window=("d0", "d1"), samples=_backward_samples(backward, forward),
            deterministic=packet_name(backward) not in NOT_DETERMINISTIC_ON_CUDA)(folded)


for _packet in _CALLS:
    _register(_packet.removeprefix("aten."))
