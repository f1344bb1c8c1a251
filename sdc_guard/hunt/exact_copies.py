"""Operators whose results are elements of their operands: which element stands where."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from torch import Tensor

from sdc_guard.calls import BoundCall
from sdc_guard.hunt.exact_numbers import Number, Reader, as_number

Index = tuple[int, ...]


def copied(call: BoundCall, index: Index) -> Number | None:
    """The element that a copying operator puts at ``index``; None for any other operator."""
    find = _COPIES.get(call.form.packet.removeprefix("aten."))
    return None if find is None else find(call, index)


def _at(tensor: Tensor, index: Index) -> Number:
    return Reader(tensor)[index]


def _whole(value: Number) -> int:
    if not isinstance(value, Fraction):
        raise ValueError("an index is no number")
    return int(value)


def _replaced(index: Index, dim: int, place: int) -> Index:
    return (*index[:dim], place, *index[dim + 1:])


def _index_select(call: BoundCall, index: Index) -> Number | None:
    x = call["self"]
    if not x.dim():
        return None
    dim = call["dim"] % x.dim()
    return _at(x, _replaced(index, dim, _whole(_at(call["index"], (index[dim],)))))


def _gather(call: BoundCall, index: Index) -> Number | None:
    x = call["self"]
    if not x.dim():
        return None
    dim = call["dim"] % x.dim()
    return _at(x, _replaced(index, dim, _whole(_at(call["index"], index))))


def _embedding(call: BoundCall, index: Index) -> Number:
    return _at(call["weight"], (_whole(_at(call["indices"], index[:-1])), index[-1]))


def _cat(call: BoundCall, index: Index) -> Number | None:
    tensors = [t for t in call["tensors"] if tuple(t.shape) != (0,)]
    dim = call["dim"] % tensors[0].dim()
    place = index[dim]
    for tensor in tensors:
        if place < tensor.shape[dim]:
            return _at(tensor, _replaced(index, dim, place))
        place -= tensor.shape[dim]
    return None


def _stack(call: BoundCall, index: Index) -> Number:
    tensors = call["tensors"]
    dim = call["dim"] % (tensors[0].dim() + 1)
    return _at(tensors[index[dim]], (*index[:dim], *index[dim + 1:]))


def _flip(call: BoundCall, index: Index) -> Number:
    x = call["self"]
    dims = {d % x.dim() for d in call["dims"]}
    return _at(x, tuple(n - 1 - i if d in dims else i
                        for d, (i, n) in enumerate(zip(index, x.shape, strict=True))))


def _roll(call: BoundCall, index: Index) -> Number | None:
    x, shifts, dims = call["self"], call["shifts"], call["dims"]
    if not dims:
        return None
    moved = list(index)
    for shift, dim in zip(shifts, dims, strict=True):
        moved[dim] = (moved[dim] - shift) % x.shape[dim]
    return _at(x, tuple(moved))


def _repeat(call: BoundCall, index: Index) -> Number:
    x = call["self"]
    own = index[len(index) - x.dim():]
    return _at(x, tuple(i % n for i, n in zip(own, x.shape, strict=True)))


def _triangle(sign: int) -> Callable[[BoundCall, Index], Number]:
    def find(call: BoundCall, index: Index) -> Number:
        row, column = index[-2:]
        is_kept = sign * (column - row - call["diagonal"]) >= 0
        return _at(call["self"], index) if is_kept else Fraction(0)
    return find


def _padded(call: BoundCall, index: Index) -> Number:
    x, pad = call["self"], list(call["pad"])
    place = list(index)
    for k in range(len(pad) // 2):
        dim = x.dim() - 1 - k
        place[dim] -= pad[2 * k]
        if not 0 <= place[dim] < x.shape[dim]:
            return as_number(call["value"])
    return _at(x, tuple(place))


_COPIES: dict[str, Callable[[BoundCall, Index], Number | None]] = {
    "index_select": _index_select, "gather": _gather, "embedding": _embedding, "cat": _cat,
    "stack": _stack, "flip": _flip, "roll": _roll, "repeat": _repeat, "tril": _triangle(-1),
    "triu": _triangle(1), "constant_pad_nd": _padded,
}
