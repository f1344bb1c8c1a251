"""Ops that read at an index: every result element is an operand's element, bit for bit.

The invariant repeats the reading in NumPy on the raw bits, so it fixes every bit of the result.
Place: the index moves with the result, other dimensions with the operand; a negated operand gives
the negated result (seen in 4 formats, 1 and 2 threads).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.ops._axes import FIXED, Axes, AxesOf, Labels
from sdc_guard.ops._indexing import (
    Array,
    Broken,
    all_readable,
    held_elements,
    index_values,
    longest,
    moved_axes,
    numpy_index,
)
from sdc_guard.ops._places import odd_in
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import SampleList, draw_values
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry, roll, split

aten = torch.ops.aten
Read = Callable[[Tensor], Array]
Selected = Callable[[BoundCall, Read], Array]
"""The result's elements, read from the operand by ``Read`` (raw bits or values)."""

FLIPPED_PLACES = frozenset({"address", "core", "tile", "lane"})


def _register(target: Any, select: Selected, axes: AxesOf, samples: Any, text: str,
              *more: Symmetry) -> None:
    def invariant(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
        if not all_readable(call, held):
            return None
        wrong = held_elements(held[0], select(call, bits.raw))
        if wrong is not None and held[0].is_floating_point() and held[0].element_size() == 2:
            # Some kernels take half formats through fp32, which may change a NaN's payload.
            kept = np.isnan(bits.values(held[0])) & np.isnan(select(call, bits.values))
            wrong = wrong & ~kept if (wrong & ~kept).any() else None
        return None if wrong is None else (0, wrong, "result elements are the operand's, bit "
                                                     "for bit")

    def symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
        axis = longest(axes(call, held).outputs[0], held[0])
        moved = (split(axis), roll(axis, lane=True)) if axis else ()
        return (*moved, *more, *odd_in(call, "self")) or (RERUN,)

    def reference(call: HostCall) -> tuple[Reference | None, ...]:
        if not bits.has_values(call["self"].dtype):
            return (None,)
        return (Reference(select(call.call, bits.values), 0.0, 0.0, "exact"),)

    reference.__doc__ = text
    reference.__module__ = __name__
    checked(target, family="indexing", axes=axes, symmetries=symmetries, invariant=invariant,
            proves=all_readable, samples=samples)(reference)


def _integers(generator: torch.Generator, high: int, *sizes: int) -> Tensor:
    return torch.randint(0, high, sizes, generator=generator)


def _no_labels(rank: int) -> Labels:
    return (FIXED,) * rank


def _gather(call: BoundCall, read: Read) -> Array:
    index, source = index_values(call["index"]), read(call["self"])
    if not source.ndim:
        return np.broadcast_to(source, index.shape)
    dim = call["dim"] % source.ndim
    if not index.ndim:
        return np.asarray(source[index])
    whole = tuple(slice(None) if d == dim else slice(n) for d, n in enumerate(index.shape))
    return np.take_along_axis(source[whole], index.astype(np.int64, copy=False), dim)


def _gather_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    source, index = call["self"], call["index"]
    rank = index.dim()
    dim = call["dim"] % max(rank, 1)
    both = rank == source.dim()
    output = tuple(f"d{d}" if d == dim or (both and source.shape[d] == index.shape[d]) else FIXED
                   for d in range(rank))
    operand = tuple(FIXED if d == dim or not both else output[d] for d in range(source.dim()))
    return moved_axes(call, held, operand, output, index=output)


def _gather_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    draw = draw_values(generator, dtype, "mixed")
    return [
        (aten.gather.default, (draw(9, 37), 1, _integers(generator, 37, 9, 65)), {}),
        (aten.gather.default, (draw(37, 9).t(), 0, _integers(generator, 9, 5, 31)), {}),
        (aten.gather.default, (draw(8, 70)[1:7, 3:67], -1, _integers(generator, 64, 6, 3)), {}),
        (aten.gather.default, (draw(), 0, _integers(generator, 1, 3)), {}),
        (aten.gather.default, (draw(13), 0, _integers(generator, 13, 1)[0]), {}),
        (aten.gather.out, (draw(9, 37), 0, _integers(generator, 9, 4, 37)), {"out": draw(4, 37)}),
    ]


_register(aten.gather, _gather, _gather_axes, _gather_samples,
          "``x[.., index, ..]`` along a dimension, an index per element.")


def _select(call: BoundCall, read: Read) -> Array:
    source, index = read(call["self"]), index_values(call["index"])
    if not source.ndim:
        return np.asarray(np.broadcast_to(source, index.ravel().shape)).reshape(())
    return np.take(source, index.ravel(), axis=call["dim"])


def _select_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    rank = call["self"].dim()
    dim = call["dim"] % max(rank, 1)
    operand = tuple(FIXED if d == dim else f"d{d}" for d in range(rank))
    output = tuple("i" if d == dim else x for d, x in enumerate(operand))
    index = ("i",) * call["index"].dim()
    if not index:
        output = operand
    return moved_axes(call, held, operand, output, index=index)


def _select_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    draw = draw_values(generator, dtype, "mixed")
    op = aten.index_select
    return [
        (op.default, (draw(9, 37), 0, _integers(generator, 9, 65)), {}),
        (op.default, (draw(37, 9).t(), 1, _integers(generator, 37, 5).int()), {}),
        (op.default, (draw(3, 8, 70)[:, 1:7, 3:67], -2, _integers(generator, 6, 9)), {}),
        (op.default, (draw(), 0, _integers(generator, 1, 1)), {}),
        (op.out, (draw(9, 37), 1, _integers(generator, 37, 4)), {"out": draw(9, 4)}),
    ]


_register(aten.index_select, _select, _select_axes, _select_samples,
          "Slices across a dimension, named by an index.")


def _index(call: BoundCall, read: Read) -> Array:
    return np.asarray(read(call["self"])[numpy_index(call["indices"])])


def _index_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    """Dimensions without an index, and those of integer indices; none where there is a mask."""
    source, indices = call["self"], call["indices"]
    given = [j for j, i in enumerate(indices) if i is not None]
    used = [indices[j] for j in given]
    axes = moved_axes(call, held, _no_labels(source.dim()), _no_labels(held[0].dim()))
    if not used or any(i.dtype in (torch.bool, torch.uint8) for i in used):
        return axes
    shape = torch.broadcast_shapes(*(i.shape for i in used))
    wide = tuple(f"i{d}" for d in range(len(shape)))
    operand = tuple(FIXED if d in given else f"d{d}" for d in range(source.dim()))
    kept = [x for x in operand if x != FIXED]
    lead = given[0] if given == list(range(given[0], given[-1] + 1)) else 0
    output = (*kept[:lead], *wide, *kept[lead:])
    axes = moved_axes(call, held, operand, output)
    position = call.form.position("indices")
    for j in given:
        own = wide[len(wide) - indices[j].dim():]
        axes.operands[position, j] = tuple(
            x if n == shape[len(shape) - indices[j].dim() + d] else FIXED
            for d, (x, n) in enumerate(zip(own, indices[j].shape, strict=True)))
    return axes


def _index_samples(op: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        draw = draw_values(generator, dtype, "mixed")
        rows, columns = _integers(generator, 9, 65), _integers(generator, 37, 65)
        calls: SampleList = [
            (op.Tensor, (draw(9, 37), [rows]), {}),
            (op.Tensor, (draw(9, 37), [rows, columns - 37]), {}),
            (op.Tensor, (draw(37, 9).t(), [None, columns.view(5, 13)]), {}),
            (op.Tensor, (draw(9, 5, 37), [rows, None, columns]), {}),
            (op.Tensor, (draw(5, 9, 37), [None, rows[:8, None], columns[:3]]), {}),
        ]
        if op is aten.index:
            calls += [
                (op.Tensor, (draw(8, 70)[1:7, 3:67], [draw_values(
                    generator, torch.bool, "any")(6, 64)]), {}),
                (op.Tensor, (draw(9, 37), [None, draw_values(generator, torch.bool, "any")(37)]),
                 {}),
                (op.Tensor_out, (draw(9, 37), [rows]), {"out": draw(65, 37)}),
            ]
        return calls

    return samples


for _op in (aten.index, aten._unsafe_index):
    _register(_op, _index, _index_axes, _index_samples(_op), "``x[i, j, ..]``, masks included.")


def _take(call: BoundCall, read: Read) -> Array:
    return np.asarray(read(call["self"]).reshape(-1)[index_values(call["index"])])


def _take_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    labels = tuple(f"i{d}" for d in range(call["index"].dim()))
    return moved_axes(call, held, _no_labels(call["self"].dim()), labels, index=labels)


def _take_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    draw = draw_values(generator, dtype, "mixed")
    index = _integers(generator, 333, 5, 13)
    return [
        (aten.take.default, (draw(9, 37), index), {}),
        (aten.take.default, (draw(37, 9).t(), index - 333), {}),
        (aten.take.out, (draw(9, 37), index), {"out": draw(5, 13)}),
    ]


_register(aten.take, _take, _take_axes, _take_samples, "Elements of the operand as a vector.")


def _masked(call: BoundCall, read: Read) -> Array:
    source, mask = np.broadcast_arrays(read(call["self"]), bits.values(call["mask"]) != 0)
    return np.asarray(source[mask])


def _flipped(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    """All dimensions the other way round, and the selected elements with them."""
    shape = torch.broadcast_shapes(call["self"].shape, call["mask"].shape)
    source, mask = call["self"].expand(shape), call["mask"].expand(shape)
    dims = list(range(len(shape)))
    return (call.replaced(self=source.flip(dims), mask=mask.flip(dims)).run()[0].flip(0),)


def _masked_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    draw, flags = draw_values(generator, dtype, "mixed"), draw_values(generator, torch.bool, "any")
    return [
        (aten.masked_select.default, (draw(9, 37), flags(9, 37)), {}),
        (aten.masked_select.default, (draw(37, 9).t(), flags(9, 1)), {}),
        (aten.masked_select.default, (draw(1, 70)[:, 3:67], flags(64, 6).t()), {}),
        (aten.masked_select.default, (draw(), flags()), {}),
    ]


_register(aten.masked_select, _masked,
          lambda call, held: moved_axes(call, held, _no_labels(call["self"].dim()), (FIXED,)),
          _masked_samples, "Elements where a mask holds, in C order.",
          Symmetry("flip all dimensions", (Move("custom", function=_flipped),), FLIPPED_PLACES,
                   True))


def _tiled(call: BoundCall, read: Read) -> Array:
    return np.tile(read(call["self"]), tuple(call["repeats"]))


def _tiled_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    lead = held[0].dim() - call["self"].dim()
    repeats = list(call["repeats"])
    output = tuple(f"d{d}" if d >= lead and n == 1 else FIXED for d, n in enumerate(repeats))
    return moved_axes(call, held, output[lead:], output)


def _tiled_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    draw = draw_values(generator, dtype, "mixed")
    return [
        (aten.repeat.default, (draw(9, 37), [1, 3]), {}),
        (aten.repeat.default, (draw(37, 9).t(), [2, 1, 2]), {}),
        (aten.repeat.default, (draw(8, 70)[1:7, 3:67], [2, 1]), {}),
        (aten.repeat.default, (draw(), [3]), {}),
    ]


_register(aten.repeat, _tiled, _tiled_axes, _tiled_samples, "Copies of the operand side by side.")
