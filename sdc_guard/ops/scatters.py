"""Ops that write at an index: elements that nothing wrote keep their bits, the others have the
bits of something that was written there.

The invariant says just that, for every element.  Where two values are written to one place, which
of them stays is left open by the definition, and any of them is allowed.  The overloads of
``scatter`` that add or multiply are judged by :mod:`sdc_guard.ops.scatter_sums`.

Place: rotating the positions along the written dimension rotates the result; other dimensions roll
and split with the operands; everything negated gives the negated result (seen in 4 formats, 1 and
2 threads).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.ops._axes import FIXED, Axes, AxesOf
from sdc_guard.ops._indexing import (
    Array,
    Broken,
    all_readable,
    fixed,
    index_values,
    longest,
    moved_axes,
    positions_along,
    positions_of_rows,
    scalar_bits,
)
from sdc_guard.ops._places import odd_in
from sdc_guard.ops._registry import OpSpec, register
from sdc_guard.ops._samples import SampleList, draw_values
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry, roll, split

aten = torch.ops.aten
Written = tuple[Array, Array] | None
"""Positions [N] and the bits written there, [N] or [N, K] where K patterns are permitted."""

TEXT = "elements keep their bits where nothing was written, else have those of a written value"


_INFINITY = {torch.bfloat16: 0x7F80, torch.float16: 0x7C00}


def _one_nan(raw: Array, dtype: torch.dtype) -> Array:
    """The bits with every NaN of a half format alike: some kernels take half formats through fp32,
    which may change a NaN's payload."""
    infinity = _INFINITY.get(dtype)
    if infinity is None:
        return raw
    return np.where(raw & np.uint16(0x7FFF) > infinity, np.uint16(0x7FFF), raw)


def unwritten_or_written(call: BoundCall, held: tuple[Tensor, ...], written: Written) -> Broken:
    """The fact of this file, with the operand's image before the call as what was there."""
    if written is None or not all_readable(call, held):
        return None
    position, values = written
    before = call["self"]
    got, expected, values = (_one_nan(a, held[0].dtype)
                             for a in (bits.raw(held[0]), bits.raw(before), values))
    if before.shape != held[0].shape:
        expected = np.broadcast_to(expected, got.shape)
    wrong = got != expected
    if position.size:
        flat = got.reshape(-1)[position]
        hits = flat[:, None] == values if values.ndim == 2 else flat == values
        if hits.ndim == 2:
            hits = hits.any(1)
        touched = np.zeros(got.size, dtype=bool)
        right = np.zeros(got.size, dtype=bool)
        touched[position] = True
        right[position[hits]] = True
        wrong = np.where(touched.reshape(got.shape), ~right.reshape(got.shape), wrong)
    return (0, wrong, TEXT) if wrong.any() else None


