"""Embedding bags: sums, means or maxima of table rows, and their backward.

*Forward.*  Bag b is ``sum w_i W[i]`` over its indices without padding, that divided by their
number, or the largest element per column.  Sums of n terms with a weight each:

    |computed - exact| <= (n + 1) u sum|w W|,    two more roundings for a mean,

u of fp32 and a store in the contract (FBGEMM's kernels), of the storage format in the proof (ATen's
own loop adds in it).  Maxima are exact, and the index that comes with one names an element of that
value.  The other results are bookkeeping, which ATen leaves out where it is not needed.

*Backward.*  Row v is the sum of the gradient rows of the bags that v is in, each times its weight,
its share of a mean and of its frequency: the bounds of :mod:`sdc_guard.ops._scatter_sums` with four
roundings of each term.  ``scale_grad_by_freq`` divides by how often an index occurs; ATen's CPU
kernel of torch 2.13 divides by the frequency of *another* index (``counts[indices_data[i]]`` with i
the number of a run in ``EmbeddingBag.cpp``, pytorch issue 190063), which is reported as what it is,
a wrong gradient.

Place: rotating the vocabulary with its indices keeps every bit, as do rolled columns of the
backward and negated gradients (seen in 4 formats). """

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.gamma import rounding, stored
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT64, accumulator_of, is_covered_float
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._indexing import fixed
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values
from sdc_guard.ops._scatter_sums import Sent, sent_reference
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry, negate

aten = torch.ops.aten
Array = NDArray[Any]

SUM, MEAN, MAX = 0, 1, 2
TERM_ROUNDINGS = 4


def _no_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    return Axes(fixed(call), tuple((FIXED,) * t.dim() for t in held))


def _bags(call: HostCall) -> tuple[Array, Array, Array, int]:
    """Indices and bag numbers [N] without padding, their places in the operand, number of bags."""
    index, start = bits.values(call["indices"]), bits.values(call["offsets"])
    if call.get("include_last_offset"):
        start = start[:-1]
    bag = np.searchsorted(start, np.arange(index.size), side="right") - 1
    kept = (index != call["padding_idx"]) & (bag >= 0)
    return index[kept], bag[kept], np.flatnonzero(kept), start.size


def _open_end(call: HostCall, num_bags: int) -> Array:
    """[B, 1]: infinite for the last bag where an included last offset is not the number of
    indices, as it is documented to be: some kernels end the bag there, others at the last index."""
    limit = np.zeros((num_bags, 1))
    ends = call.get("include_last_offset") and num_bags
    if ends and bits.values(call["offsets"])[-1] != call["indices"].numel():
        limit[-1] = np.inf
    return limit


def _rotated(call: BoundCall, visit: int) -> tuple[Tensor | None, ...]:
    """Row v of the table becomes row v + s, and every index with it."""
    table, padding = call["weight"], int(call["padding_idx"])
    size = table.shape[0]
    shift = 1 + visit % (size - 1)
    indices = ((call["indices"] + shift) % size).to(call["indices"].dtype)
    moved = table.roll(shift, 0) if table.is_contiguous() else torch.empty_strided(
        table.shape, table.stride(), dtype=table.dtype, device=table.device).copy_(
            table.roll(shift, 0))
    got = call.replaced(weight=moved, indices=indices,
                        padding_idx=(padding + shift) % size if padding >= 0 else padding).run()
    return got[0], None, None, None


ROTATED = Symmetry("rotate the vocabulary", (Move("custom", outputs=(0,), function=_rotated),),
                   frozenset({"address", "core", "tile"}), True)


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    table = call["weight"]
    moves = table.shape[0] > 1 and 0 not in table.stride() and bits.is_dense(table)
    return (ROTATED, RERUN) if moves else (RERUN,)


def _drawn_bags(generator: torch.Generator, dtype: torch.dtype) -> tuple[Any, Tensor, Tensor]:
    """Operands, 40 rows of 23, and where five bags of them start, one empty."""
    return (draw_values(generator, dtype, "any"),
            torch.randint(0, 23, (40,), generator=generator), torch.tensor([0, 0, 7, 19, 20]))


