"""LU factorization by Gaussian elimination, and what its pivots permute.

Theorem 9.3 of Higham 2002: ``|L U - P A| <= gamma_n |L||U|`` for every order of the updates, with
``n`` the number of steps; ``gamma_{n+2}`` where the multipliers come from rounded reciprocals.
Blocked and recursive algorithms compute U12 from ``L11 U12 = A12``, by a kernel that may invert
diagonal blocks of L: then the residual of each column is larger by at most
``8 k^2 gamma_{n+2} || |L||U| ||``, ``k = || |L||L^-1| ||`` (``sdc_guard.bounds.linalg``), because
each element of U comes from one such system and the updates before it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc_guard.bounds import linalg
from sdc_guard.bounds.gamma import gamma, own_rounding
from sdc_guard.formats import Format

F64 = NDArray[np.float64]
PANEL = 32


def unpacked(lu: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """L (unit diagonal) and U of a packed factorization."""
    m, n = lu.shape[-2:]
    k = min(m, n)
    lower = np.tril(lu[..., :k], -1)
    i = np.arange(k)
    lower[..., i, i] = 1.0
    return lower, np.triu(lu[..., :k, :])


def permutation(pivots: NDArray[Any], m: int) -> NDArray[np.int64]:
    """The order into which LAPACK's swaps (1-based, one for each step) bring m rows."""
    steps = pivots.shape[-1]
    flat = pivots.reshape(math.prod(pivots.shape[:-1]), steps).astype(np.int64) - 1
    order = np.tile(np.arange(m), (len(flat), 1))
    matrices = np.arange(len(flat))
    for i in range(steps):
        other = flat[:, i]
        kept = order[matrices, i].copy()
        order[matrices, i] = order[matrices, other]
        order[matrices, other] = kept
    return order.reshape(*pivots.shape[:-1], m)


def permuted(rows: NDArray[Any], order: NDArray[np.int64]) -> NDArray[Any]:
    """The rows of each matrix in that order."""
    batch = np.broadcast_shapes(rows.shape[:-2], order.shape[:-1])
    order = np.broadcast_to(order, (*batch, order.shape[-1]))
    rows = np.broadcast_to(rows, (*batch, *rows.shape[-2:]))
    return np.take_along_axis(rows, order[..., None], -2)


def limits(lower: NDArray[Any], upper: NDArray[Any], fmt: Format) -> tuple[F64, F64]:
    """Proof and contract of ``|L U - P A|``, own rounding and underflow included; infinite for
    matrices with a pivot, other than 0, whose reciprocal is not normal."""
    k = lower.shape[-1]
    size = np.matmul(np.abs(lower), np.abs(upper))
    d = np.abs(np.diagonal(upper, axis1=-2, axis2=-1))[..., None, :]
    normal = ((d == 0) | ((d >= 4.0 / fmt.max) & (d <= 0.25 / fmt.tiny))).all(-1, keepdims=True)
    most = linalg.largest(np.abs(upper).max(-1, keepdims=True, initial=0.0))
    contract = gamma(k + 2, fmt.u) * size + 2 * (k + 1) * fmt.eta * (1.0 + most)
    contract = np.where(normal, contract + own_rounding(k + 1, size), np.inf)
    square = lower[..., :k, :]
    condition = linalg.condition(square, linalg.inverse(square))
    blocks = linalg.block_factor(condition, k, fmt) * gamma(k + 2, fmt.u) * linalg.largest(size)
    underflow = 16 * (k + 1) * fmt.eta * condition * (1.0 + most) * (1.0 + k)
    return np.asarray(contract + blocks + underflow), np.asarray(contract)


def stays_finite(a: NDArray[Any], fmt: Format) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """For proof and contract, True for the square matrices, (..., 1, 1), of which no elimination
    with partial pivoting overflows.

    ``|| |L||U| ||`` is at most ``n 2^n max|A|`` (proof), or 8 times that of our own elimination,
    which may choose another of two equal pivots (contract).  Where it keeps ``A + E`` away from
    singular, reciprocals of pivots are at most ``2 n ||A^-1||``.
    """
    n = a.shape[-1]
    if a.shape[-2] != n or not n:
        no = np.zeros((*a.shape[:-2], 1, 1), dtype=bool)
        return no, no
    finite = np.isfinite(a).all((-2, -1), keepdims=True)
    a = np.where(finite, a, np.eye(n))
    inverse_size = linalg.row_sums(linalg.inverse(a))
    most = np.abs(a).max((-2, -1), keepdims=True)
    sure = []
    for size in (n * np.ldexp(most, n), 8 * np.maximum(*growth_by_elimination(a))):
        sure.append(finite & (4 * gamma(n + 2, fmt.u) * size * inverse_size <= 1)
                    & (16 * size < fmt.max) & (16 * n * inverse_size < 1.0 / fmt.tiny)
                    & (inverse_size > 0))
    return sure[0], sure[1]


def growth_by_elimination(a: NDArray[Any]) -> tuple[F64, F64]:
    """``|| |L||U| ||_inf`` and ``|| |L||U| ||_1`` of our own elimination with partial pivoting, in
    float64 and panels, shape (..., 1, 1)."""
    n = a.shape[-1]
    lu = np.array(a.reshape(math.prod(a.shape[:-2]), n, n), dtype=np.float64)
    matrices = np.arange(len(lu))
    for start in range(0, n, PANEL):
        stop = min(start + PANEL, n)
        for j in range(start, stop):
            pivot = np.argmax(np.abs(lu[:, j:, j]), -1) + j
            kept = lu[matrices, j].copy()
            lu[matrices, j] = lu[matrices, pivot]
            lu[matrices, pivot] = kept
            d = lu[:, j, j]
            lu[:, j + 1 :, j] /= np.where(d == 0, 1.0, d)[:, None]
            lu[:, j + 1 :, j + 1 : stop] -= (
                lu[:, j + 1 :, j, None] * lu[:, j, None, j + 1 : stop])
        square = np.tril(lu[:, start:stop, start:stop], -1) + np.eye(stop - start)
        lu[:, start:stop, stop:] = np.linalg.solve(square, lu[:, start:stop, stop:])
        lu[:, stop:, stop:] -= np.matmul(lu[:, stop:, start:stop], lu[:, start:stop, stop:])
    lower, upper = unpacked(lu)
    size = np.matmul(np.abs(lower), np.abs(upper))
    rows, cols = size.sum(-1).max(-1, initial=0.0), size.sum(-2).max(-1, initial=0.0)
    shape = (*a.shape[:-2], 1, 1)
    return rows.reshape(shape), cols.reshape(shape)
