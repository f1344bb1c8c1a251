"""Ops that only move elements of images: pixel and channel shuffles, im2col, nearest upsampling;
and the gradients of the last two and of ``unfold``, which add up what was copied.

*Copies* are exact: an invariant gathers the bits in NumPy by an index of its own.  The index of
nearest upsampling is ``floor(i / s)`` (``floor((i + 1/2) / s)`` for the exact form), which ATen
computes in floating point, in fp32 or in the operand's format, and by a shift where the size
doubles (``UpSampleKernel.cpp``): an element may be the one that any of these formulas names.  Half
formats pass through fp32 there, which may change the payload of a NaN.

*Gradients.*  One copy is exact; t copies are a sum in any order, ``gamma_{t-1}(u) sum|dy|`` in the
storage format.  Where the formulas for the index differ nothing is judged.

*Place.*  Rolled images and channels, and negation, keep every bit (seen in 4 formats, contiguous
and channels-last, 1 and 2 threads).
"""

from __future__ import annotations

import math
from collections.abc import Callable
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
from sdc_guard.ops._shifts import Window, per_dim, taps
from sdc_guard.ops._symmetry import RERUN, Symmetry, negate, roll

aten = torch.ops.aten
Array = NDArray[Any]
Moved = Callable[[BoundCall, Array], list[Array]]
"""Results that the op may give for an operand's array: one, or one per formula for the index."""
Broken = tuple[int, NDArray[np.bool_], str] | None


def _source(call: BoundCall) -> Tensor:
    """The operand that is moved."""
    names = call.form.argument_names
    return next(call[n] for n in ("self", "input", "grad_output") if n in names)  # type: ignore[no-any-return]


def axes_of(kept: tuple[str, ...]) -> Callable[[BoundCall, tuple[Tensor, ...]], Axes]:
    """Leading dimensions that keep their place; the others are fixed."""

    def axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
        def labels(tensor: Tensor) -> tuple[str, ...]:
            # Without images (im2col of one image) the leading names are missing.
            return (*kept, *(FIXED,) * tensor.dim())[: tensor.dim()] if tensor.dim() >= _full(
                call, held) else (FIXED,) * tensor.dim()

        return Axes({p: labels(t) for p, t in call.tensors()}, (labels(held[0]),))

    return axes


