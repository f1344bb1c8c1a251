"""Embedding: an exact gather, and its backward, a sum of gradient rows per table row.

*Forward.*  Every result row is a table row, bit for bit.

*Backward.*  Row v is the sum of the n_v gradient rows whose index is v.  ATen's CPU kernel adds
them one after the other in the order of the indices, in the *storage* format
(``aten/src/ATen/native/Embedding.cpp``, ``embedding_dense_backward_cpu_loop``).  Hence

- proof: any order in the storage format, ``(n_v - 1) u sum|g|``; 0 for rows that nothing or one
  gradient touched, one rounding of the sum for two;
- contract: any order in fp32 and one rounding to the storage format.  A half-precision sum of many
  terms breaks it, because additions stagnate: that is the loss of precision it reports;
- invariant (CPU): :func:`sequential` repeats the kernel's additions in NumPy.  Where nearly all
  elements of rows with more than two terms have exactly its bits, that is the order in use, and any
  element that differs is wrong.

Place: rows of gradients move with their indices, and each row of the table is added by itself, so
rotating the vocabulary and rolling or splitting columns keep every bit (seen in 4 formats, 1 and 2
threads), as does negation.  With ``scale_grad_by_freq`` half formats round the scaled row in the
scalar tail only, so columns stay where they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.casts import nearest, same_values
from sdc_guard.bounds.gamma import own_rounding, rounding
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT32, FLOAT64, Format, accumulator_of, format_of, is_covered_float
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._kernel_embedding import gradient_kernel
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values
from sdc_guard.ops._symmetry import OUTERMOST, RERUN, Move, Symmetry, negate, roll, split

aten = torch.ops.aten
Array = NDArray[Any]
Broken = tuple[int, NDArray[np.bool_], str] | None

ESTABLISHED = 0.9
"""Share of the elements that a sequential emulation must reproduce to be taken as the order in
use."""


def _embedding_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    rows = tuple(f"i{d}" for d in range(call["indices"].dim()))
    return Axes({(0,): (FIXED, "d"), (1,): rows}, ((*rows, "d"),))


def _embedding_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    signed = (negate("weight"),) if held[0].is_floating_point() else ()
    rows = (split(OUTERMOST),) if call["indices"].numel() > 1 else ()
    columns = (roll("d", lane=True),) if held[0].shape[-1] > 1 else ()
    return (*rows, *columns, *signed) or (RERUN,)


def _readable(call: BoundCall, held: tuple[Tensor, ...]) -> bool:
    return held[0].device.type == "cpu" and bits.has_values(held[0].dtype)


def _gathered_bits(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
    """Result rows are table rows, bit for bit."""
    if not _readable(call, held):
        return None
    expected = bits.raw(call["weight"])[bits.values(call["indices"])]
    wrong = bits.raw(held[0]) != expected
    return (0, wrong, "result rows are table rows, bit for bit") if wrong.any() else None


def _embedding_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype not in FLOATS:
        return []
    draw = draw_values(generator, dtype, "mixed")
    table, indices = draw(23, 37), torch.randint(0, 23, (5, 7), generator=generator)
    return [
        (aten.embedding.default, (table, indices), {}),
        (aten.embedding.default, (draw(37, 23).t(), indices.t(), 3), {}),
        (aten.embedding.default, (table, indices[0, 0].int()), {}),
        (aten.embedding.out, (table, indices), {"out": draw(5, 7, 37)}),
    ]


@checked(aten.embedding, family="embedding", axes=_embedding_axes,
         symmetries=_embedding_symmetries, invariant=_gathered_bits, proves=_readable,
         window=("i0",), samples=_embedding_samples)
def embedding(call: HostCall) -> tuple[Reference | None, ...]:
    """The table rows that the indices name."""
    return (Reference(call.array("weight")[call.array("indices")], 0.0, 0.0, "exact"),)


def _terms(call: BoundCall) -> tuple[Array, Array, Array]:
    """Gradient rows [N, D] and indices [N] without padding, and the scale of each row [N]."""
    index = bits.values(call["indices"]).ravel()
    gradient = bits.values(call["grad_output"]).reshape(index.size, -1)
    scale = np.ones(index.size)
    if call["scale_grad_by_freq"]:
        scale = 1.0 / np.bincount(index, minlength=int(call["num_weights"]))[index]
    kept = index != call["padding_idx"]
    return gradient[kept], index[kept], scale[kept]


def _summed(rows_ND: Array, index_N: Array, num_rows: int) -> Array:
    total = np.zeros((num_rows, rows_ND.shape[1]))
    order = np.argsort(index_N, kind="stable")
    if order.size:
        sorted_index = index_N[order]
        starts = np.flatnonzero(np.diff(sorted_index, prepend=sorted_index[0] - 1))
        total[sorted_index[starts]] = np.add.reduceat(rows_ND[order], starts, axis=0)
    return total


def sequential(rows_ND: Array, index_N: Array, num_rows: int, fmt: Format) -> Array:
    """The sum of the rows of each index, added in order, every sum rounded to ``fmt``.

    Half formats add in fp32, where the sum of two of their numbers is rounded once, and then round
    to ``fmt``, as ATen's kernel does.
    """
    order = np.argsort(index_N, kind="stable")
    sorted_index = index_N[order]
    first = np.searchsorted(sorted_index, sorted_index)
    turn = np.empty(index_N.size, dtype=np.int64)
    turn[order] = np.arange(index_N.size) - first
    wide = np.float64 if fmt is FLOAT64 else np.float32
    total = np.zeros((num_rows, rows_ND.shape[1]), dtype=wide)
    by_turn = np.argsort(turn, kind="stable")
    begin = 0
    for end in np.cumsum(np.bincount(turn)):
        chosen = by_turn[begin:end]
        begin = end
        added = total[index_N[chosen]] + rows_ND[chosen].astype(wide)
        if fmt.precision < FLOAT32.precision:
            added = nearest(added, fmt).astype(wide)
        total[index_N[chosen]] = added
    return total.astype(np.float64)


def _sequential_bits(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
    """What the sequential emulation reproduces is exact."""
    result = held[0]
    if result.device.type != "cpu" or not is_covered_float(result.dtype):
        return None
    with np.errstate(all="ignore"):
        rows, index, scale = _terms(call)
        if (scale != 1.0).any():
            return None
        num_rows = int(call["num_weights"])
        expected = sequential(rows, index, num_rows, format_of(result.dtype))
        same = same_values(bits.values(result) + 0.0, expected + 0.0)
    many = np.bincount(index, minlength=num_rows) > 2
    allowed = max(1.0, (1 - ESTABLISHED) * same[many].size)
    if same.all() or (~same[many]).sum() > allowed:
        return None
    return 0, ~same, "gradient rows added one after the other in the order of the indices"


def _rotated(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    """The vocabulary rotated by s: index v becomes (v + s) mod V, and row (v + s) mod V is row
    v."""
    size, padding = int(call["num_weights"]), int(call["padding_idx"])
    shift = 1 + visit % (size - 1)
    changed: dict[str, Any] = {"indices": (call["indices"] + shift) % size}
    if padding >= 0:
        changed["padding_idx"] = (padding + shift) % size
    got = call.replaced(**changed).run()[0]
    return (torch.cat([got[shift:], got[:shift]]),)


ROTATED = Symmetry("rotate the vocabulary", (Move("custom", function=_rotated),),
                   frozenset({"address", "core", "tile"}), True)


def _backward_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    rank = call["grad_output"].dim()
    gradient = (*(FIXED,) * (rank - 1), "d")
    return Axes({(0,): gradient, (1,): (FIXED,) * call["indices"].dim()}, ((FIXED, "d"),))


def _backward_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    rotated = (ROTATED,) if int(call["num_weights"]) > 1 else ()
    signed = (negate("grad_output"),)
    if held[0].shape[-1] < 2 or (call["scale_grad_by_freq"] and held[0].element_size() == 2):
        return (*rotated, *signed)
    return (*rotated, split("d"), roll("d", lane=True), *signed)


def _backward_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype not in FLOATS:
        return []
    draw = draw_values(generator, dtype, "any")
    index = torch.randint(0, 40, (4, 9), generator=generator)
    op = aten.embedding_dense_backward
    calls: SampleList = [
        (op.default, (draw(4, 9, 37), index, 43, -1, False), {}),
        (op.default, (draw(9, 4, 37).transpose(0, 1), index, 43, 3, False), {}),
        (op.default, (draw(4, 9, 5), index.int(), 40, -1, True), {}),
        (op.out, (draw(4, 9, 37), index, 43, -1, False), {"out": draw(43, 37)}),
    ]
    if dtype in (torch.float32, torch.float64):
        many = torch.randint(0, 3, (700,), generator=generator)
        calls.append((op.default, (draw(700, 16), many, 5, 2, False), {}))
        calls.append((op.default, (draw(1, 16).expand(700, 16), many, 5, -1, True), {}))
    return calls


def _backward_flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """One addition per element of the gradient."""
    return int(call["grad_output"].numel())


@checked(aten.embedding_dense_backward, family="embedding", axes=_backward_axes,
         symmetries=_backward_symmetries, invariant=_sequential_bits, flops=_backward_flops,
         kernel=gradient_kernel, reduction=True, window=("d",), samples=_backward_samples)
def embedding_dense_backward(call: HostCall) -> tuple[Reference | None, ...]:
    """Proof ``(n - 1) u sum|g|`` in the storage format, contract the same in fp32; exact for rows
    of at most one term."""
    rows, index, scale = _terms(call.call)
    num_rows = int(call["num_weights"])
    if not is_covered_float(call.held[0].dtype):
        return (None,)
    scaled = rows * scale[:, None]
    expected = _summed(scaled, index, num_rows)
    size = _summed(np.abs(scaled), index, num_rows)
    count = np.bincount(index, minlength=num_rows)[:, None].astype(np.float64)
    out, acc = call.out_format(), accumulator_of(call.held[0].dtype)
    added = np.maximum(count - 1, 0)
    scalings = 0.0 if (scale == 1.0).all() else 3.0  # of 1/n, of the product, of its store
    if out.precision > FLOAT32.precision:
        scalings *= 2
    own = np.where(added + scalings > 0, own_rounding(max(len(index), 1), size), 0.0)

    def any_order(fmt: Format) -> Array:
        limit = (added + scalings) * fmt.u * size + scalings * count * fmt.eta
        if not scalings:  # two terms: one rounding of their sum
            limit = np.where(added == 1, rounding(expected, fmt), limit)
        return np.asarray(limit * (1 + 2.0**-20))

    proof = any_order(out) + own
    contract = any_order(acc) + own
    if acc is not out:
        store = rounding(np.abs(expected) + contract, out) + scalings * out.u * size
        contract = contract + np.where(added + scalings > 0, store, 0.0)
    return (Reference(expected, np.maximum(proof, contract), contract,
                      "(n - 1) u sum|g| in fp32, rounding to the storage format", size),)
