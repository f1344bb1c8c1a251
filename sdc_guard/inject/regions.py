"""Which elements of a tensor are struck.

A region gives flat places (C order, ascending, none twice) in a tensor of any shape, so that one
fault can meet results of several shapes: whatever of the region lies outside is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard.inject.flip import storage_offsets

WARP = 32
Region = Callable[[Tensor], NDArray[np.intp]]


def rows_and_columns(shape: tuple[int, ...]) -> tuple[int, int]:
    """The shape as a matrix: the last dimension is a row; a vector has one row, a number too."""
    columns = shape[-1] if shape else 1
    return int(np.prod(shape[:-1], dtype=np.int64)) if shape else 1, columns


def _inside(places: NDArray[np.intp], tensor: Tensor) -> NDArray[np.intp]:
    return places[places < tensor.numel()]


@dataclass(frozen=True, slots=True)
class All:
    """Every element."""

    def __call__(self, tensor: Tensor) -> NDArray[np.intp]:
        return np.arange(tensor.numel())


@dataclass(frozen=True, slots=True)
class Element:
    """One element."""

    flat_index: int

    def __call__(self, tensor: Tensor) -> NDArray[np.intp]:
        return _inside(np.array([self.flat_index]), tensor)


@dataclass(frozen=True, slots=True)
class Lane:
    """Elements whose place in memory, counted from the first one, is ``lane`` modulo ``lanes``."""

    lane: int
    lanes: int

    def __call__(self, tensor: Tensor) -> NDArray[np.intp]:
        return np.flatnonzero(storage_offsets(tensor) % self.lanes == self.lane)


@dataclass(frozen=True, slots=True)
class Tile:
    """Rows ``top`` to ``top + height`` (excluded) and columns ``left`` to ``left + width`` of the
    matrix that :func:`rows_and_columns` makes of the shape."""

    top: int
    left: int
    height: int
    width: int

    def __call__(self, tensor: Tensor) -> NDArray[np.intp]:
        rows, columns = rows_and_columns(tuple(tensor.shape))
        r = np.arange(self.top, min(self.top + self.height, rows))
        c = np.arange(self.left, min(self.left + self.width, columns))
        return (r[:, None] * columns + c).reshape(-1)


def num_filled(length: int, parts: int) -> int:
    """How many of ``parts`` equal parts of ``length`` things are not empty."""
    size = -(-length // parts)
    return -(-length // size) if size else 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """Part ``number`` of ``parts`` equal ones of the elements in C order, as a static split among
    threads gives it: parts of ``ceil(numel / parts)`` elements, the last ones shorter or empty."""

    number: int
    parts: int

    def __call__(self, tensor: Tensor) -> NDArray[np.intp]:
        length = -(-tensor.numel() // self.parts)
        return np.arange(min(self.number * length, tensor.numel()),
                         min((self.number + 1) * length, tensor.numel()))


@dataclass(frozen=True, slots=True)
class Warps:
    """Every ``stride``-th element of ``num_chunks`` aligned chunks of 32, the first of them chunk
    number ``first``, the others each ``period`` chunks later."""

    first: int
    num_chunks: int
    period: int
    stride: int

    def __call__(self, tensor: Tensor) -> NDArray[np.intp]:
        chunks = self.first + self.period * np.arange(self.num_chunks)
        lanes = np.arange(0, WARP, self.stride)
        return _inside((chunks[:, None] * WARP + lanes).reshape(-1), tensor)


@dataclass(frozen=True, slots=True)
class Wrapped:
    """One element of a tensor of any size: number ``flat_index`` modulo its elements."""

    flat_index: int

    def __call__(self, tensor: Tensor) -> NDArray[np.intp]:
        num = tensor.numel()
        return np.array([self.flat_index % num] if num else [], dtype=np.intp)
