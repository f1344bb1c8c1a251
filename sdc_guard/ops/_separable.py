"""Linear maps that act on each of the last dimensions by itself: boxes, interpolation weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard.bounds.gamma import gamma, own_rounding, rounding
from sdc_guard.formats import Format, format_of
from sdc_guard.ops._registry import F64, Reference

I64 = NDArray[np.int64]


def applied(x: F64, matrices: Sequence[F64]) -> F64:
    """``matrices[d]`` [out, in] applied along the d-th of the last dimensions, in float64."""
    for d, matrix in enumerate(matrices):
        axis = x.ndim - len(matrices) + d
        x = np.moveaxis(np.moveaxis(x, axis, -1) @ matrix.T, -1, axis)
    return x


def outer(vectors: Sequence[F64]) -> F64:
    """The outer product, one dimension per vector."""
    return reduce(np.multiply.outer, vectors)


@dataclass(frozen=True, slots=True)
class Map:
    """A matrix [num_rows, num_columns] by its entries, no two of which have the same place: each
    ``weights`` is known within ``limits``.  All others are 0, and known to be.  Interpolation has a
    few entries in a row, so that its cost is that of the elements, not of the matrix."""

    num_rows: int
    num_columns: int
    rows: I64
    columns: I64
    weights: F64
    limits: F64

    @classmethod
    def of(cls, matrix: F64, limit: F64) -> Map:
        """The entries of two matrices [out, in] that are not 0 in both."""
        rows, columns = np.nonzero((matrix != 0) | (limit != 0))
        return cls(matrix.shape[0], matrix.shape[1], rows, columns, matrix[rows, columns],
                   limit[rows, columns])

    @property
    def turned(self) -> Map:
        """The transposed map."""
        order = np.argsort(self.columns, kind="stable")
        return Map(self.num_columns, self.num_rows, self.columns[order], self.rows[order],
                   self.weights[order], self.limits[order])

    @property
    def depth(self) -> int:
        """The largest number of entries in a row that may be more than 0."""
        some = np.abs(self.weights) + self.limits > 0
        return int(np.bincount(self.rows[some], minlength=1).max())

    @property
    def norm(self) -> float:
        """The largest sum of sizes in a row, limits included."""
        sums = np.bincount(self.rows, np.abs(self.weights) + self.limits, minlength=1)
        return float(sums.max())

    def sized(self) -> Map:
        """The sizes of the weights."""
        return replace(self, weights=np.abs(self.weights))

    def widened(self) -> Map:
        """The largest sizes that the weights may have."""
        return replace(self, weights=np.abs(self.weights) + self.limits)

    def along(self, axis: int, x: F64) -> F64:
        """Applied to one dimension, in float64.  As in a product of matrices, a 0 times what is not
        finite is NaN."""
        lines = np.moveaxis(x, axis, -1)
        kept = self.weights != 0
        columns = self.columns[kept]
        found = self._added(lines[..., columns] * self.weights[kept], kept)
        odd = ~np.isfinite(lines)
        if odd.any():
            met = self._added(odd[..., columns].astype(np.float64), kept)
            found[met < odd.sum(-1, keepdims=True)] = np.nan
        return np.moveaxis(found, -1, axis)

    def _added(self, terms: F64, kept: NDArray[np.bool_]) -> F64:
        """The sums over each row of its terms, in the order of the entries."""
        found = np.zeros((*terms.shape[:-1], self.num_rows))
        present, starts = np.unique(self.rows[kept], return_index=True)
        if present.size:
            found[..., present] = np.add.reduceat(terms, starts, axis=-1)
        return found


def mapped(x: F64, maps: Sequence[Map]) -> F64:
    """``maps[d]`` applied along the d-th of the last dimensions, in float64."""
    for d, its in enumerate(maps):
        x = its.along(x.ndim - len(maps) + d, x)
    return x


def weighted(x: F64, maps: Sequence[Map], fmt: Format, held: Tensor,
             formula: str, *, depth: int | None = None) -> Reference:
    """The maps with weights W applied to ``x``, each weight known within B.

    A kernel's weights lie within ``|W| + B`` in size.  The T products of a result, T the largest
    number of them, are added in any order in ``fmt``, each with a rounding per dimension for its
    weights, their product and that with x:

        |y^ - y| <= ((|W| + B)...) |x| - (|W|...) |x| + gamma_{T + 4 rank}(u) ((|W| + B)...) |x|.

    ``depth`` is the longest chain of sums where the kernel's order is known: the contract's T.
    """
    with np.errstate(all="ignore"):
        expected = mapped(x, maps)
        size = np.abs(x)
        known = mapped(size, [m.sized() for m in maps])
        wide = mapped(size, [m.widened() for m in maps])
        terms = int(np.prod([max(m.depth, 1) for m in maps]))
        shift = wide - known + own_rounding(4 * terms + 4, wide) + (4 * terms + 4) * fmt.eta
        proof, contract = (shift + gamma(n + 4 * len(maps), fmt.u) * wide
                           for n in (terms, terms if depth is None else min(depth, terms)))
        proof, contract = (e + rounding(np.abs(expected) + e, format_of(held.dtype))
                           for e in (proof, contract))
        # A kernel works one dimension after the other: what is there before the small weights of
        # the last one may be larger than the result.
        dims = tuple(range(x.ndim - len(maps), x.ndim))
        reach = size.max(axis=dims, keepdims=True, initial=0.0)
        for its in maps:
            reach = reach * max(1.0, its.norm)
    magnitude = np.maximum(wide, reach) if np.isfinite(x).all() else np.inf
    return Reference(expected, proof, contract, formula, magnitude)
