"""Lines of a tensor along one dimension, and what ops that select from each line share.

Such an op (``max``, ``sort``, ``kthvalue``) returns values that are elements of a line and the
places where they stood.  That is an exact fact: a value's bits are those of the element that its
index names.  What else must hold (largest, in order, k-th) is the op's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.ops._axes import FIXED, Axes, Labels
from sdc_guard.ops._reductions import reduced_dims
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry, roll, split

Array = NDArray[Any]
Broken = tuple[int, NDArray[np.bool_], str] | None


def dim_of(call: BoundCall) -> int:
    """The dimension that the op works along, normalised."""
    rank: int = call["self"].dim()
    return int(call["dim"]) % max(rank, 1)


def moved(array: Array, rank: int, dim: int) -> Array:
    """The array with dimension ``dim`` of the operand's ``rank`` last; a result that has lost it
    gets a last dimension of size 1."""
    if rank == 0:
        return array.reshape(1)
    return np.moveaxis(array, dim, -1) if array.ndim == rank else array[..., None]


def moved_back(mask: Array, like: Tensor, rank: int, dim: int) -> Array:
    """A mask over lines in the shape of the result that it is about."""
    if rank and like.dim() == rank:
        mask = np.moveaxis(mask, -1, dim)
    return np.ascontiguousarray(mask).reshape(tuple(like.shape))


def lines(tensor: Tensor, rank: int, dim: int) -> Array:
    """Values with the lines last, floating formats as float64."""
    return moved(bits.values(tensor), rank, dim)


def line_bits(tensor: Tensor, rank: int, dim: int) -> Array:
    """Bits with the lines last."""
    return moved(bits.raw(bits.on_host(tensor)), rank, dim)


def is_nan(array: Array) -> Array:
    """True for NaN; integers have none."""
    return np.isnan(array) if array.dtype.kind == "f" else np.zeros(array.shape, dtype=bool)


def same(a: Array, b: Array) -> Array:
    """Equal as values: zeros of either sign are equal, and NaN is NaN."""
    return np.asarray((a == b) | (is_nan(a) & is_nan(b)))


def not_gathered(
    call: BoundCall, values: Tensor, indices: Tensor, dim: int, first: int = 0
) -> Broken:
    """Values that are not, bit for bit, the elements that their indices name, and indices that name
    none; ``first`` is the position of ``values`` among the results.  A NaN may have another
    payload: ``topk`` takes bf16 through fp32 and back."""
    x = call["self"]
    rank, source = x.dim(), line_bits(x, x.dim(), dim)
    index = lines(indices, rank, dim)
    size = source.shape[-1]
    outside = (index < 0) | (index >= size)
    if outside.any():
        return first + 1, moved_back(outside, indices, rank, dim), "every index names an element"
    wrong = line_bits(values, rank, dim) != np.take_along_axis(source, index, -1)
    if wrong.any():
        chosen = np.take_along_axis(lines(x, rank, dim), index, -1)
        wrong &= ~(is_nan(lines(values, rank, dim)) & is_nan(chosen))
    if wrong.any():
        return (first, moved_back(wrong, values, rank, dim),
                "a value's bits are those of the element that its index names")
    return None


def readable(call: BoundCall, held: Sequence[Tensor]) -> bool:
    """True for dtypes that an exact fact can be checked in."""
    return bits.has_values(call["self"].dtype)


def selection_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    """Reduced dimensions are fixed, in every result that still has them."""
    rank = call["self"].dim()
    gone = reduced_dims(call)
    operand = tuple(FIXED if d in gone else f"d{d}" for d in range(rank))
    kept = tuple(x for d, x in enumerate(operand) if d not in gone)

    def labels(t: Tensor) -> Labels:
        return operand if t.dim() == rank else kept

    return Axes({(0,): operand}, tuple(labels(t) for t in held))


def _longest_kept(call: BoundCall, held: tuple[Tensor, ...]) -> str:
    labels = selection_axes(call, held).outputs[0]
    sizes = {x: int(held[0].shape[d]) for d, x in enumerate(labels) if x != FIXED}
    longest = max(sizes, key=lambda x: sizes[x], default="")
    return longest if longest and sizes[longest] > 1 else ""


def line_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Lines split and roll: each is worked on by itself, whichever thread has it."""
    longest = _longest_kept(call, held)
    return (split(longest), roll(longest, lane=True)) if longest else (RERUN,)


def rolled_inside(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    """The call on the operand rolled along its longest reduced dimension, in its own layout."""
    x = call["self"]
    dim = max(reduced_dims(call), key=lambda d: x.shape[d])
    shift = 1 + visit % (x.shape[dim] - 1)
    image = bits.empty_image(x)
    rest = x.shape[dim] - shift
    image.narrow(dim, 0, rest).copy_(x.narrow(dim, shift, rest))
    image.narrow(dim, rest, shift).copy_(x.narrow(dim, 0, shift))
    return call.replaced(self=image).run()


ROLLED = Symmetry("roll the reduced dimension", (Move("custom", function=rolled_inside),),
                  frozenset({"address", "core", "tile", "lane"}), True)


def unordered_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Lines split and roll, and so does each line where the order of its elements is nothing to
    the result; not on an expanded operand, whose elements share memory."""
    x = call["self"]
    if not x.dim():
        return (RERUN,)
    longest = _longest_kept(call, held)
    found = [split(longest), roll(longest, lane=True)] if longest else []
    if any(x.shape[d] > 1 for d in reduced_dims(call)) and bits.is_dense(x):
        found.append(ROLLED)
    return tuple(found) or (RERUN,)


def wrong_values(
    held: tuple[Tensor, ...], output: int, expected: Array, text: str
) -> Broken:
    """Elements of a result that are not the expected values; the sign of a zero and a NaN's payload
    are free, because either may be any of those in the line."""
    wrong = ~same(bits.values(held[output]), expected)
    return (output, wrong, text) if wrong.any() else None


Invariant = Callable[[BoundCall, tuple[Tensor, ...]], Broken]


def nothing_to_compute(call: BoundCall, held: Sequence[Tensor]) -> bool:
    """True where the operand or the first result is empty."""
    return not call["self"].numel() or not held[0].numel()
