"""Residuals of triangular systems, one or several in a row.

Substitution (Higham 2002, theorem 8.5): the computed solution of ``T X = B`` satisfies
``|T X - B| <= gamma_n |T||X|`` column by column, in every order of the sums.  A kernel that
multiplies by the rounded reciprocal of the diagonal makes one rounding more; ``gamma_{n+2}`` covers
both.  Systems in a row, ``T_1 T_2 X = B``, add up: ``gamma_{2n+4} |T_1||T_2||X|`` (theorem 9.4).

A kernel may also invert diagonal blocks of T and multiply by the inverses, and then that bound
does not hold.  Let D be such a block, Y its computed inverse with ``|D Y - I| <= g |D||Y|`` or
``|Y D - I| <= g |Y||D|`` (every method of substitution keeps one of them), ``s`` the right side
that is left for the block and ``x = fl(Y s)``.  With ``C = |D||D^-1|`` and ``k = ||C||_inf``,

* ``|D||Y| <= C + g |D||Y| C`` (or ``C + g C |D||Y|``), so ``|| |D||Y| || <= k / (1 - g k) <= 4k/3``
  where ``g k <= 1/4``;
* ``|D x - s| <= g |D||Y||s| + |D Y - I||s|``, and the last is at most ``g |D||Y||s|`` or
  ``g |D||Y||D||D^-1||s|``, so ``||D x - s|| <= g (4k/3 + 4k^2/3) ||s|| <= (8/3) k^2 g ||s||``;
* ``||s|| <= (1 + g) (||B|| + S)`` with ``S = || |T||X| ||``, and ``||B|| <= S + r`` where r is the
  residual.

Together ``r <= (8/3) k^2 g (1 + g) (2 S + r) + g S``, so ``r <= 8 k^2 g S`` for each column where
``16 k^2 g <= 1``: the proof, for blocks of any size, because the diagonal block of ``|T||T^-1|`` of
a triangular T is the ``|D||D^-1|`` of its own block.  Elsewhere there is none.

Premises of all: no overflow, conventional products (no Strassen, no TF32), diagonal elements whose
reciprocals are normal numbers.  Underflow costs ``eta`` for each product and ``eta |t_ii|`` for
each division.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc_guard.bounds.gamma import gamma, own_rounding
from sdc_guard.formats import FLOAT64, Format

F64 = NDArray[np.float64]
Matrices = NDArray[Any]
RELIABLE = 2.0**-8
"""Where ``n k u`` of our own float64 inverse is below this, its sizes are right within a factor of
``1 + 2^-6``, for which every bound here has room."""


def inverse(a: Matrices) -> Matrices:
    """The inverse of each matrix of a batch, NaN where there is none."""
    finite = np.where(np.isfinite(a).all((-2, -1), keepdims=True), a, 0.0)
    try:
        return np.asarray(np.linalg.inv(finite))
    except np.linalg.LinAlgError:
        flat = finite.reshape(math.prod(a.shape[:-2]), *a.shape[-2:])
        return np.stack([_inverse_or_nan(m) for m in flat]).reshape(a.shape)


def _inverse_or_nan(a: Matrices) -> Matrices:
    try:
        return np.asarray(np.linalg.inv(a))
    except np.linalg.LinAlgError:
        return np.full_like(a, np.nan)


def condition(t: Matrices, inverted: Matrices) -> F64:
    """``|| |T||T^-1| ||_inf`` of each matrix, shape (..., 1, 1); infinite where our own inverse is
    not reliable."""
    sizes = np.matmul(np.abs(t), np.abs(inverted).sum(-1, keepdims=True))
    k = largest(sizes)
    reliable = (t.shape[-1] * k * FLOAT64.u < RELIABLE) & (k >= 0.5)
    return np.where(reliable, np.maximum(k, 1.0) * (1 + 2.0**-6), np.inf)


def block_factor(k: F64, n: int, fmt: Format) -> F64:
    """``8 k^2``, by which inverted diagonal blocks may exceed substitution; infinite where
    ``16 k^2 gamma_{n+2} > 1``."""
    with np.errstate(all="ignore"):
        return np.where(16 * k * k * gamma(n + 2, fmt.u) <= 1.0, 8 * k * k, np.inf)


def largest(size: Matrices) -> F64:
    """The largest element of each column."""
    return np.asarray(np.max(size, axis=-2, keepdims=True, initial=0.0))


def row_sums(t: Matrices) -> F64:
    """``||T||_inf`` of each matrix, shape (..., 1, 1)."""
    return largest(np.abs(t).sum(-1, keepdims=True))


def diagonal(t: Matrices) -> F64:
    """Sizes of the diagonal as a column, (..., n, 1)."""
    return np.asarray(np.abs(np.diagonal(t, axis1=-2, axis2=-1))[..., None])


def divides_safely(t: Matrices, fmt: Format) -> NDArray[np.bool_]:
    """True for the matrices, (..., 1, 1), of whose diagonal all reciprocals are normal numbers."""
    d = diagonal(t)
    return np.asarray(((d >= 4.0 / fmt.max) & (d <= 0.25 / fmt.tiny)).all(-2, keepdims=True))


def solution_size(factors: list[Matrices], x: Matrices) -> F64:
    """``|T_1| ... |T_m||X|``."""
    size = np.abs(x)
    for t in reversed(factors):
        size = np.matmul(np.abs(t), size)
    return np.asarray(size)


def by_substitution(factors: list[Matrices], x: Matrices, fmt: Format) -> F64:
    """Limit on ``|T_1 ... T_m X - B|`` for substitution: ``gamma_{m(n+2)} |T_1| ... |T_m||X|``,
    with what underflows in each system times the systems around it, and our own rounding."""
    n = factors[0].shape[-1]
    steps = len(factors) * (n + 2)
    size = solution_size(factors, x)
    underflow = np.zeros((1, 1))
    for t in reversed(factors):
        underflow = np.matmul(np.abs(t), np.broadcast_to(
            underflow, (*np.broadcast_shapes(underflow.shape[:-2], t.shape[:-2]), n, 1)))
        underflow = underflow + 2 * (n + 1) * fmt.eta * (1.0 + diagonal(t))
    return np.asarray(gamma(steps, fmt.u) * size + underflow + own_rounding(steps, size))


def by_inverted_blocks(factors: list[Matrices], x: Matrices, fmt: Format) -> F64:
    """Limit on ``|T_1 ... T_m X - B|`` for kernels that invert diagonal blocks: ``r`` of the module
    docstring for each system, times the row sums of the systems around it."""
    n = factors[0].shape[-1]
    g = gamma(n + 2, fmt.u)
    size, total = largest(np.abs(x)), np.zeros((1, 1))
    for i, t in enumerate(reversed(factors)):
        norm, k = row_sums(t), condition(t, inverse(t))
        size = largest(np.matmul(np.abs(t), np.abs(x))) if i == 0 else norm * size
        underflow = 16 * (n + 1) * fmt.eta * k * (1.0 + norm) * (1.0 + size)
        r = block_factor(k, n, fmt) * g * size + underflow
        total = norm * total + r
        size = size + r
    return np.asarray(total + own_rounding(len(factors) * (n + 2), size))


def stays_finite(factors: list[Matrices], right: F64, fmt: Format) -> NDArray[np.bool_]:
    """True for the columns of the solution of ``T_1 ... T_m X = B`` that no evaluation overflows:
    a solution with residual ``r <= 8 k^2 g S``, ``16 k^2 g <= 1``, is within a factor of 4 of
    ``|T^-1||B|``, and partial sums are at most ``|B| + |T||X|``."""
    n = factors[0].shape[-1]
    y = right
    sure = np.isfinite(right).all(-2, keepdims=True)
    for t in factors:
        inverted = inverse(t)
        x = 4 * np.matmul(np.abs(inverted), y)
        most = np.maximum(largest(y + np.matmul(np.abs(t), x)), largest(x))
        most = np.maximum(most, largest(largest(np.abs(inverted)).swapaxes(-1, -2)))
        known = np.isfinite(block_factor(condition(t, inverted), n, fmt))
        sure = sure & known & (most < fmt.max / 16)
        y = x
    return np.asarray(sure)
