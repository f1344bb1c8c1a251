"""Copies and conversions: the result is the operand's bits, or one correct rounding of them.

A copy within a dtype has an invariant: the result's bits are the operand's, NaN payloads and zero
signs included.  A conversion is emulated exactly in NumPy.  Place: equal bits wherever an element
stands, and a negated operand gives the negated result (seen in 4 formats and between them).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.ops._axes import FIXED, Axes, broadcast_axes
from sdc_guard.ops._casts import cast_reference, moved_bits
from sdc_guard.ops._places import odd_in, pointwise_symmetries
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, INTEGERS, LAYOUTS, SampleList, draw_values
from sdc_guard.ops._symmetry import OUTERMOST, RERUN, Symmetry, split

aten = torch.ops.aten
Broken = tuple[int, NDArray[np.bool_], str] | None

_RANKED_FORMATS = (torch.channels_last, torch.channels_last_3d)


def _source(call: BoundCall) -> Tensor:
    source = call.get("src")
    return source if source is not None else call["self"]  # type: ignore[no-any-return]


def copy_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """As for every elementwise op; a call that names a memory format keeps its rank."""
    if call.get("memory_format") in _RANKED_FORMATS:
        return (split(OUTERMOST), *odd_in(call, "self"), RERUN)
    return pointwise_symmetries(call, held, odd=("src" if "src" in call.form.argument_names
                                                 else "self",))


def keeps_bits(call: BoundCall, held: tuple[Tensor, ...]) -> bool:
    """True for a copy within a dtype and a device."""
    source = _source(call)
    return source.dtype is held[0].dtype and source.device == held[0].device


def same_bits(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
    """A copy within a dtype holds the operand's bits."""
    if not keeps_bits(call, held):
        return None
    wrong = moved_bits(held[0], _source(call).expand(held[0].shape))
    return None if wrong is None else (0, wrong, "the result's bits are the operand's")


def _copy_samples(op: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        draw = draw_values(generator, dtype, "mixed")
        operands = [layout(draw) for layout in LAYOUTS]
        targets = (dtype, *(d for d in (*FLOATS, *INTEGERS) if d is not dtype))
        if op is aten._to_copy:
            return [(op.default, (x,), {"dtype": d}) for x in operands for d in targets]
        if op is aten.clone:
            form = {"memory_format": torch.contiguous_format}
            last = {"memory_format": torch.channels_last}
            images = [draw(2, 3, 4, 5), draw(1, 1, 1, 1)]
            return [(op.default, (x,), k) for x in operands for k in ({}, form)] + [
                (op.default, (x,), last) for x in images]
        calls: SampleList = []
        for x in operands:
            calls += [(aten.copy_.default, (x.to(d), x), {}) for d in targets]
        wide = draw(5, 40)
        return [*calls, (aten.copy_.default, (wide, draw(40)), {}),
                (aten.copy_.default, (wide.t(), draw(40, 5)), {})]

    return samples


def _register_copy(op: Any) -> None:
    checked(op, family="copy", axes=broadcast_axes, symmetries=copy_symmetries,
            invariant=same_bits, proves=keeps_bits, window=(OUTERMOST,),
            samples=_copy_samples(op))(copied)


def copied(call: HostCall) -> tuple[Reference | None, ...]:
    """The operand's values, rounded once where the dtype changes."""
    source = _source(call.call)
    if not bits.has_values(source.dtype):
        return (None,)
    values = np.broadcast_to(bits.values(source), tuple(call.held[0].shape))
    return (cast_reference(values, call.held[0]),)


for _op in (aten.clone, aten.copy, aten._to_copy):
    _register_copy(_op)


def _moved_samples(op: Any, *rest: Any, shapes: tuple[tuple[int, ...], ...]) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        draw = draw_values(generator, dtype, "mixed")
        return [(op.default, (x, *rest), {})
                for shape in shapes for x in (draw(*shape), draw(*shape[::-1]).permute(
                    *range(len(shape) - 1, -1, -1)))]

    return samples


def _fixed_but(call: BoundCall, held: tuple[Tensor, ...], fixed: set[int]) -> Axes:
    labels = tuple(FIXED if d in fixed else f"d{d}" for d in range(held[0].dim()))
    return Axes({path: labels for path, t in call.tensors() if t.dim() == len(labels)}, (labels,))


def _dims(call: BoundCall) -> set[int]:
    """The dimensions that ``roll`` or ``flip`` moves; all for a roll of the flattened tensor."""
    rank = max(call["self"].dim(), 1)
    dims = call["dims"]
    return {d % rank for d in dims} if dims else set(range(rank))


def _kept_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    return (split(OUTERMOST), *odd_in(call, "self"), RERUN)


@checked(aten.roll, family="copy", axes=lambda call, held: _fixed_but(call, held, _dims(call)),
         symmetries=_kept_symmetries,
         samples=_moved_samples(aten.roll, [3], [1], shapes=((4, 33), (2, 5, 7))))
def roll_(call: HostCall) -> tuple[Reference | None, ...]:
    """Elements shifted along dimensions, those that fall off coming back at the other end."""
    dims = tuple(call["dims"])
    moved = np.roll(call.array("self"), tuple(call["shifts"]), dims or None)
    return (Reference(moved, 0.0, 0.0, "exact"),)


@checked(aten.flip, family="copy", axes=lambda call, held: _fixed_but(call, held, _dims(call)),
         symmetries=_kept_symmetries,
         samples=_moved_samples(aten.flip, [1], shapes=((4, 33), (2, 5, 7))))
def flip_(call: HostCall) -> tuple[Reference | None, ...]:
    """Elements in reverse order along dimensions."""
    return (Reference(np.flip(call.array("self"), tuple(call["dims"])), 0.0, 0.0, "exact"),)


def _triangle(call: HostCall, keep: Any) -> tuple[Reference | None, ...]:
    x = call.array("self")
    reach = max(x.shape[-2:])  # further outside, the triangle is the same, and NumPy's numbers end
    kept = keep(np.ones(x.shape[-2:], dtype=bool), max(-reach, min(reach, call["diagonal"])))
    return (Reference(np.where(kept, x, x.dtype.type(0)), 0.0, 0.0, "exact"),)


def _matrix_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    rank = held[0].dim()
    return _fixed_but(call, held, {rank - 2, rank - 1})


@checked(aten.tril, family="copy", axes=_matrix_axes, symmetries=_kept_symmetries,
         samples=_moved_samples(aten.tril, -1, shapes=((5, 9), (3, 8, 8))))
def tril(call: HostCall) -> tuple[Reference | None, ...]:
    """The operand on and below a diagonal, 0 above."""
    return _triangle(call, np.tril)


@checked(aten.triu, family="copy", axes=_matrix_axes, symmetries=_kept_symmetries,
         samples=_moved_samples(aten.triu, 1, shapes=((5, 9), (3, 8, 8))))
def triu(call: HostCall) -> tuple[Reference | None, ...]:
    """The operand on and above a diagonal, 0 below."""
    return _triangle(call, np.triu)
