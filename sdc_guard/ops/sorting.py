"""``sort`` and ``topk``: the operand's bits in another order.

Exact facts, which together leave nothing to a wrong result:

- each value has the bits of the element that its index names, and no element is named twice (a
  permutation of the line for ``sort``);
- values stand in order, NaN above every number (last when ascending);
- ``topk`` of k elements: sorted, its values are the first k of the sorted line, so no larger
  element was left out;
- equal elements keep their order where a stable sort was asked for.

What they leave free, the order of equal elements and which of them ``topk`` takes, is documented as
free.  The facts are checked in NumPy on the raw memory.

Place: each line is sorted by itself, so lines split and roll (seen in 4 formats and integers, 1 and
2 threads).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard.calls import BoundCall
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._lines import (
    Broken,
    dim_of,
    is_nan,
    line_symmetries,
    lines,
    moved_back,
    not_gathered,
    nothing_to_compute,
    readable,
    same,
)
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values

aten = torch.ops.aten


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    rank, dim = call["self"].dim(), dim_of(call)
    labels = tuple(FIXED if d == dim else f"d{d}" for d in range(rank))
    return Axes({(0,): labels}, tuple(labels for _ in held))


def _flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """About n log2 n comparisons for each line of n."""
    x = call["self"]
    return int(x.numel()) * max(int(x.shape[dim_of(call)] if x.dim() else 1).bit_length(), 1)


def out_of_order(values: Any, descending: bool) -> Any:
    """True at an element that should stand before the one that precedes it."""
    before, after = values[..., :-1], values[..., 1:]
    if descending:
        before, after = after, before
    wrong = np.zeros(values.shape, dtype=bool)
    wrong[..., 1:] = ~((before <= after) | is_nan(after))
    return wrong


def _named_twice(index: Any) -> Any:
    """True at indices that another element of the line has too."""
    order = np.argsort(index, axis=-1, kind="stable")
    sorted_index = np.take_along_axis(index, order, -1)
    again = np.zeros(index.shape, dtype=bool)
    again[..., 1:] = sorted_index[..., 1:] == sorted_index[..., :-1]
    wrong = np.zeros(index.shape, dtype=bool)
    np.put_along_axis(wrong, order, again, -1)
    return wrong


def _taken_wrongly(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
    """A value that its index does not name, or an index that is named twice."""
    x, (values, indices) = call["self"], held
    rank, dim = x.dim(), dim_of(call)
    found = not_gathered(call, values, indices, dim)
    if found is not None:
        return found
    wrong = _named_twice(lines(indices, rank, dim))
    if wrong.any():
        return 1, moved_back(wrong, indices, rank, dim), "no element is taken twice"
    return None


def _sort_fact(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
    """A permutation of each line, in order, stable where asked."""
    if not readable(call, held) or nothing_to_compute(call, held):
        return None
    x, (values, indices) = call["self"], held
    rank, dim = x.dim(), dim_of(call)
    found = _taken_wrongly(call, held)
    if found is not None:
        return found
    v, index = lines(values, rank, dim), lines(indices, rank, dim)
    wrong = out_of_order(v, bool(call["descending"]))
    if wrong.any():
        return 0, moved_back(wrong, values, rank, dim), "values stand in order, NaN as the largest"
    if call.get("stable"):
        wrong[..., 1:] = same(v[..., 1:], v[..., :-1]) & (index[..., 1:] < index[..., :-1])
        if wrong.any():
            return 1, moved_back(wrong, indices, rank, dim), "equal elements keep their order"
    return None


def _topk_fact(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
    """The k first elements of the sorted line."""
    if not readable(call, held) or nothing_to_compute(call, held):
        return None
    x, values = call["self"], held[0]
    rank, dim, k = x.dim(), dim_of(call), int(call["k"])
    found = _taken_wrongly(call, held)
    if found is not None:
        return found
    v = lines(values, rank, dim)
    largest = bool(call["largest"])
    line = np.sort(lines(x, rank, dim), axis=-1)
    wanted = line[..., line.shape[-1] - k:] if largest else line[..., :k]
    got = np.sort(v, axis=-1)
    missed = ~same(got, wanted)
    if missed.any():
        place = np.argsort(v, axis=-1, kind="stable")
        wrong = np.zeros(v.shape, dtype=bool)
        np.put_along_axis(wrong, place, missed, -1)
        return 0, moved_back(wrong, values, rank, dim), "the values are the first k when sorted"
    if call["sorted"]:
        wrong = out_of_order(v, largest)
        if wrong.any():
            return 0, moved_back(wrong, values, rank, dim), "values stand in order"
    return None


def _operands(generator: torch.Generator, dtype: torch.dtype) -> tuple[Any, list[Any]]:
    draw = draw_values(generator, dtype, "mixed")
    return draw, [draw(9, 37), draw(37, 9).t(), draw(8, 70)[1:7, 3:67], draw(3, 5, 7), draw(211)]


def _sort_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype not in (*FLOATS, torch.int64, torch.bool):
        return []
    draw, operands = _operands(generator, dtype)
    op = aten.sort
    memory = {"values": draw(9, 37), "indices": torch.empty(9, 37, dtype=torch.int64)}
    return [*((op.default, (x, d, descending), {}) for x in operands for d in (0, -1)
              for descending in (False, True)),
            *((op.stable, (x,), {"stable": True, "dim": 0}) for x in operands),
            (op.default, (draw(),), {}), (op.values, (operands[0],), memory)]


def _topk_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype not in (*FLOATS, torch.int64):
        return []
    draw, operands = _operands(generator, dtype)
    op = aten.topk
    memory = {"values": draw(9, 5), "indices": torch.empty(9, 5, dtype=torch.int64)}
    return [*((op.default, (x, 3, 0, largest, ordered), {}) for x in operands
              for largest in (False, True) for ordered in (False, True)),
            (op.default, (operands[4], 211), {}), (op.default, (draw(), 1), {}),
            (op.values, (operands[0], 5), memory)]


def _as_result(call: HostCall, v: Any) -> Any:
    """Lines in the shape of the result."""
    shape = tuple(call.held[0].shape)
    return np.moveaxis(v, -1, dim_of(call.call)) if shape else v.reshape(shape)


@checked(aten.sort, family="selection", axes=_axes, symmetries=line_symmetries,
         invariant=_sort_fact, proves=readable, flops=_flops, samples=_sort_samples)
def sort(call: HostCall) -> tuple[Reference | None, ...]:
    """The elements of each line in order, and where they stood; NaN counts as the largest."""
    x = call["self"]
    if not x.numel() or not readable(call.call, call.held):
        return None, None
    v = np.sort(lines(x, x.dim(), dim_of(call.call)), axis=-1)
    if call["descending"]:
        v = v[..., ::-1]
    return Reference(_as_result(call, v), 0.0, 0.0, "exact"), None


@checked(aten.topk, family="selection", axes=_axes, symmetries=line_symmetries,
         invariant=_topk_fact, proves=readable, flops=_flops, samples=_topk_samples)
def topk(call: HostCall) -> tuple[Reference | None, ...]:
    """The k largest or smallest elements of each line, and where they stood."""
    x, k = call["self"], int(call["k"])
    if not call["sorted"] or not x.numel() or not readable(call.call, call.held):
        return None, None
    v = np.sort(lines(x, x.dim(), dim_of(call.call)), axis=-1)
    v = v[..., ::-1][..., :k] if call["largest"] else v[..., :k]
    return Reference(_as_result(call, v), 0.0, 0.0, "exact"), None
