"""``cat`` and ``stack``, and the backward of slices: operands' bits at their places, zero
elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.ops._axes import FIXED, Axes, Labels
from sdc_guard.ops._casts import cast_reference, moved_bits
from sdc_guard.ops._places import odd_in
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import SampleList, draw_values
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry, negate, roll, split

aten = torch.ops.aten
Broken = tuple[int, NDArray[np.bool_], str] | None


def _parts(call: BoundCall) -> list[Tensor]:
    """The joined tensors; ``cat`` ignores empty vectors beside tensors of other ranks."""
    tensors = list(call["tensors"])
    if call.form.packet == "aten.cat" and any(t.dim() != 1 for t in tensors):
        return [t for t in tensors if t.dim() != 1 or t.numel()]
    return tensors


def _join_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    rank = held[0].dim()
    dim = call["dim"] % max(rank, 1)
    output = tuple(FIXED if d == dim else f"d{d}" for d in range(rank))
    stacked = call.form.packet == "aten.stack"
    kept: Labels = tuple(x for d, x in enumerate(output) if d != dim or not stacked)
    named = {path: (kept if path[0] == 0 else output) for path, t in call.tensors()
             if t.dim() == len(kept if path[0] == 0 else output)}
    return Axes(named, (output,))


def _rotated_cat(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    """The pieces in another cyclic order, and back."""
    parts = _parts(call)
    first = 1 + visit % (len(parts) - 1)
    got = call.replaced(tensors=[*parts[first:], *parts[:first]]).run()[0]
    dim = call["dim"]
    tail = sum(t.shape[dim] for t in parts[first:])
    lead = got.shape[dim] - tail
    return (torch.cat([got.narrow(dim, tail, lead), got.narrow(dim, 0, tail)], dim),)


def _reversed_stack(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    got = call.replaced(tensors=list(reversed(call["tensors"]))).run()[0]
    return (got.flip(call["dim"]),)


_ROTATED = Symmetry("rotate pieces", (Move("custom", function=_rotated_cat),),
                    frozenset({"address", "core", "tile", "lane"}), True)
_REVERSED = Symmetry("reverse pieces", (Move("custom", function=_reversed_stack),),
                     frozenset({"address", "core", "tile", "lane"}), True)


def _join_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    parts = _parts(call)
    found: list[Symmetry] = []
    labels = _join_axes(call, held).outputs[0]
    sizes = {x: int(held[0].shape[d]) for d, x in enumerate(labels) if x != FIXED}
    longest = max(sizes, key=lambda x: sizes[x], default="")
    if longest and sizes[longest] > 1:
        found += [split(longest), roll(longest, lane=True)]
    if len(parts) > 1:
        found.append(_REVERSED if call.form.packet == "aten.stack" else _ROTATED)
    if all(t.is_floating_point() for t in call["tensors"]):
        found.append(negate("tensors"))
    return tuple(found) or (RERUN,)


def _keeps_bits(call: BoundCall, held: tuple[Tensor, ...]) -> bool:
    """True where no piece is converted."""
    return all(part.dtype is held[0].dtype and part.device == held[0].device
               for part in _parts(call))


def _join_invariant(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
    """Each piece's bits stand at its place."""
    if not _keeps_bits(call, held):
        return None
    result, dim = held[0], call["dim"]
    text = "the result's bits are those of the pieces"
    wrong = None
    start = 0
    for part in _parts(call):
        if call.form.packet == "aten.stack":
            part = part.unsqueeze(dim)
        length = part.shape[dim]
        found = moved_bits(result.narrow(dim, start, length), part)
        if found is not None:
            wrong = np.zeros(tuple(result.shape), dtype=bool) if wrong is None else wrong
            place = [slice(None)] * result.dim()
            place[dim] = slice(start, start + length)
            wrong[tuple(place)] = found
        start += length
    return None if wrong is None else (0, wrong, text)