def rotated(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    """Every position along the written dimension moved by s, and the result moved back."""
    x, dim = call["self"], call["dim"]
    size = x.shape[dim]
    shift = 1 + visit % (size - 1)
    index = ((call["index"] + shift) % size).to(call["index"].dtype)
    changed: dict[str, Any] = {"self": x.roll(shift, dim), "index": index}
    return (call.replaced(**changed).run()[0].roll(-shift, dim),)


ROTATED = Symmetry("rotate the positions", (Move("custom", function=rotated),),
                   frozenset({"address", "core", "tile", "lane"}), True)


def line_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    """``scatter``: dimensions in which operand, index and source have one size move together."""
    x, index, source = call["self"], call["index"], call.get("src")
    rank = x.dim()
    dim = call["dim"] % max(rank, 1)
    alike = [index] + ([source] if isinstance(source, Tensor) else [])
    together = [rank == t.dim() and d != dim and t.shape[d] == x.shape[d]
                for t in alike for d in range(rank)]
    labels = tuple(f"d{d}" if all(together[d::max(rank, 1)]) else FIXED for d in range(rank))
    return moved_axes(call, held, labels, labels, index=labels, src=labels)


def row_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    """``index_copy`` and its kin: all dimensions but the indexed one."""
    rank = call["self"].dim()
    dim = call["dim"] % max(rank, 1)
    labels = tuple(FIXED if d == dim else f"d{d}" for d in range(rank))
    return moved_axes(call, held, labels, labels, source=labels)


def writing_symmetries(axes: AxesOf, *odd: str) -> Any:
    """Relations of an op that writes along ``dim``, and negation of what it writes."""

    def symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
        axis = longest(axes(call, held).outputs[0], held[0])
        moved = (split(axis), roll(axis, lane=True)) if axis else ()
        x = call["self"]
        turned = (ROTATED,) if x.dim() and x.shape[call["dim"]] > 1 else ()
        signed = odd_in(call, *odd) if all(call.get(n) is not None for n in odd) else ()
        return (*moved, *turned, *signed) or (RERUN,)

    return symmetries


def _register(target: Any, written: Callable[[BoundCall], Written], axes: AxesOf, symmetries: Any,
              samples: Any, doc: str) -> None:
    def invariant(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
        return unwritten_or_written(call, held, written(call))

    def proves(call: BoundCall, held: tuple[Tensor, ...]) -> bool:
        return all_readable(call, held) and written(call) is not None

    register(OpSpec(packet=str(target), family="indexing", axes=axes, symmetries=symmetries,
                    invariant=invariant, proves=proves, deterministic=False, samples=samples,
                    doc=doc), __name__)


def source_bits(source: Any, position: Array, dtype: torch.dtype) -> Array | None:
    """Bits of a tensor's elements in C order, or of a number, for each position."""
    if isinstance(source, Tensor):
        if source.dtype is not dtype:
            return None
        raw = bits.raw(source)
        if raw.size == position.size:
            return raw.reshape(-1)
        return np.asarray(np.broadcast_to(raw.reshape(-1), position.shape))
    patterns = scalar_bits(source, dtype)
    return None if patterns is None else np.broadcast_to(patterns, (position.size, patterns.size))


def filled(call: BoundCall) -> Written:
    """``index_fill``: one number in whole slices."""
    x, value = call["self"], call["value"]
    position = positions_of_rows(tuple(x.shape), index_values(call["index"]), call["dim"]).ravel()
    if isinstance(value, Tensor):
        value = bits.values(value).item() if bits.has_values(value.dtype) else None
    values = None if value is None else source_bits(value, position, x.dtype)
    return None if values is None else (position, values)


def copied(call: BoundCall) -> Written:
    """``index_copy``: slices of the source."""
    x = call["self"]
    position = positions_of_rows(tuple(x.shape), index_values(call["index"]), call["dim"]).ravel()
    values = source_bits(call["source"], position, x.dtype)
    return None if values is None else (position, values)


def scattered(call: BoundCall) -> Written:
    """``scatter``: an element of the source, or a number, at each index."""
    if call.get("reduce") is not None:
        return None
    x, index = call["self"], index_values(call["index"])
    position = positions_along(tuple(x.shape), index, call["dim"]).ravel()
    source = call.get("src")
    if source is None:
        values = source_bits(call["value"], position, x.dtype)
    else:
        part = source[tuple(slice(n) for n in index.shape)] if index.ndim else source
        values = source_bits(part, position, x.dtype)
    return None if values is None else (position, values)


def masked(call: BoundCall) -> Written:
    """``masked_scatter``: elements of the source one after the other where the mask holds."""
    x, source = call["self"], call["source"]
    shape = torch.broadcast_shapes(x.shape, call["mask"].shape)
    mask = np.broadcast_to(bits.values(call["mask"]) != 0, tuple(shape))
    position = np.flatnonzero(mask)
    if source.dtype is not x.dtype:
        return None
    return position, bits.raw(source).reshape(-1)[: position.size]


def unique_rows(generator: torch.Generator, high: int, count: int) -> Tensor:
    """Positions without duplicates."""
    return torch.randperm(high, generator=generator)[:count]


def unique_lines(
    generator: torch.Generator, shape: tuple[int, int], dim: int, count: int
) -> Tensor:
    """An index ``[.., count, ..]`` without duplicates along ``dim`` of a matrix."""
    lines = torch.rand(shape, generator=generator).argsort(dim)
    return lines.narrow(dim, 0, count)


def _fill_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    draw = draw_values(generator, dtype, "mixed")
    op, value = aten.index_fill, 0.75 if dtype.is_floating_point else True
    rows = torch.randint(0, 9, (5,), generator=generator)
    number = torch.tensor(value).to(dtype)
    return [
        (op.int_Scalar, (draw(9, 37), 0, rows, value), {}),
        (op.int_Scalar, (draw(37, 9).t(), -2, rows, value), {}),
        (op.int_Tensor, (draw(3, 9, 70)[:, :, 3:67], 1, rows, number), {}),
        (aten.index_fill_.int_Scalar, (draw(9, 37), 0, rows, value), {}),
    ]


def _row_samples(op: Any, in_place: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        draw = draw_values(generator, dtype, "mixed")
        rows, columns = unique_rows(generator, 9, 5), unique_rows(generator, 37, 11)
        return [
            (op.default, (draw(9, 37), 0, rows, draw(5, 37)), {}),
            (op.default, (draw(37, 9).t(), 1, columns, draw(9, 11)), {}),
            (op.default, (draw(3, 9, 70)[:, :, 3:67], -2, rows, draw(5, 3, 64).transpose(0, 1)),
             {}),
            (in_place.default, (draw(9, 37), 1, columns, draw(11, 9).t()), {}),
            (op.out, (draw(9, 37), 0, rows, draw(5, 37)), {"out": draw(9, 37)}),
        ]

    return samples


def _line_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    draw = draw_values(generator, dtype, "mixed")
    op, value = aten.scatter, 0.75 if dtype.is_floating_point else 1
    across = unique_lines(generator, (9, 37), 1, 13)
    down = unique_lines(generator, (9, 37), 0, 4)
    calls: SampleList = [
        (op.src, (draw(9, 37), 1, across, draw(9, 37)), {}),
        (op.src, (draw(9, 37), 0, down, draw(4, 37)), {}),
        (op.value, (draw(37, 9).t(), -1, across, value), {}),
        (op.src, (draw(9, 70)[:, 3:40], 0, down, draw(37, 9).t()), {}),
        (op.src, (draw(9, 37), 1, across[:3, :7].contiguous(), draw(9, 37)), {}),
        (aten.scatter_.value, (draw(9, 37), 1, across, value), {}),
        (op.src_out, (draw(9, 37), 1, across, draw(9, 37)), {"out": draw(9, 37)}),
    ]
    if dtype is not torch.bool:
        calls.append((op.reduce, (draw(9, 37), 1, across, draw(9, 37)), {"reduce": "add"}))
        calls.append((op.value_reduce, (draw(9, 37), 1, across, value), {"reduce": "multiply"}))
    return calls


def _mask_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    draw, flags = draw_values(generator, dtype, "mixed"), draw_values(generator, torch.bool, "any")
    op = aten.masked_scatter
    return [
        (op.default, (draw(9, 37), flags(9, 37), draw(333)), {}),
        (op.default, (draw(37, 9).t(), flags(9, 1), draw(37, 9).t()), {}),
        (op.default, (draw(8, 70)[1:7, 3:67], flags(64, 6).t(), draw(400)), {}),
        (aten.masked_scatter_.default, (draw(9, 37), flags(37), draw(333)), {}),
    ]


def _mask_flipped(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    """All dimensions and the elements that will be used the other way round."""
    shape = torch.broadcast_shapes(call["self"].shape, call["mask"].shape)
    x, mask = call["self"].expand(shape), call["mask"].expand(shape)
    dims = list(range(len(shape)))
    source = call["source"].reshape(-1)[: int(np.count_nonzero(bits.values(mask.contiguous())))]
    got = call.replaced(self=x.flip(dims), mask=mask.flip(dims), source=source.flip(0)).run()[0]
    return (got.flip(dims),)


MASK_FLIPPED = Symmetry("flip all dimensions", (Move("custom", function=_mask_flipped),),
                        frozenset({"address", "core", "tile", "lane"}), True)


def _no_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    return Axes(fixed(call), ((FIXED,) * held[0].dim(),))


def _mask_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    return (MASK_FLIPPED, *odd_in(call, "self", "source"))


_register(aten.index_fill, filled, row_axes, writing_symmetries(row_axes), _fill_samples,
          "A number in slices across a dimension.")
_register(aten.index_copy, copied, row_axes, writing_symmetries(row_axes, "self", "source"),
          _row_samples(aten.index_copy, aten.index_copy_), "Slices written at an index.")
_register(aten.masked_scatter, masked, _no_axes, _mask_symmetries, _mask_samples,
          "Elements of a source in order, where a mask holds.")
