"""Sampling images at a grid of real coordinates, in two and three dimensions, and its gradients.

*Forward.*  ``y[c, p] = sum_j w_j(p) x[c, j]`` over the elements j in reach of point p; the weights,
a product over the dimensions, and the limit B of their errors are those of
:mod:`sdc_guard.bounds.sampling`, for coordinates computed in the operand's own format.  With T taps
in reach, added in any order, each weight a product of ``rank`` factors,

    |y^ - y| <= sum_j ((|W| + B) - |W|)_j |x_j| + gamma_{T + 2 rank}(u) sum_j (|W| + B)_j |x_j|.

*Gradients.*  That of the image adds ``w_j(p) dy[c, p]`` at j, T the largest number of points that
reach one element.  That of the grid is ``s sum_{c, j} dw_j x dy`` with ``dw`` one dimension's slope
times the others' weights and s the grid's step in elements: the same bound with T taps times
channels.  A linear kernel's slope jumps at integer coordinates, where the grid's gradient is not
judged; a nearest kernel jumps at halves, where nothing is, and its grid has the gradient 0.

cuDNN's own kernel computes coordinates in an order that is not documented: a contract only.

torch 2.13 on a CPU has 16-bit offsets for half formats: images of more than 32767 elements come out
wrong (``torch.ones(1, 1, 256, 256)`` in bf16 at its own centers), which is found and is no false
alarm.

*Place.*  Rolled images and channels, and the negated image or gradient keep every bit (seen in 4
formats, 1 and 2 threads); rows of points move the SIMD lane of some points and are only learned.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard.bounds.gamma import gamma, own_rounding, rounding
from sdc_guard.bounds.sampling import BICUBIC, BILINEAR, NEAREST, ZEROS, Tap, Taps, taps_of
from sdc_guard.calls import BoundCall
from sdc_guard.formats import Format, format_of, is_covered_float
from sdc_guard.ops._axes import FIXED, Axes, Labels
from sdc_guard.ops._registry import F64, HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList
from sdc_guard.ops._symmetry import RERUN, Symmetry, negate, roll

aten = torch.ops.aten
FORMULA = "((|W| + B) - |W|) |x| + gamma_T (|W| + B) |x|"


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    rank = held[0].dim() - 2 if held[0] is not None else held[1].dim() - 2
    image: Labels = ("n", "c", *(FIXED,) * rank)
    backward = len(held) == 2
    points = ("n", *(FIXED if backward else ("h", *(FIXED,) * (rank - 1))[d] for d in range(rank)),
              FIXED)
    names = call.form.argument_names
    labels = {"grid": points, "grad_output": image}
    operands = {p: labels.get(names[p[0]], image) for p, _ in call.tensors()}
    if backward:
        return Axes({p: tuple(FIXED if x == "c" else x for x in y) for p, y in operands.items()},
                    (("n", *(FIXED,) * (rank + 1)), points))
    return Axes(operands, (("n", "c", *points[1:-1]),))


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Rolled images and channels, negation; rolled rows of points."""
    if len(held) == 2:
        return (roll("n"), negate("grad_output"), RERUN)
    name = "self" if "self" in call.form.argument_names else "input"
    return (roll("n"), roll("c"), negate(name), roll("h", lane=True, known=False), RERUN)


@dataclass(frozen=True, slots=True)
class _Points:
    """The points of one image: taps of each dimension, slowest first, and the image's sizes."""

    dims: tuple[Taps, ...]
    sizes: tuple[int, ...]

    def combinations(self, slope: int = -1) -> Iterator[tuple[Any, F64, F64, F64]]:
        """Place, weight, and largest weights known and possible of each tap; with ``slope`` that
        dimension's slope instead of its weight."""
        # Taps beyond the two nearest elements are reached close to an integer only.
        reached = [[t for t in d.taps if ((t.weight != 0) | (t.limit > 0))[t.inside].any()]
                   for d in self.dims]
        for taps in itertools.product(*reached):
            inside = np.logical_and.reduce([t.inside for t in taps])
            factors = [(t.slope, t.slope_limit) if d == slope else (t.weight, t.limit)
                       for d, t in enumerate(taps)]
            weight = math.prod(w for w, _ in factors) * inside
            known = np.abs(weight)
            wide = math.prod(np.abs(w) + b for w, b in factors) * inside
            # A tap whose slope is 0 is read too.
            if (math.prod(np.abs(t.weight) + t.limit for t in taps) * inside).any():
                yield self._flat(taps), weight, known, wide

    def _flat(self, taps: tuple[Tap, ...]) -> Any:
        index: Any = 0
        for tap, size in zip(taps, self.sizes, strict=True):
            index = index * size + tap.index
        return index