def _full(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """Fewest dimensions of a tensor that has images."""
    packet = call.form.packet
    if packet in ("aten.im2col", "aten.col2im"):
        whole = max(_source(call).dim(), held[0].dim()) == 4
        return 3 if whole else 5
    return 4 if packet.startswith("aten.pixel_") else 3


def symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Rolled leading dimensions, and negation."""
    names = call.form.argument_names
    name = next(n for n in ("self", "input", "grad_output") if n in names)
    signed = (negate(name),) if held[0].is_floating_point() else ()
    return (roll("n"), roll("c", lane=True), *signed, RERUN)


def _readable(call: BoundCall, held: tuple[Tensor, ...]) -> bool:
    return held[0].device.type == "cpu" and bits.has_values(held[0].dtype)


def _register_copy(packet: Any, moved: Moved, kept: tuple[str, ...], samples: Any,
                   *, whole: bool = True) -> None:
    """Register a packet that moves elements; ``whole``: with every bit of them."""

    def same_bits(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
        if not _readable(call, held):
            return None
        got = bits.raw(held[0])
        wrong = np.ones(got.shape, dtype=bool)
        for expected in moved(call, bits.raw(_source(call))):
            wrong &= got != expected
        if not whole and wrong.any():
            wrong &= ~(np.isnan(bits.values(held[0])) & np.isnan(moved(call, bits.values(
                _source(call)))[0]))
        return (0, wrong, "result elements are operand elements, bit for bit") if wrong.any(
            ) else None

    def copied(call: HostCall) -> tuple[Reference | None, ...]:
        """Elements in another place."""
        if not bits.has_values(call.held[0].dtype):
            return (None,)
        first, *rest = moved(call.call, bits.values(_source(call.call)))
        got = bits.values(call.held[0])
        for other in rest:
            first = np.where((got == other) | ((got != got) & (other != other)), other, first)
        return (Reference(first, 0.0, 0.0, "exact"),)

    checked(packet, family="copy", axes=axes_of(kept), symmetries=symmetries,
            invariant=same_bits, proves=_readable if whole else None, samples=samples)(copied)


def _shuffled(call: BoundCall, x: Array) -> list[Array]:
    r = int(call["upscale_factor"])
    *lead, c, h, w = x.shape
    y = x.reshape(*lead, c // (r * r), r, r, h, w)
    n = len(lead)
    y = y.transpose(*range(n), n, n + 3, n + 1, n + 4, n + 2)
    return [y.reshape(*lead, c // (r * r), h * r, w * r)]


def _unshuffled(call: BoundCall, x: Array) -> list[Array]:
    r = int(call["downscale_factor"])
    *lead, c, h, w = x.shape
    y = x.reshape(*lead, c, h // r, r, w // r, r)
    n = len(lead)
    y = y.transpose(*range(n), n, n + 2, n + 4, n + 1, n + 3)
    return [y.reshape(*lead, c * r * r, h // r, w // r)]


def _channels_shuffled(call: BoundCall, x: Array) -> list[Array]:
    groups = int(call["groups"])
    y = x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    return [y.swapaxes(1, 2).reshape(x.shape)]


def _window(call: BoundCall) -> Window:
    return Window(*(per_dim(call[n], 2) for n in ("kernel_size", "stride", "padding", "dilation")))


def _blocks(size: tuple[int, ...], window: Window) -> tuple[int, ...]:
    """Positions of a sliding window in an image."""
    return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(
        size, window.kernel, window.stride, window.padding, window.dilation, strict=True))


def _columns(call: BoundCall, x: Array) -> list[Array]:
    window = _window(call)
    small = _blocks(x.shape[-2:], window)
    rows = np.stack([read.reshape(*x.shape[:-2], -1) for _, read in taps(x, small, window)], -2)
    return [rows.reshape(*x.shape[:-3], -1, math.prod(small))]


def _index(call: BoundCall, d: int, size: int, out: int, rank: int, kind: str) -> Array:
    """Operand index of each result element along a dimension, by one of the formulas in use."""
    if kind == "shift" and size == out:
        return np.arange(out)
    if kind == "shift" and out == 2 * size:
        return np.arange(out) // 2
    real: Any = np.float64 if kind == "double" else np.float32
    scale = call.get({1: ("scales",), 2: ("scales_h", "scales_w"),
                      3: ("scales_d", "scales_h", "scales_w")}[rank][d])
    step = real(1.0 / scale) if scale is not None and scale > 0 else real(size) / real(out)
    place: Array = np.arange(out).astype(real)
    if "exact" in call.form.packet:
        place = place + real(0.5)
    return np.asarray(np.minimum(np.floor(place * step).astype(np.int64), size - 1))


def _indices(call: BoundCall, sizes: tuple[int, ...], outs: tuple[int, ...], kind: str
             ) -> list[Array]:
    return [_index(call, d, n, m, len(sizes), kind)
            for d, (n, m) in enumerate(zip(sizes, outs, strict=True))]


KINDS = ("shift", "single", "double")


def _nearest(call: BoundCall, x: Array) -> list[Array]:
    outs = tuple(int(n) for n in call["output_size"])
    found = []
    for kind in KINDS:
        y = x
        for d, index in enumerate(_indices(call, x.shape[2:], outs, kind)):
            y = np.take(y, index, 2 + d)
        found.append(y)
    return found


def _sum_reference(total: F64, size: F64, count: Array, held: Tensor, finite: bool) -> Reference:
    """A sum of ``count`` copies in the storage format, any order."""
    fmt = format_of(held.dtype)
    many = int(count.max(initial=0))
    error = gamma(many, fmt.u) * size + own_rounding(many, size) + many * fmt.eta
    # Infinities are not judged: products with 0 spread them.
    return Reference(total, np.where(count > 1, error, 0.0), np.where(count > 1, error, 0.0),
                     "gamma_{t-1} sum|dy|", size if finite else np.inf)


def nearest_backward(call: HostCall) -> tuple[Reference | None, ...]:
    """The gradients of all copies of an element, added."""
    held = call.held[0]
    if not is_covered_float(held.dtype):
        return (None,)
    grad = call.array("grad_output")
    sizes, outs = tuple(held.shape[2:]), grad.shape[2:]
    ways = [_indices(call.call, sizes, outs, kind) for kind in KINDS]
    if any((a != b).any() for way in ways[1:] for a, b in zip(ways[0], way, strict=True)):
        return (None,)
    matrices: list[F64] = []
    for n, index in zip(sizes, ways[0], strict=True):
        matrix = np.zeros((n, len(index)))
        matrix[index, np.arange(len(index))] = 1.0
        matrices.append(matrix)
    with np.errstate(all="ignore"):
        return (_sum_reference(applied(grad, matrices), applied(np.abs(grad), matrices),
                               applied(np.ones(outs), matrices), held,
                               bool(np.isfinite(grad).all())),)


def col2im(call: HostCall) -> tuple[Reference | None, ...]:
    """Each element adds the column elements that stand for it."""
    held = call.held[0]
    if not is_covered_float(held.dtype):
        return (None,)
    window, size = _window(call.call), tuple(int(n) for n in call["output_size"])
    small = _blocks(size, window)
    columns = call.array("self")
    lead = (*columns.shape[:-2], columns.shape[-2] // window.num_taps)
    columns = columns.reshape(*lead, window.num_taps, *small)
    reach = window.reach(small)
    extent = [max(n + 2 * p, r) for n, p, r in zip(size, window.padding, reach, strict=True)]
    total, abs_sum, count = (np.zeros((*lead, *extent)) for _ in range(3))
    with np.errstate(all="ignore"):
        for i, (_, where) in enumerate(window.slices(small)):
            part = columns[..., i, :, :]
            total[where] += part
            abs_sum[where] += np.abs(part)
            count[where] += 1.0
        shape = tuple(held.shape)
        total, abs_sum, count = (
            window.cropped(a, size).reshape(shape) for a in (total, abs_sum, count))
        return (_sum_reference(total, abs_sum, count, held, True),)


def unfold_backward(call: HostCall) -> tuple[Reference | None, ...]:
    """Each element adds the elements of the windows that hold it."""
    held, grad = call.held[0], call.array("grad_in")
    if not is_covered_float(held.dtype):
        return (None,)
    shape, size = tuple(held.shape), int(call["size"])
    dim, step = call["dim"] % max(len(shape), 1), int(call["step"])
    if not shape:
        return (None,)
    # The windows' places come last in the gradient; bring dim and them to the front.
    grad = np.moveaxis(np.moveaxis(grad, dim, 0), -1, 1)
    lead = np.moveaxis(np.empty(shape), dim, 0).shape
    total, abs_sum, count = (np.zeros(lead) for _ in range(3))
    with np.errstate(all="ignore"):
        for i in range(grad.shape[0]):
            window = slice(i * step, i * step + size)
            total[window] += grad[i]
            abs_sum[window] += np.abs(grad[i])
            count[window] += 1.0
        total, abs_sum, count = (np.moveaxis(a, 0, dim) for a in (total, abs_sum, count))
        return (_sum_reference(total, abs_sum, count, held, True),)


def _samples(packet: Any, *calls: tuple[tuple[int, ...], tuple[Any, ...]]) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in FLOATS:
            return []
        draw = draw_values(generator, dtype, "any")
        found: SampleList = [(packet.default, (draw(*shape), *rest), {}) for shape, rest in calls]
        x, *rest = found[0][1]
        if x.dim() == 4:
            found.append((packet.default,
                          (x.contiguous(memory_format=torch.channels_last), *rest), {}))
        return found

    return samples


_register_copy(aten.pixel_shuffle, _shuffled, ("n",), _samples(
    aten.pixel_shuffle, ((3, 8, 5, 7), (2,)), ((9, 5, 4), (3,))))
_register_copy(aten.pixel_unshuffle, _unshuffled, ("n",), _samples(
    aten.pixel_unshuffle, ((3, 2, 6, 8), (2,)), ((2, 6, 9), (3,))))
_register_copy(aten.channel_shuffle, _channels_shuffled, ("n",), _samples(
    aten.channel_shuffle, ((3, 8, 5, 7), (2,)), ((2, 9, 4), (3,))))
_register_copy(aten.native_channel_shuffle, _channels_shuffled, ("n",), _samples(
    aten.native_channel_shuffle, ((3, 8, 5, 7), (2,)),))
_register_copy(aten.im2col, _columns, ("n",), _samples(
    aten.im2col, ((3, 2, 6, 8), ([3, 2], [1, 1], [1, 0], [1, 2])),
    ((2, 6, 8), ([2, 2], [2, 1], [0, 1], [2, 2]))))
checked(aten.col2im, family="pool", axes=axes_of(("n",)), symmetries=symmetries, window=("n",),
        samples=_samples(
            aten.col2im, ((3, 12, 24), ([6, 8], [3, 2], [1, 1], [1, 0], [1, 2])),
            ((8, 20), ([6, 8], [2, 2], [2, 1], [0, 1], [1, 2]))))(col2im)

def _nowhere(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    return Axes({p: (FIXED,) * t.dim() for p, t in call.tensors()}, ((FIXED,) * held[0].dim(),))


checked(aten.unfold_backward, family="pool", axes=_nowhere,
        symmetries=lambda call, held: (RERUN, *(
            (negate("grad_in"),) if held[0].is_floating_point() else ())),
        samples=_samples(aten.unfold_backward, ((4, 7, 3), ([9, 7], 0, 3, 2)),
                         ((5, 31, 3), ([5, 33], 1, 3, 1)), ((7, 4), ([40], 0, 4, 6)))
        )(unfold_backward)

_UPSAMPLED: tuple[tuple[tuple[int, ...], tuple[Any, ...]], ...] = (
    ((2, 3, 7), ([12],)), ((2, 5, 6), ([12],)), ((3, 4, 9), ([4],)))


def _register_nearest(exact: bool, rank: int) -> None:
    stem = f"_upsample_nearest_exact{rank}d" if exact else f"upsample_nearest{rank}d"
    forward, backward = getattr(aten, stem), getattr(aten, f"{stem}_backward")
    calls = [((*shape[:2], *(shape[2] + d for d in range(rank))),
              ([rest[0][0] - d for d in range(rank)],)) for shape, rest in _UPSAMPLED]
    back = [((*shape[:2], *rest[0]), (rest[0], list(shape))) for shape, rest in calls]
    _register_copy(forward, _nearest, ("n", "c"), _samples(forward, *calls), whole=False)
    checked(backward, family="upsample", axes=axes_of(("n", "c")), symmetries=symmetries,
            samples=_samples(backward, *back),
            deterministic=packet_name(backward) not in NOT_DETERMINISTIC_ON_CUDA)(nearest_backward)


for _exact in (False, True):
    for _rank in (1, 2, 3):
        _register_nearest(_exact, _rank)