def _samples(op: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in FLOATS:
            return []
        draw, index, start = _drawn_bags(generator, dtype)
        ends = torch.cat([start, torch.tensor([index.numel()])])
        calls: SampleList = []
        for mode in (SUM, MEAN, MAX):
            calls += [
                (op.default, (draw(23, 37), index, start, False, mode), {}),
                (op.default, (draw(23, 64), index.int(), start.int(), False, mode, False, None,
                              False, 3), {}),
                (op.default, (draw(37, 23).t(), index, ends, False, mode, False, None, True), {}),
            ]
        calls.append((op.default, (draw(23, 37), index, start, False, SUM, False, draw(40)), {}))
        return calls

    return samples


def _flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """A product and an addition per element that is read."""
    return int(2 * call["indices"].numel() * held[0].shape[-1])


def _bookkeeping(call: HostCall, bag: Array, num_bags: int) -> tuple[Reference | None, ...]:
    """The bag of each index, the size of each bag (0 for sums on a CPU), and on a CPU the same
    sizes in the place of a maximum's indices."""
    start = bits.values(call["offsets"])[:num_bags]
    owner = np.searchsorted(start, np.arange(call["indices"].numel()), side="right") - 1
    found: list[Reference | None] = []
    size = np.bincount(bag, minlength=num_bags)
    for held, expected in zip(call.held[1:], (owner, size, size), strict=True):
        if tuple(held.shape) != expected.shape or held.device.type != "cpu" or (
                expected is size and (call["mode"] == MAX and held is call.held[3])):
            found.append(None)
            continue
        got = bits.values(held)
        if expected is size and call["mode"] == SUM:
            expected = np.where(got == size, size, 0)
        found.append(Reference(expected.astype(got.dtype), 0.0, 0.0, "exact"))
    return tuple(found)


def embedding_bag(call: HostCall) -> tuple[Reference | None, ...]:
    """Sum, mean or maximum of each bag's table rows."""
    held = call.held[0]
    if not is_covered_float(held.dtype):
        return tuple(None for _ in call.held)
    index, bag, place, num_bags = _bags(call)
    nothing = _bookkeeping(call, bag, num_bags)
    table = call.array("weight")
    count = np.bincount(bag, minlength=num_bags)[:, None].astype(np.float64)
    if call["mode"] == MAX:
        largest = np.full((num_bags, table.shape[1]), -np.inf)
        np.maximum.at(largest, bag, table[index])
        largest = np.where(count > 0, largest, 0.0)
        # A NaN beside numbers is met or not, as the order of comparisons has it.
        unclear = np.zeros(largest.shape, dtype=bool)
        np.logical_or.at(unclear, bag, np.isnan(table[index]))
        largest = np.where(unclear, bits.values(held), largest)
        open_end = np.broadcast_to(_open_end(call, num_bags), largest.shape)
        return (Reference(largest, open_end, open_end, "exact"), *nothing)
    rows = table[index]
    weighted = call.get("per_sample_weights") is not None
    if weighted:
        rows = rows * call.array("per_sample_weights")[place][:, None]
    total, size = (np.zeros((num_bags, table.shape[1])) for _ in range(2))
    np.add.at(total, bag, rows)
    np.add.at(size, bag, np.abs(rows))
    out, acc = call.out_format(), accumulator_of(held.dtype)
    share = np.maximum(count, 1) if call["mode"] == MEAN else np.ones_like(count)
    expected = total / share
    limits = []
    for fmt in (out, acc):
        error = (np.maximum(count - 1, 0) + 2 * weighted) * fmt.u * size * (1 + 4 * fmt.u)
        error = error + (count + 1) * FLOAT64.u * size + 2 * count * fmt.eta * weighted
        if fmt is not out:
            error = stored(error, total, out)
        error = error / share
        if call["mode"] == MEAN:
            error = error + 3 * rounding(np.abs(expected) + error, out)
        limits.append(np.where(count > (0 if weighted or call["mode"] == MEAN else 1), error, 0.0))
    proof, contract = (limit + _open_end(call, num_bags) for limit in limits)
    return (Reference(expected, np.maximum(proof, contract), contract,
                      "(n + 1) u sum|w W| in fp32, rounding to the storage format", size), *nothing)


def _broken(call: BoundCall, held: tuple[Tensor, ...]) -> Any:
    """An index that comes with a maximum names a table element of that value."""
    if call["mode"] != MAX or held[0].device.type != "cpu" or not is_covered_float(held[0].dtype):
        return None
    named, value = bits.values(held[3]), bits.values(held[0])
    table = bits.values(call["weight"])
    if named.shape != value.shape:
        return None
    _, bag, _, num_bags = _bags(HostCall(call, held))
    filled = np.bincount(bag, minlength=num_bags)[:, None] > 0
    filled &= np.isfinite(_open_end(HostCall(call, held), num_bags))
    inside = (named >= 0) & (named < table.shape[0])
    found = table[np.where(inside, named, 0), np.arange(table.shape[1])]
    wrong = filled & ~np.isnan(value) & ~(inside & (found == value))
    return (3, wrong, "an index names an element of the maximum's value") if wrong.any() else None


for _op in (aten._embedding_bag, aten._embedding_bag_forward_only):
    checked(_op, family="embedding", axes=_no_axes, symmetries=_symmetries, invariant=_broken,
            flops=_flops, reduction=True, samples=_samples(_op))(embedding_bag)


def _columns_rolled(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    gradient = call["grad"]
    shift = 1 + visit % (gradient.shape[1] - 1)
    return (call.replaced(grad=gradient.roll(shift, 1)).run()[0].roll(-shift, 1),)


COLUMNS_ROLLED = Symmetry("roll columns", (Move("custom", function=_columns_rolled),),
                          frozenset({"address", "core", "tile", "lane"}), True)


def _backward_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    if call.get("sparse"):
        return (RERUN,)
    if call["mode"] == MAX or call["grad"].shape[1] < 2:
        return (RERUN, negate("grad"))
    return (COLUMNS_ROLLED, RERUN, negate("grad"))


def _backward_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype not in FLOATS:
        return []
    draw, index, start = _drawn_bags(generator, dtype)
    calls: SampleList = []
    for mode, frequent, weights, padding in ((SUM, False, None, -1), (SUM, False, draw(40), 3),
                                             (MEAN, False, None, -1), (MEAN, False, None, 3),
                                             (MAX, False, None, -1)):
        saved = aten._embedding_bag(draw(23, 37), index, start, frequent, mode, False, weights,
                                    False, padding)[1:]
        calls.append((aten._embedding_bag_backward.default, (
            draw(5, 37), index, start, *saved, 23, frequent, mode, False, weights, padding), {}))
    return calls


@checked(aten._embedding_bag_backward, family="embedding", axes=_no_axes,
         symmetries=_backward_symmetries, flops=lambda call, held: int(
             4 * call["indices"].numel() * call["grad"].shape[-1]),
         reduction=True, samples=_backward_samples)
def embedding_bag_backward(call: HostCall) -> tuple[Reference | None, ...]:
    """The sum of the bags' gradient rows per table row; nothing for a sparse result."""
    held = call.held[0]
    if call.get("sparse") or not is_covered_float(held.dtype):
        return (None,)
    gradient = call.array("grad")
    num_rows, num_columns = held.shape
    before = np.zeros(num_rows * num_columns)
    if call["mode"] == MAX:
        named, bag = call.array("maximum_indices"), np.arange(gradient.shape[0])
        filled = bits.values(call["bag_size"]) > 0
        index, terms = named[filled], gradient[filled]
        place = (index * num_columns + np.arange(num_columns)).ravel()
        return (sent_reference(Sent(before, place, terms.ravel()), "sum", False, held),)
    index, bag, kept, num_bags = _bags(call)
    if num_bags > gradient.shape[0]:
        bag = np.minimum(bag, gradient.shape[0] - 1)
    scale = np.ones(index.size)
    if call.get("per_sample_weights") is not None:
        scale = call.array("per_sample_weights")[kept]
    if call["mode"] == MEAN:
        scale = scale / np.bincount(bag, minlength=gradient.shape[0])[bag]
    if call["scale_grad_by_freq"]:
        scale = scale / np.bincount(index, minlength=num_rows)[index]
    plain = bool((scale == 1.0).all())
    place = (index[:, None] * num_columns + np.arange(num_columns)).ravel()
    sent = Sent(before, place, (gradient[bag] * scale[:, None]).ravel(),
                0 if plain else TERM_ROUNDINGS)
    return (sent_reference(sent, "sum", False, held),)