@dataclass(frozen=True, slots=True)
class _Settings:
    kind: int
    padding: int
    align: bool

    @classmethod
    def of(cls, call: HostCall) -> _Settings:
        return cls(call.get("interpolation_mode", BILINEAR), call.get("padding_mode", ZEROS),
                   bool(call.get("align_corners", True)))

    def points(self, grid: F64, sizes: tuple[int, ...], fmt: Format) -> _Points:
        """``grid`` [points, rank] names the fastest dimension first."""
        rank = len(sizes)
        return _Points(tuple(
            taps_of(grid[:, rank - 1 - d], sizes[d], self.kind, self.padding, self.align, fmt.u)
            for d in range(rank)), sizes)


def _limited(known: F64, wide: F64, count: int, expected: F64, compute: Format, out: Format
             ) -> F64:
    error = wide - known + gamma(count, compute.u) * wide
    error = error + own_rounding(2 * count + 8, wide) + (2 * count + 8) * compute.eta
    return np.asarray(error + rounding(np.abs(expected) + error, out))


def _times(weight: F64, values: F64) -> F64:
    """The product, 0 where the weight is 0, whatever the value."""
    return np.where(weight != 0, weight * values, 0.0)


def _unknown(values: F64) -> F64:
    """Infinite where a value is not finite: with a weight of 0 it makes a NaN in some kernels."""
    return np.where(np.isfinite(values), 0.0, np.inf)


def _reference(expected: F64, limit: F64, largest: F64, contract_only: bool) -> Reference:
    """``largest`` intermediate: infinite where an operand in reach is not finite."""
    known = np.isfinite(expected) & np.isfinite(largest)
    limit = np.where(known, limit, np.inf)
    return Reference(np.where(known, expected, 0.0), None if contract_only else limit, limit,
                     FORMULA, np.where(known, largest, np.inf))


def _is_cudnn(call: HostCall) -> bool:
    return "cudnn" in call.call.form.packet


def sample(call: HostCall) -> tuple[Reference | None, ...]:
    """The weighted sum of the elements around each point of the grid."""
    held = call.held[0]
    if not is_covered_float(held.dtype):
        return (None,)
    x = call.array("self" if "self" in call.call.form.argument_names else "input")
    grid, fmt = call.array("grid"), format_of(held.dtype)
    settings, sizes = _Settings.of(call), x.shape[2:]
    shape = tuple(held.shape)
    lead = (*shape[:2], math.prod(shape[2:]))
    expected, known, wide, limit, largest = (np.zeros(lead) for _ in range(5))
    with np.errstate(all="ignore"):
        for n in range(shape[0]):
            points = settings.points(grid[n].reshape(-1, len(sizes)), tuple(sizes), fmt)
            image = x[n].reshape(shape[1], -1)
            count = 0
            for index, weight, least, most in points.combinations():
                read = image[:, index]
                expected[n] += _times(weight, read)
                known[n] += _times(least, np.abs(read))
                wide[n] += _times(most, np.abs(read))
                largest[n] += 2 * np.abs(read) + _unknown(read)
                count += 1
            if settings.kind != NEAREST:
                limit[n] = _limited(known[n], wide[n], count + 2 * len(sizes), expected[n], fmt,
                                    fmt)
            judged = np.logical_and.reduce([d.judged for d in points.dims])
            limit[n][:, ~judged] = np.inf
    expected, limit, largest = (a.reshape(shape) for a in (expected, limit, largest))
    return (_reference(expected, limit, largest, _is_cudnn(call)),)


def sample_backward(call: HostCall) -> tuple[Reference | None, ...]:
    """Each gradient's shares added to the elements around its point; the slopes of the image along
    the grid's coordinates."""
    dtype = call["grad_output"].dtype
    if not is_covered_float(dtype):
        return (None, None)
    x = call.array("self" if "self" in call.call.form.argument_names else "input")
    grid, grad, fmt = call.array("grid"), call.array("grad_output"), format_of(dtype)
    settings, sizes = _Settings.of(call), tuple(x.shape[2:])
    images, slopes = [], []
    with np.errstate(all="ignore"):
        for n in range(x.shape[0]):
            points = settings.points(grid[n].reshape(-1, len(sizes)), sizes, fmt)
            flat = grad[n].reshape(x.shape[1], -1)
            images.append(_image_gradient(points, flat, fmt, settings.kind))
            slopes.append(_grid_gradient(points, flat, x[n].reshape(x.shape[1], -1), fmt,
                                         settings.kind))
        found: list[Reference | None] = []
        for parts, held, shape in ((images, call.held[0], x.shape), (slopes, call.held[1],
                                                                     grid.shape)):
            expected, limit, largest = (np.stack(a).reshape(shape) if a else np.zeros(shape)
                                     for a in (zip(*parts, strict=True) if parts else ((),) * 3))
            found.append(None if held is None else
                         _reference(expected, limit, largest, _is_cudnn(call)))
    return tuple(found)


