"""``unique`` in all its forms: ``_unique2``, ``unique_dim``, ``unique_consecutive``.

Exact facts: the distinct values are those of the operand (sorted where asked, runs in order for
``unique_consecutive``), each element has the value that its inverse index names, and counts are the
numbers of elements that name a value.  Operands with NaN, which equals nothing, are left to replay.
A result of size 0 was not asked for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._lines import Broken, is_nan
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry

aten = torch.ops.aten
Array = NDArray[Any]


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    return Axes({(0,): (FIXED,) * call["self"].dim()}, tuple((FIXED,) * t.dim() for t in held))


def _image(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    """The operand in other memory, contiguous there."""
    x = call["self"]
    lead = 8 * (1 + visit % 4)
    memory = torch.empty(x.numel() + lead, dtype=x.dtype, device=x.device)[lead:]
    return call.replaced(self=memory.view(x.shape).copy_(x)).run()


MOVED = Symmetry("another address", (Move("custom", function=_image),),
                 frozenset({"address"}), True)


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    return MOVED, RERUN


def _rows(array: Array, dim: int | None) -> Array:
    """What is compared: single elements, or slices along a dimension, as rows."""
    if dim is None:
        return array.reshape(-1, 1)
    moved = np.moveaxis(array, dim, 0)
    return moved.reshape(len(moved), -1)


def _same_rows(a: Array, b: Array) -> Array:
    return np.asarray((a == b).all(-1))


def _dim(call: BoundCall) -> int | None:
    """The dimension whose slices are compared; None where single elements are."""
    dim, rank = call.get("dim"), call["self"].dim()
    return int(dim) % rank if dim is not None and rank else None


def _wanted(call: BoundCall, rows: Array) -> tuple[Array, Array]:
    """The values in order, and for each row of the operand which of them it is."""
    if call.form.packet == "aten.unique_consecutive":
        starts = np.ones(len(rows), dtype=bool)
        starts[1:] = ~_same_rows(rows[1:], rows[:-1])
        return rows[starts], np.cumsum(starts) - 1
    if rows.shape[1] == 1:
        values, labels = np.unique(rows[:, 0], return_inverse=True)
        return values[:, None], labels
    values, labels = np.unique(rows, axis=0, return_inverse=True)
    return values, labels.reshape(-1)


def _fact(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
    """Values, inverse and counts fit the operand and each other."""
    x = call["self"]
    if not bits.has_values(x.dtype) or not x.numel():
        return None
    dim = _dim(call)
    rows, values = _rows(bits.values(x), dim), _rows(bits.values(held[0]), dim)
    if is_nan(rows).any():
        return None
    everywhere = np.ones(tuple(held[0].shape), dtype=bool)
    consecutive = call.form.packet == "aten.unique_consecutive"
    wanted, labels = _wanted(call, rows)
    if values.shape != wanted.shape:
        return 0, everywhere, "there are as many values as distinct ones in the operand"
    place = np.arange(len(values))
    if consecutive or call.get("sorted", True):
        if not (values == wanted).all():
            return 0, everywhere, "the values are the operand's distinct ones, in order"
    else:
        order = np.lexsort(values.T[::-1])
        if not (values[order] == wanted).all():
            return 0, everywhere, "the values are the operand's distinct ones"
        place[order] = np.arange(len(values))
    inverse, counts = held[1], held[2]
    if inverse.numel():
        index = bits.values(inverse).reshape(-1)
        wrong = (index < 0) | (index >= len(values))
        wrong |= place[np.where(wrong, 0, index)] != labels
        if wrong.any():
            return (1, wrong.reshape(tuple(inverse.shape)),
                    "the inverse index names the element's value")
    if counts.numel():
        wrong = bits.values(counts) != np.bincount(labels, minlength=len(values))[place]
        if wrong.any():
            return 2, wrong.reshape(tuple(counts.shape)), "counts are those of the values"
    return None


def _samples(op: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in (*FLOATS, torch.int64):
            return []
        draw = draw_values(generator, dtype, "any")
        operands = [draw(9, 37).round(), draw(37, 9).round().t(), draw(120).round()[::2]]
        if op is aten.unique_dim:
            narrow = [draw(40, 2).round(), draw(2, 40).round().t()]
            return [(op.default, (x, 0, True, True, True), {}) for x in narrow]
        if op is aten.unique_consecutive:
            return [(op.default, (x, True, True), {}) for x in operands] + [
                (op.default, (draw(40, 1).round().expand(40, 3), True, True, 0), {})]
        return [(op.default, (x, ordered, True, True), {}) for x in operands
                for ordered in (False, True)] + [(op.default, (operands[2],), {})]

    return samples


def _register(op: Any, text: str) -> None:
    def reference(call: HostCall) -> tuple[Reference | None, ...]:
        x, held = call["self"], call.held[0]
        ordered = call.get("sorted", True)
        if not ordered or not bits.has_values(x.dtype) or not x.numel():
            return None, None, None
        dim = _dim(call.call)
        rows = _rows(call.array("self"), dim)
        values = _wanted(call.call, rows)[0]
        if is_nan(rows).any() or values.size != held.numel():
            return None, None, None
        shape = tuple(held.shape)
        if dim is None:
            return Reference(values.reshape(shape), 0.0, 0.0, "exact"), None, None
        moved = (shape[dim], *shape[:dim], *shape[dim + 1:])
        expected = np.moveaxis(values.reshape(moved), 0, dim)
        return Reference(expected, 0.0, 0.0, "exact"), None, None

    reference.__doc__ = text
    reference.__module__ = __name__
    checked(op, family="selection", axes=_axes, symmetries=_symmetries, invariant=_fact,
            samples=_samples(op))(reference)


_register(aten._unique2, "The distinct values, the value of each element and how often it occurs.")
_register(aten.unique_dim, "The distinct slices along a dimension.")
_register(aten.unique_consecutive, "One value for each run of equal ones.")
