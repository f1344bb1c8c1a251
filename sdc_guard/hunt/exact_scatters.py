"""Operators that put elements of one tensor, or sums of them, into places of another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from sdc_guard.calls import BoundCall
from sdc_guard.hunt.exact_lines import MAX_TERMS, product, total
from sdc_guard.hunt.exact_numbers import Number, Reader, wrapped

Index = tuple[int, ...]


def scattered(call: BoundCall, output: int, index: Index) -> Number | None:
    """The exact element ``index`` of flat result ``output``; None for an operator or a form of it
    that this module does not know."""
    find = _SCATTERS.get(call.form.packet.removeprefix("aten."))
    return None if find is None else find(call, output, index)


def _slice_scatter(call: BoundCall, output: int, index: Index) -> Number:
    x = call["self"]
    dim = call["dim"] % x.dim()
    size, step = x.shape[dim], call["step"]
    start = _clamped(0 if call["start"] is None else call["start"], size)
    end = max(start, _clamped(size if call["end"] is None else call["end"], size))
    place = index[dim]
    if not start <= place < end or (place - start) % step:
        return Reader(x)[index]
    return Reader(call["src"])[_replaced(index, dim, (place - start) // step)]


def _clamped(place: int, size: int) -> int:
    """A bound of a slice as Python has it: negative ones count from the end."""
    return min(max(place + size if place < 0 else place, 0), size)


def _replaced(index: Index, dim: int, *places: int) -> Index:
    return (*index[:dim], *places, *index[dim + 1:])


def _select_scatter(call: BoundCall, output: int, index: Index) -> Number:
    x = call["self"]
    dim = call["dim"] % x.dim()
    if index[dim] != call["index"] % x.shape[dim]:
        return Reader(x)[index]
    return Reader(call["src"])[_replaced(index, dim)]


def _diagonal_scatter(call: BoundCall, output: int, index: Index) -> Number:
    x, offset = call["self"], call["offset"]
    row, column = call["dim1"] % x.dim(), call["dim2"] % x.dim()
    if index[column] - index[row] != offset:
        return Reader(x)[index]
    others = tuple(i for d, i in enumerate(index) if d not in (row, column))
    return Reader(call["src"])[(*others, min(index[row], index[column]))]


def _narrow_copy(call: BoundCall, output: int, index: Index) -> Number:
    x = call["self"]
    dim, start = call["dim"] % x.dim(), call["start"]
    start += x.shape[dim] if start < 0 else 0
    return Reader(x)[_replaced(index, dim, start + index[dim])]


def _copied_list(call: BoundCall, output: int, index: Index) -> Number:
    return Reader(call["src"][output]).broadcast(index)


def _whole(value: Number) -> int:
    if not isinstance(value, Fraction) or value.denominator != 1:
        raise ValueError("an index is no whole number")
    return int(value)


def _places(tensor: Any, size: int) -> list[int]:
    """The indices that a tensor holds, in C order, counted from the front."""
    found = [_whole(n) for n in Reader(tensor).line((slice(None),) * tensor.dim())]
    return [n + size if n < 0 else n for n in found]


def _put(call: BoundCall, output: int, index: Index) -> Number | None:
    x, source = call["self"], call["source"]
    flat = 0
    for i, n in zip(index, x.shape, strict=True):
        flat = flat * n + i
    values = Reader(source).line((slice(None),) * source.dim())
    hits = [v for p, v in zip(_places(call["index"], x.numel()), values, strict=True) if p == flat]
    return _landed(Reader(x)[index], hits, call["accumulate"])


def _landed(own: Number, hits: list[Number], accumulate: bool) -> Number | None:
    if accumulate:
        return total([own, *hits])
    if len(set(hits)) > 1:
        return None  # torch leaves open which of them stays
    return hits[0] if hits else own


def _index_put(call: BoundCall, output: int, index: Index) -> Number | None:
    """Indices of adjacent dimensions leave their place to the dimensions that they share; others
    lead."""
    x, values = call["self"], Reader(call["values"])
    given: dict[int, _Column] = {}
    dim = 0
    for indices in call["indices"]:
        columns = [] if indices is None else _columns(indices)
        given |= {dim + i: column for i, column in enumerate(columns)}
        dim += max(1, len(columns))
    shape = torch.broadcast_shapes(*(shape for shape, _ in given.values()))
    if math.prod(shape) > MAX_TERMS:
        return None
    is_block = max(given) - min(given) == len(given) - 1
    first = min(given) if is_block else 0
    others = tuple(i for d, i in enumerate(index) if d not in given)
    hits = [values.broadcast((*others[:first], *at, *others[first:]))
            for at in itertools.product(*map(range, shape))
            if all(place(at) % x.shape[d] == index[d] for d, (_, place) in given.items())]
    return _landed(Reader(x)[index], hits, call["accumulate"])


_Column = tuple[tuple[int, ...], Callable[[Index], int]]
"""Indices of one dimension: their shape, and the index at a place of the broadcast shape."""


def _columns(indices: Tensor) -> list[_Column]:
    """Of numbers one; of a mask one for each of its dimensions, the places where it is set."""
    reader = Reader(indices)
    if indices.dtype.itemsize > 1:
        return [(tuple(indices.shape), lambda at: _whole(reader.broadcast(at)))]
    places = [p for p in itertools.product(*map(range, indices.shape)) if reader[p]]

    def column(dim: int) -> _Column:
        return (len(places),), lambda at: places[at[-1] if len(places) > 1 else 0][dim]

    return [column(dim) for dim in range(indices.dim())]


def _index_reduce(call: BoundCall, output: int, index: Index) -> Number | None:
    x, source = call["self"], Reader(call["source"])
    if not x.dim():
        return None
    dim = call["dim"] % x.dim()
    own = Reader(x)[index]
    hits = [source[_replaced(index, dim, i)]
            for i, place in enumerate(_places(call["index"], x.shape[dim])) if place == index[dim]]
    terms = [own, *hits] if call["include_self"] else hits
    if not hits:
        return own
    if call["reduce"] == "prod":
        return product(terms)
    if call["reduce"] == "mean":
        whole = wrapped(total(terms), x.dtype) / len(terms)
        return whole if x.dtype.is_floating_point else Fraction(math.floor(whole))
    if any(t != t for t in terms):
        return math.nan
    return max(terms) if call["reduce"] == "amax" else min(terms)


def _embedding_dense_backward(call: BoundCall, output: int, index: Index) -> Number:
    grads, indices = Reader(call["grad_output"]), call["indices"]
    if index[0] == call["padding_idx"]:
        return Fraction(0)
    rows = call["grad_output"].reshape(-1, grads.shape[-1])
    reader = Reader(rows)
    found = [i for i, n in enumerate(_places(indices, 0)) if n == index[0]]
    whole = total([reader[(i, index[1])] for i in found])
    return whole / len(found) if call["scale_grad_by_freq"] and found else whole


_SCATTERS: dict[str, Callable[[BoundCall, int, Index], Number | None]] = {
    "slice_scatter": _slice_scatter, "select_scatter": _select_scatter,
    "diagonal_scatter": _diagonal_scatter, "narrow_copy": _narrow_copy,
    "_foreach_copy": _copied_list, "put": _put, "index_put": _index_put,
    "_unsafe_index_put": _index_put, "index_reduce": _index_reduce,
    "embedding_dense_backward": _embedding_dense_backward,
}