def _image_gradient(points: _Points, grad: F64, fmt: Format, kind: int) -> tuple[F64, F64, F64]:
    channels, num = grad.shape[0], math.prod(points.sizes)
    lead = num * np.arange(channels)[:, None]
    expected, known, wide = (np.zeros(channels * num) for _ in range(3))
    count = np.zeros(num)
    unsure = ~np.logical_and.reduce([d.judged for d in points.dims])
    for index, weight, least, most in points.combinations():
        where = (index + lead).ravel()
        size = np.abs(grad)
        for total, shares in ((expected, _times(weight, grad)), (known, _times(least, size)),
                              (wide, _times(most, size) + _unknown(grad))):
            total += np.bincount(where, shares.ravel(), minlength=total.size)
        count += np.bincount(index, most > 0, minlength=num)
    many = int(count.max(initial=0))
    if kind == NEAREST and many < 2:
        limit = np.zeros_like(wide)
    else:
        limit = _limited(known, wide, many + 2 * len(points.sizes), expected, fmt, fmt)
    if unsure.any():  # such a point's gradient may go anywhere
        limit[:] = np.inf
    shape = (channels, num)
    return expected.reshape(shape), limit.reshape(shape), wide.reshape(shape)


def _grid_gradient(points: _Points, grad: F64, x: F64, fmt: Format, kind: int
                   ) -> tuple[F64, F64, F64]:
    rank, num = len(points.sizes), grad.shape[1]
    expected, limit, largest = (np.zeros((num, rank)) for _ in range(3))
    if kind == NEAREST:
        return expected, limit, largest
    for d, taps in enumerate(points.dims):
        value, known, wide, unweighted = (np.zeros(num) for _ in range(4))
        count = 0
        for index, slope, least, most in points.combinations(d):
            product = x[:, index] * grad
            value += _times(slope, product.sum(0))
            size = np.abs(product).sum(0)
            known += _times(least, size)
            wide += _times(most, size)
            # Orders differ: an image's differences or a gradient's multiples may come first.
            unweighted += (np.maximum(np.abs(x[:, index]), 1.0) * np.maximum(np.abs(grad), 1.0)
                           + _unknown(product)).sum(0)
            count += x.shape[0]
        scale = np.abs(taps.scale)
        column = rank - 1 - d
        expected[:, column] = _times(taps.scale, value)
        largest[:, column] = np.maximum(scale, 1.0) * 4 * (unweighted + _unknown(grad.sum(0)))
        # A factor that is still to come may enlarge an underflow.
        limit[:, column] = fmt.eta * largest[:, column] + _limited(
            _times(scale, known), _times(scale, wide), count + 2 * rank + 4, expected[:, column],
            fmt, fmt)
        others = np.logical_and.reduce([o.judged for o in points.dims])
        limit[~(others & taps.smooth), column] = np.inf
    return expected, limit, largest


def _flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """A reference's passes over all taps."""
    elements = sum(int(t.numel()) for _, t in call.tensors())
    passes = {BILINEAR: 2 ** int(call["grid"].shape[-1]), NEAREST: 1, BICUBIC: 16}
    num: int = passes[int(call.get("interpolation_mode", BILINEAR))]
    return elements * num


_SHAPES: dict[int, tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]] = {
    2: (((2, 3, 7, 9), (5, 11)), ((1, 2, 16, 5), (9, 4)), ((3, 1, 1, 6), (3, 3))),
    3: (((2, 2, 5, 1, 6), (3, 5, 4)),),
}


def _samples(packet: Any, rank: int, *, backward: bool) -> Callable[..., SampleList]:
    masked = "fallback" not in str(packet)

    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in FLOATS:
            return []
        if not masked and dtype is not torch.float32:
            return []

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

        calls: SampleList = []
        kinds = (BILINEAR, NEAREST, BICUBIC) if rank == 2 else (BILINEAR, NEAREST)
        for kind, padding, align in itertools.product(kinds, range(3), (False, True)):
            for shape, outs in _SHAPES[rank]:
                grid = draw(shape[0], *outs, rank)
                operands: tuple[Tensor, ...] = (draw(*shape), grid)
                if backward:
                    operands = (draw(*shape[:2], *outs), *operands)
                mask = ([True, True],) if backward and masked else ()
                calls.append((packet.default, (*operands, kind, padding, align, *mask), {}))
        return calls

    return samples


for _packet, _rank in ((aten.grid_sampler_2d, 2), (aten.grid_sampler_3d, 3),
                       (aten._grid_sampler_2d_cpu_fallback, 2)):
    _gradient = getattr(aten, str(_packet).removeprefix("aten.") + "_backward")
    checked(_packet, family="sampling", axes=_axes, symmetries=_symmetries, flops=_flops,
            window=("h", "n"), samples=_samples(_packet, _rank, backward=False))(sample)
    checked(_gradient, family="sampling", axes=_axes, symmetries=_symmetries, flops=_flops,
            window=("n",), samples=_samples(_gradient, _rank, backward=True),
            deterministic=False)(sample_backward)

checked(aten.cudnn_grid_sampler, family="sampling", axes=_axes, symmetries=_symmetries,
        flops=_flops, window=("h", "n"), samples=lambda generator, dtype: [])(sample)
checked(aten.cudnn_grid_sampler_backward, family="sampling", axes=_axes, symmetries=_symmetries,
        flops=_flops, window=("n",), samples=lambda generator, dtype: [],
        deterministic=False)(sample_backward)
