"""``index_put`` in its four forms and ``put``: values written or added at indices.

Written values are judged as in :mod:`sdc_guard.ops.scatters`, added ones as in
:mod:`sdc_guard.ops._scatter_sums`.  Place: dimensions without an index roll and split with the
values, rotating the positions of an indexed dimension rotates the result, everything negated gives
the negated result (seen in 4 formats, 1 and 2 threads).

One case has no order: on more than one thread ATen's CPU kernel adds fp32 values with atomic
operations from 32768 elements on (``index_put_kernel``, ``put_kernel`` in ``IndexKernel.cpp``).  No
relation holds there, and the reference is all there is. """

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._indexing import (
    Array,
    Broken,
    all_readable,
    fixed,
    longest,
    moved_axes,
    positions_at,
)
from sdc_guard.ops._places import GRAIN_SIZE, odd_in
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import SampleList, draw_values
from sdc_guard.ops._scatter_sums import Sent, sent_reference
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry, roll, split
from sdc_guard.ops.scatters import Written, source_bits, unwritten_or_written

aten = torch.ops.aten
MASKS = (torch.bool, torch.uint8)


def _places(call: BoundCall) -> Array:
    if call.form.packet == "aten.put":
        size = call["self"].numel()
        return np.asarray(bits.values(call["index"]).ravel() % max(size, 1))
    return positions_at(tuple(call["self"].shape), call["indices"])


def _values(call: BoundCall) -> Tensor:
    found: Tensor = call["source"] if call.form.packet == "aten.put" else call["values"]
    return found


def _written(call: BoundCall) -> Written:
    place, values = _places(call), _values(call)
    if call["accumulate"]:
        return None
    if call.form.packet != "aten.put":
        values = values.expand(place.shape)
    found = source_bits(values, place.ravel(), call["self"].dtype)
    return None if found is None else (place.ravel(), found)


