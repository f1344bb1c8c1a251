"""``_unsafe_masked_index`` and ``_unsafe_masked_index_put_accumulate``: reads and sums at indices
where a mask is set.

An index outside of its dimension is brought back to the nearest end.  What is read is an operand's
element, what the mask leaves out is the fill value: exact.  Sums: see
:mod:`sdc_guard.ops._scatter_sums`; ``index_put`` makes them in the storage format, which is the
contract here, and where it has no order (:mod:`sdc_guard.ops.index_put`) nothing is repeated.  A
negated operand and negated values give the negated sums.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._casts import cast_reference
from sdc_guard.ops._indexing import Array, fixed, index_values
from sdc_guard.ops._places import GRAIN_SIZE, odd_in
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import SampleList, draw_values
from sdc_guard.ops._scatter_sums import Sent, sent_reference
from sdc_guard.ops._symmetry import RERUN, Symmetry
from sdc_guard.ops.index_put import NO_ORDER

aten = torch.ops.aten


def _index(call: BoundCall) -> tuple[Any, ...]:
    """The indices as a NumPy expression, brought back into their dimensions."""
    sizes = call["self"].shape
    return tuple(
        slice(None) if i is None else np.clip(index_values(i), -sizes[d], sizes[d] - 1)
        for d, i in enumerate(call["indices"]))


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    return Axes(fixed(call), ((FIXED,) * held[0].dim(),))


def _samples(op: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype is torch.bool:
            return []
        draw, flags = (draw_values(generator, d, "any") for d in (dtype, torch.bool))

        def places(*sizes: int) -> Tensor:
            return torch.randint(-12, 12, sizes, generator=generator)

        reads = op is aten._unsafe_masked_index
        calls: SampleList = []
        for x, mask, indices, shape in (
            (draw(9, 7), flags(20, 1), [places(20)], (20, 7)),
            (draw(7, 9).t(), flags(20), [None, places(20)], (9, 20)),
            (draw(9, 14)[:, ::2], flags(5, 4), [places(5, 1), places(4)], (5, 4)),
        ):
            last: Any = draw(*shape)
            if reads:
                last = 0.7 if dtype.is_floating_point else 3
            calls.append((op.default, (x, mask, indices, last), {}))
        return calls

    return samples


def _read_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    return (RERUN,)


@checked(aten._unsafe_masked_index, family="indexing", axes=_axes, symmetries=_read_symmetries,
         samples=_samples(aten._unsafe_masked_index))
def masked_index(call: HostCall) -> tuple[Reference | None, ...]:
    """Elements at indices where the mask is set, the fill value elsewhere."""
    held = call.held[0]
    if not bits.has_values(held.dtype):
        return (None,)
    chosen: Array = call.array("self")[_index(call.call)]
    fill = cast_reference(np.full(chosen.shape, call["fill"]), held)
    if fill is None or tuple(held.shape) != chosen.shape:
        return (None,)
    mask = np.broadcast_to(call.array("mask").astype(bool), chosen.shape)
    limit = np.where(mask, 0.0, fill.contract)
    return (Reference(np.where(mask, chosen, fill.expected), limit, limit, "exact"),)


def _sum_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    several = held[0].device.type != "cpu" or torch.get_num_threads() > 1
    if several and call["values"].numel() >= GRAIN_SIZE:
        return (NO_ORDER,)
    return (*odd_in(call, "self", "values"), RERUN)


@checked(aten._unsafe_masked_index_put_accumulate, family="indexing", axes=_axes,
         symmetries=_sum_symmetries, deterministic=False,
         samples=_samples(aten._unsafe_masked_index_put_accumulate))
def masked_index_put(call: HostCall) -> tuple[Reference | None, ...]:
    """The operand with values added at indices where the mask is set."""
    x = call.array("self")
    if not bits.has_values(call["self"].dtype):
        return (None,)
    place = np.arange(x.size).reshape(x.shape)[_index(call.call)]
    mask, terms = call.array("mask").astype(bool), call.array("values")
    mask, terms = (np.broadcast_to(a, place.shape) for a in (mask, terms))
    sent = Sent(x.reshape(-1), place[mask].ravel(), terms[mask].ravel())
    found = sent_reference(sent, "sum", True, call.held[0])
    if found is None or found.proof is None:
        return (None,)
    return (Reference(found.expected, found.proof, found.proof, "m u sum|x| for m terms",
                      found.magnitude),)
