"""F12: gathers and scatters of elements that encode their own index.

A load from a wrong offset yields a good number from the wrong place, which nothing but the answer
can tell.  Expected bits are moved by NumPy's indexing of integers; sums of integers that meet at
one place are modulo 2^k in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard.sweep.declared import (
    CORE,
    GPU,
    HOST,
    Bits,
    Case,
    Made,
    Oracle,
    Place,
    SweepTest,
)
from sdc_guard.sweep.exact import tensor_of
from sdc_guard.sweep.families._exact_case import exact, index_code

FLOATS = ("float64", "float32", "bfloat16", "float16")
INTEGERS = ("int64", "int32", "int16", "int8")
SHAPES_CORE = ((129, 257), (512, 96))
SHAPES_GPU = ((1025, 2049), (8192, 512))

Indices = NDArray[np.int64]
Moved = tuple[Callable[[], Tensor], Bits]
"""The operator as a call, and the bits that it must give."""
Move = Callable[[Tensor, Bits, np.random.Generator], Moved]


def _to(source: Tensor, index: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(index)).to(source.device)


def _drawn(random: np.random.Generator, bound: int, shape: tuple[int, ...]) -> Indices:
    return random.integers(0, bound, shape, dtype=np.int64)


def _gather(dim: int) -> Move:
    def move(source: Tensor, bits: Bits, random: np.random.Generator) -> Moved:
        index = _drawn(random, bits.shape[dim], bits.shape)
        at = _to(source, index)
        return lambda: torch.gather(source, dim, at), np.take_along_axis(bits, index, dim)
    return move


def _index_select(dim: int) -> Move:
    def move(source: Tensor, bits: Bits, random: np.random.Generator) -> Moved:
        index = _drawn(random, bits.shape[dim], (bits.shape[dim],))
        at = _to(source, index)
        return lambda: torch.index_select(source, dim, at), np.take(bits, index, dim)
    return move


def _embedding(source: Tensor, bits: Bits, random: np.random.Generator) -> Moved:
    index = _drawn(random, bits.shape[0], (bits.shape[0],))
    at = _to(source, index)
    return lambda: torch.nn.functional.embedding(at, source), bits[index]


def _advanced(source: Tensor, bits: Bits, random: np.random.Generator) -> Moved:
    rows, columns = (_drawn(random, n, bits.shape) for n in bits.shape)
    i, j = _to(source, rows), _to(source, columns)
    return lambda: source[i, j], bits[rows, columns]


def _take(source: Tensor, bits: Bits, random: np.random.Generator) -> Moved:
    index = _drawn(random, bits.size, bits.shape)
    at = _to(source, index)
    return lambda: torch.take(source, at), bits.reshape(-1)[index]


def _transposed(source: Tensor, bits: Bits, random: np.random.Generator) -> Moved:
    """Rows of a transposed matrix: strided reads."""
    index = _drawn(random, bits.shape[1], (bits.shape[1],))
    at = _to(source, index)
    columns = source.t()
    return (lambda: torch.index_select(columns, 0, at).t().contiguous(),
            np.take(bits, index, 1))


def _scatter(source: Tensor, bits: Bits, random: np.random.Generator) -> Moved:
    """Each column is permuted: every place is written once."""
    index = random.permuted(
        np.broadcast_to(np.arange(bits.shape[0])[:, None], bits.shape), axis=0)
    expected = np.zeros_like(bits)
    np.put_along_axis(expected, index, bits, 0)
    at, zeros = _to(source, index), torch.zeros_like(source)
    return lambda: torch.scatter(zeros, 0, at, source), expected


def _index_copy(source: Tensor, bits: Bits, random: np.random.Generator) -> Moved:
    index = random.permutation(bits.shape[0])
    expected = np.zeros_like(bits)
    expected[index] = bits
    at, zeros = _to(source, index), torch.zeros_like(source)
    return lambda: torch.index_copy(zeros, 0, at, source), expected


def _index_put(source: Tensor, bits: Bits, random: np.random.Generator) -> Moved:
    rows, columns = np.divmod(random.permutation(bits.size).reshape(bits.shape), bits.shape[1])
    expected = np.zeros_like(bits)
    expected[rows, columns] = bits
    places, zeros = (_to(source, rows), _to(source, columns)), torch.zeros_like(source)
    return lambda: torch.index_put(zeros, places, source), expected


def _masked_select(source: Tensor, bits: Bits, random: np.random.Generator) -> Moved:
    """Half of the elements, so that the result has one shape."""
    mask = (random.permutation(bits.size) % 2 == 0).reshape(bits.shape)
    at = _to(source, mask)
    return lambda: torch.masked_select(source, at), bits[mask]


def _masked_scatter(source: Tensor, bits: Bits, random: np.random.Generator) -> Moved:
    mask = random.integers(0, 2, bits.shape).astype(np.bool_)
    expected = np.zeros_like(bits)
    expected[mask] = bits.reshape(-1)[:int(mask.sum())]
    at, zeros = _to(source, mask), torch.zeros_like(source)
    return lambda: torch.masked_scatter(zeros, at, source), expected


def _where(source: Tensor, bits: Bits, random: np.random.Generator) -> Moved:
    mask = random.integers(0, 2, bits.shape).astype(np.bool_)
    other_bits = np.roll(bits, 1, axis=0)
    at, other = _to(source, mask), source.roll(1, 0)
    return lambda: torch.where(at, source, other), np.where(mask, bits, other_bits)


def _scatter_add(source: Tensor, bits: Bits, random: np.random.Generator) -> Moved:
    """A few rows, each met by many: additions of integers modulo 2^k."""
    index = _drawn(random, max(1, bits.shape[0] // 8), bits.shape)
    expected = np.zeros_like(bits)
    np.add.at(expected, (index, np.broadcast_to(np.arange(bits.shape[1]), bits.shape)), bits)
    at, zeros = _to(source, index), torch.zeros_like(source)
    return lambda: torch.scatter_add(zeros, 0, at, source), expected


def _index_add(source: Tensor, bits: Bits, random: np.random.Generator) -> Moved:
    index = _drawn(random, max(1, bits.shape[0] // 8), (bits.shape[0],))
    expected = np.zeros_like(bits)
    np.add.at(expected, index, bits)
    at, zeros = _to(source, index), torch.zeros_like(source)
    return lambda: torch.index_add(zeros, 0, at, source), expected


# Reads and writes by turns: a short visit reaches both.
MOVES: tuple[tuple[str, str, Move, tuple[str, ...]], ...] = (
    ("gather of rows", "aten.gather", _gather(0), (*FLOATS, *INTEGERS)),
    ("scatter", "aten.scatter", _scatter, (*FLOATS, "int64")),
    ("index_select of rows", "aten.index_select", _index_select(0), (*FLOATS, *INTEGERS)),
    ("scatter_add", "aten.scatter_add", _scatter_add, ("int64", "int32")),
    ("embedding", "aten.embedding", _embedding, FLOATS),
    ("index_put", "aten.index_put", _index_put, ("float64", "bfloat16", "int32")),
    ("advanced index", "aten.index", _advanced, ("float32", "bfloat16", "int64")),
    ("index_add", "aten.index_add", _index_add, ("int64", "int32")),
    ("take", "aten.take", _take, ("float64", "float16", "int32")),
    ("index_copy", "aten.index_copy", _index_copy, ("float32", "float16", "int8")),
    ("masked_select", "aten.masked_select", _masked_select, ("float32", "bfloat16", "int16")),
    ("masked_scatter", "aten.masked_scatter", _masked_scatter, ("float32", "int64")),
    ("where", "aten.where", _where, FLOATS),
    ("gather of columns", "aten.gather", _gather(1), FLOATS),
    ("index_select of columns", "aten.index_select", _index_select(1), FLOATS),
    ("index_select of a transposed matrix", "aten.index_select", _transposed, FLOATS),
)


def _make(
    move: Move, dtype: str, shape: tuple[int, ...], random: np.random.Generator, place: Place
) -> Made:
    count = prod(shape)
    bits = index_code(count, dtype, int(random.integers(0, 1 << 20))).reshape(shape)
    call, expected = move(tensor_of(bits, dtype, place.device), bits, random)
    return exact(lambda: (call(),), (expected,), (bits,))


def cases(place: Place) -> Sequence[Case]:
    """Every way to move elements, in its dtypes; shapes take turns."""
    shapes = SHAPES_GPU if place.kind == GPU else SHAPES_CORE
    found: list[Case] = []
    for number, (name, op, move, dtypes) in enumerate(MOVES):
        shape = shapes[number % len(shapes)]
        for dtype in dtypes:
            # What is selected is one long row.
            given = ((prod(shape) + 1) // 2,) if op == "aten.masked_select" else shape
            found.append(Case(
                label=f"{name} {dtype} {'x'.join(map(str, shape))}", op=op, dtype=dtype,
                shape=given, make=partial(_make, move, dtype, shape)))
    return found


TESTS = (SweepTest(
    name="exact_gather", family="F12", oracles=(Oracle.EXACT,), kinds=(CORE, GPU, HOST),
    blames="core or GPU", dtypes=(*FLOATS, *INTEGERS), dwell_s=2.0,
    proves="Elements that encode their own index arrived where gathers, scatters and lookups had "
    "to put them, unchanged: no load or store went to a wrong offset.",
    cannot_prove="Offsets, sizes and access patterns that were not run are not covered; a wrong "
    "offset that hits an equal element of a 16-bit or 8-bit format cannot be seen.",
    cases=cases),)
