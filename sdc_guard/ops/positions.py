"""Ops whose result is positions: integers that follow from the operand exactly.

``nonzero`` lists where an operand is not 0 in C order; ``repeat_interleave`` writes each position
as often as its count says; ``tril_indices`` and ``triu_indices`` list the places of a triangle. """

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._indexing import Array, Broken, all_readable, fixed, held_elements
from sdc_guard.ops._places import odd_in
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import SampleList, draw_values
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry

aten = torch.ops.aten

PLACES = frozenset({"address", "core", "tile", "lane"})


def _no_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    return Axes(fixed(call), tuple((FIXED,) * t.dim() for t in held))


def _exact(expected: Array) -> tuple[Reference | None, ...]:
    return (Reference(expected, 0.0, 0.0, "exact"),)


def _flipped(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    """All dimensions the other way round; the list and the positions in it then run backwards."""
    x = call["self"]
    got = call.replaced(self=x.flip(list(range(x.dim())))).run()[0]
    last = torch.tensor(x.shape, dtype=got.dtype, device=got.device) - 1
    return ((last - got).flip(0),)


def _negated(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    return call.replaced(self=torch.neg(call["self"])).run()


FLIPPED = Symmetry("flip all dimensions", (Move("custom", function=_flipped),), PLACES, True)
NEGATED = Symmetry("negate self, same places", (Move("custom", function=_negated),),
                   frozenset({"address", "bits"}), True)


def _places_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    return (FLIPPED, RERUN, *((NEGATED,) if odd_in(call, "self") else ()))


def _is_known(call: BoundCall, held: tuple[Tensor, ...]) -> bool:
    return all_readable(call, held) and bits.has_values(call["self"].dtype)


def _places(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
    if not _is_known(call, held):
        return None
    expected = np.argwhere(bits.values(call["self"]) != 0).astype(np.int64)
    wrong = held_elements(held[0], expected.view(np.uint64))
    return None if wrong is None else (0, wrong, "the places where the operand is not 0, in order")


def _places_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    draw = draw_values(generator, dtype, "mixed")
    op = aten.nonzero
    operands = (draw(211).relu() if dtype is not torch.bool else draw(211), draw(9, 37).t() > 0,
                draw(8, 70)[1:7, 3:67].round() if dtype.is_floating_point else draw(8, 70)[1:7])
    return [(op.default, (x,), {}) for x in operands] + [
        (op.out, (operands[0],), {"out": torch.empty(0, dtype=torch.int64)})]


@checked(aten.nonzero, family="indexing", axes=_no_axes, symmetries=_places_symmetries,
         invariant=_places, proves=_is_known, samples=_places_samples)
def nonzero(call: HostCall) -> tuple[Reference | None, ...]:
    """Positions of the elements that are not 0, in C order; a NaN is not 0."""
    if not bits.has_values(call["self"].dtype):
        return (None,)
    return _exact(np.argwhere(call.array("self") != 0))


def _count_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    return (Symmetry("reverse the counts", (Move("custom", function=_reversed),), PLACES, True),
            RERUN)


def _reversed(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    counts = call["repeats"]
    got = call.replaced(repeats=counts.flip(0)).run()[0]
    return ((counts.numel() - 1 - got).flip(0),)


def _count_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype is not torch.int64:
        return []
    op = aten.repeat_interleave
    counts = torch.randint(0, 5, (65,), generator=generator)
    return [(op.Tensor, (counts,), {}), (op.Tensor, (counts.int()[::2],), {}),
            (op.Tensor, (counts[:1] + 1,), {})]


@checked(aten.repeat_interleave, family="indexing", axes=_no_axes, symmetries=_count_symmetries,
         samples=_count_samples)
def repeat_interleave(call: HostCall) -> tuple[Reference | None, ...]:
    """Each position as often as its count; nothing for the forms that torch decomposes."""
    counts = call.get("repeats")
    if call.get("self") is not None or not isinstance(counts, Tensor):
        return (None,)
    counts = bits.values(counts)
    return _exact(np.repeat(np.arange(counts.size), counts))


def _triangle(call: HostCall, places: Any) -> tuple[Reference | None, ...]:
    return _exact(np.stack(places(call["row"], call["offset"], call["col"])))


def _triangle_samples(op: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype is not torch.int64:
            return []
        return [(op.default, shape, {}) for shape in ((5, 9), (9, 5, 2), (7, 7, -3), (1, 1))] + [
            (op.default, (6, 4), {"dtype": torch.int32})]

    return samples


@checked(aten.tril_indices, family="indexing", axes=_no_axes, symmetries=(RERUN,),
         samples=_triangle_samples(aten.tril_indices))
def tril_indices(call: HostCall) -> tuple[Reference | None, ...]:
    """Places on and below a diagonal, row by row."""
    return _triangle(call, np.tril_indices)


@checked(aten.triu_indices, family="indexing", axes=_no_axes, symmetries=(RERUN,),
         samples=_triangle_samples(aten.triu_indices))
def triu_indices(call: HostCall) -> tuple[Reference | None, ...]:
    """Places on and above a diagonal, row by row."""
    return _triangle(call, np.triu_indices)