def _join_samples(op: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        draw = draw_values(generator, dtype, "mixed")
        if op is aten.stack:
            return [(op.default, ([draw(5, 7), draw(7, 5).t(), draw(5, 14)[:, ::2]], d), {})
                    for d in (0, 1, -1)] + [(op.default, ([draw(), draw(), draw()],), {})]
        rows = [draw(3, 40), draw(40, 5).t(), draw(1, 80)[:, ::2]]
        other = torch.float32 if dtype is not torch.float32 else torch.float64
        return [
            (op.default, (rows,), {}),
            (op.default, ([t.t() for t in rows], -1), {}),
            (op.default, ([draw(7), draw(0), draw(65)],), {}),
            (op.default, ([draw(4, 6), draw(4, 6).to(other)],), {}),
            (op.out, (rows,), {"out": draw(9, 40)}),
        ]

    return samples


@checked(aten.cat, family="copy", axes=_join_axes, symmetries=_join_symmetries,
         invariant=_join_invariant, proves=_keeps_bits, samples=_join_samples(aten.cat))
def cat(call: HostCall) -> tuple[Reference | None, ...]:
    """The operands one after the other along a dimension, each converted to the common dtype."""
    return _joined(call, np.concatenate)


@checked(aten.stack, family="copy", axes=_join_axes, symmetries=_join_symmetries,
         invariant=_join_invariant, proves=_keeps_bits, samples=_join_samples(aten.stack))
def stack(call: HostCall) -> tuple[Reference | None, ...]:
    """The operands beside each other along a new dimension."""
    return _joined(call, np.stack)


def _joined(call: HostCall, join: Any) -> tuple[Reference | None, ...]:
    parts = _parts(call.call)
    if not all(bits.has_values(t.dtype) for t in parts):
        return (None,)
    return (cast_reference(join([bits.values(t) for t in parts], axis=call["dim"]), call.held[0]),)


def _other_dim(call: BoundCall) -> int | None:
    """The longest dimension of the gradient that the slice does not cut."""
    gradient = call["grad_output"]
    cut = call["dim"] % max(len(call["input_sizes"]), 1)
    own = {cut} if gradient.dim() == len(call["input_sizes"]) else set()
    sizes = {d: gradient.shape[d] for d in range(gradient.dim()) if d not in own}
    longest = max(sizes, key=lambda d: sizes[d], default=None)
    return longest if longest is not None and sizes[longest] > 1 else None


def _rolled_gradient(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    gradient, sizes = call["grad_output"], call["input_sizes"]
    dim = _other_dim(call)
    assert dim is not None
    shift = 1 + visit % (gradient.shape[dim] - 1)
    got = call.replaced(grad_output=gradient.roll(shift, dim)).run()[0]
    cut = call["dim"] % len(sizes)
    target = dim + 1 if gradient.dim() < len(sizes) and dim >= cut else dim
    return (got.roll(-shift, target),)


_ROLLED = Symmetry("roll the gradient", (Move("custom", function=_rolled_gradient),),
                   frozenset({"address", "core", "tile", "lane"}), True)


def _slice_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    found = () if _other_dim(call) is None else (_ROLLED,)
    return (*found, *odd_in(call, "grad_output")) or (RERUN,)


def _no_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    """None can be narrowed: the size of the result is an argument."""
    fixed = {path: (FIXED,) * t.dim() for path, t in call.tensors()}
    return Axes(fixed, ((FIXED,) * held[0].dim(),))


def _slice_samples(op: Any, *rest: int) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        draw = draw_values(generator, dtype, "mixed")
        flat = () if op is aten.select_backward else (7,)
        return [
            (op.default, (draw(6, *flat), [6, 19], 1, *rest), {}),
            (op.default, (draw(*flat, 6).t() if flat else draw(6), [6, 19], 1, *rest), {}),
            (op.default, (draw(*flat, 4, 5), [19, 4, 5], 0, *rest), {}),
            (op.default, (draw(*flat), [19], 0, *rest), {}),
        ]

    return samples


@checked(aten.slice_backward, family="copy", axes=_no_axes, symmetries=_slice_symmetries,
         samples=_slice_samples(aten.slice_backward, 2, 16, 2))
def slice_backward(call: HostCall) -> tuple[Reference | None, ...]:
    """The gradient at the slice's places, zero elsewhere."""
    gradient = call.array("grad_output")
    result = np.zeros(tuple(call["input_sizes"]), dtype=gradient.dtype)
    place = [slice(None)] * result.ndim
    place[call["dim"]] = slice(call["start"], call["end"], call["step"])
    result[tuple(place)] = gradient
    return (Reference(result, 0.0, 0.0, "exact"),)


@checked(aten.select_backward, family="copy", axes=_no_axes, symmetries=_slice_symmetries,
         samples=_slice_samples(aten.select_backward, -3))
def select_backward(call: HostCall) -> tuple[Reference | None, ...]:
    """The gradient at one index of a dimension, zero elsewhere."""
    gradient = call.array("grad_output")
    result = np.zeros(tuple(call["input_sizes"]), dtype=gradient.dtype)
    np.moveaxis(result, call["dim"], 0)[call["index"]] = gradient
    return (Reference(result, 0.0, 0.0, "exact"),)