def _fact(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
    return None if call["accumulate"] else unwritten_or_written(call, held, _written(call))


def _proves(call: BoundCall, held: tuple[Tensor, ...]) -> bool:
    return not call["accumulate"] and all_readable(call, held)


def put_reference(call: HostCall) -> tuple[Reference | None, ...]:
    """``x`` with values added at the positions; nothing where they are written."""
    x = call["self"]
    if not call["accumulate"] or not bits.has_values(x.dtype):
        return (None,)
    place, terms = _places(call.call), bits.values(_values(call.call))
    terms = terms.ravel() if call.call.form.packet == "aten.put" else np.broadcast_to(
        terms, place.shape).ravel()
    sent = Sent(call.array("self").reshape(-1), place.ravel(), terms)
    return (sent_reference(sent, "sum", True, call.held[0]),)


def _free_dims(call: BoundCall) -> list[int]:
    """Dimensions of the operand without an index."""
    used = 0
    free: list[int] = []
    for index in call["indices"]:
        if index is None:
            free.append(used)
        used += index.dim() if index is not None and index.dtype in MASKS else 1
    return [*free, *range(used, call["self"].dim())]


def _put_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    """Trailing dimensions without an index, where the values have them too."""
    x = call["self"]
    rank, values = x.dim(), call["values"]
    free = _free_dims(call)
    trailing = 0
    while trailing < min(len(free), values.dim()) and rank - 1 - trailing in free and (
            values.shape[-1 - trailing] in (1, x.shape[-1 - trailing])):
        trailing += 1
    given = [d for d in range(rank) if d not in free]
    if given and given != list(range(given[0], given[-1] + 1)) and given[0] != 0:
        trailing = min(trailing, rank - 1 - given[-1])
    labels = tuple(f"d{d}" if d >= rank - trailing else FIXED for d in range(rank))
    own = tuple(
        labels[rank - values.dim() + d]
        if d >= values.dim() - trailing and values.shape[d] == x.shape[rank - values.dim() + d]
        else FIXED for d in range(values.dim()))
    return moved_axes(call, held, labels, labels, values=own)


def _turned_dim(call: BoundCall) -> int | None:
    """The first dimension with an integer index, where no mask comes before it."""
    for d, index in enumerate(call["indices"]):
        if index is not None:
            return d if index.dtype not in MASKS and call["self"].shape[d] > 1 else None
    return None


def _rotated(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    dim = _turned_dim(call)
    assert dim is not None
    x, indices = call["self"], list(call["indices"])
    size = x.shape[dim]
    shift = 1 + visit % (size - 1)
    indices[dim] = ((indices[dim] + shift) % size).to(indices[dim].dtype)
    return (call.replaced(self=x.roll(shift, dim), indices=indices).run()[0].roll(-shift, dim),)


def _put_rotated(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    x = call["self"]
    size = x.numel()
    shift = 1 + visit % (size - 1)
    moved = call.replaced(self=x.reshape(-1).roll(shift), index=(call["index"] + shift) % size)
    return (moved.run()[0].roll(-shift).view(x.shape),)


def _nothing(call: BoundCall, visit: int) -> tuple[None]:
    return (None,)


_PLACES = frozenset({"address", "core", "tile", "lane"})
ROTATED = Symmetry("rotate the positions", (Move("custom", function=_rotated),), _PLACES, True)
PUT_ROTATED = Symmetry("rotate the positions", (Move("custom", function=_put_rotated),), _PLACES,
                       True)
NO_ORDER = Symmetry("none: atomic additions", (Move("custom", function=_nothing),), frozenset(),
                    True)


def has_no_order(call: BoundCall) -> bool:
    """True where the kernel adds with atomic operations, see the docstring of the file."""
    x = call["self"]
    return bool(call["accumulate"]) and x.device.type == "cpu" and (
        x.dtype is torch.float32 and torch.get_num_threads() > 1
        and _places(call).size >= GRAIN_SIZE)


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    if has_no_order(call):
        return (NO_ORDER,)
    axis = longest(_put_axes(call, held).outputs[0], held[0])
    moved = (split(axis), roll(axis, lane=True)) if axis else ()
    turned = (ROTATED,) if _turned_dim(call) is not None else ()
    return (*moved, *turned, *odd_in(call, "self", "values")) or (RERUN,)


def _samples(overload: Any, in_place: Any, masks: bool) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        draw = draw_values(generator, dtype, "any")
        rows = torch.randint(0, 9, (20,), generator=generator)
        columns = torch.randint(-37, 37, (20,), generator=generator)
        flags = draw_values(generator, torch.bool, "any")
        one = torch.tensor(1).to(dtype)
        calls: SampleList = []
        for accumulate in (False, True):
            calls += [
                (overload, (draw(9, 37), [rows], draw(20, 37), accumulate), {}),
                (overload, (draw(37, 9).t(), [None, columns], draw(20), accumulate), {}),
                (overload, (draw(9, 37), [rows, columns], draw(20), accumulate), {}),
                (overload, (draw(9, 5, 70)[:, :, 3:40], [rows, None, columns], draw(20, 5),
                            accumulate), {}),
                (in_place, (draw(9, 37), [rows[:5, None], columns[:3]], draw(5, 1), accumulate),
                 {}),
                (in_place, (draw(9, 5, 37), [rows], one, accumulate), {}),
            ]
            if masks:
                calls += [(in_place, (draw(9, 37), [flags(9, 37)], one, accumulate), {}),
                          (overload, (draw(9, 37), [None, flags(37)], draw(9, 1), accumulate), {})]
        return calls

    return samples


_FORMS = (
    (aten.index_put, aten.index_put.default, aten.index_put_.default, True),
    (aten._unsafe_index_put, aten._unsafe_index_put.default, aten._unsafe_index_put.default, False),
    (aten._index_put_impl, aten._index_put_impl.default, aten._index_put_impl_.default, False),
)
for _packet, _overload, _in_place, _masks in _FORMS:
    checked(_packet, family="indexing", axes=_put_axes, symmetries=_symmetries, invariant=_fact,
            proves=_proves, deterministic=False, samples=_samples(_overload, _in_place, _masks),
            )(put_reference)


def _no_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    return Axes(fixed(call), ((FIXED,) * held[0].dim(),))


def _put_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    if has_no_order(call):
        return (NO_ORDER,)
    turned = (PUT_ROTATED,) if call["self"].numel() > 1 else ()
    return (*turned, *odd_in(call, "self", "source")) or (RERUN,)


def _put_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    draw = draw_values(generator, dtype, "any")
    index = torch.randint(-333, 333, (5, 13), generator=generator)
    calls: SampleList = []
    for accumulate in (False, True):
        calls += [
            (aten.put.default, (draw(9, 37), index, draw(65), accumulate), {}),
            (aten.put.default, (draw(37, 9).t(), index, draw(13, 5).t(), accumulate), {}),
            (aten.put_.default, (draw(9, 37), index, draw(5, 13), accumulate), {}),
        ]
    return calls


checked(aten.put, family="indexing", axes=_no_axes, symmetries=_put_symmetries, invariant=_fact,
        proves=_proves, deterministic=False, samples=_put_samples)(put_reference)
