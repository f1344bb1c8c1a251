"""Cholesky factorization, and the inverse from a factor.

Theorem 10.3 of Higham 2002: ``|L L^T - A| <= gamma_{n+1} |L||L^T|`` in every order, and one
rounding more for each of the two uses of a reciprocal.  A blocked algorithm computes a block column
from ``L21 L11^T = A21``; a kernel that inverts diagonal blocks adds at most ``8 k^2 gamma_{n+2}``
times the largest element of the row of ``|L||L^T|``, ``k = || |L||L^-1| ||``
(``sdc_guard.bounds.linalg``).

The inverse is ``Y^T Y`` with ``Y`` the inverted triangle.  With ``W = |L^-1|`` every method of
substitution, from either side, keeps ``|Y - L^-1| <= g W|L|W (1 + small)``, ``g = gamma_{n+2}``,
so ``|X - (L L^T)^-1| <= 2 E^T W + W^T W gamma_n`` with ``E = g W|L|W``, its second orders below the
first where ``4 g || |L|W || <= 1``; a factor of 2 pays for them and for inverted blocks of
blocks.  Then ``|L L^T X - I| <= |L||L^T| |X - (L L^T)^-1|``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc_guard.bounds import linalg
from sdc_guard.bounds.gamma import gamma, own_rounding
from sdc_guard.formats import Format

F64 = NDArray[np.float64]


def _t(a: NDArray[Any]) -> NDArray[Any]:
    return np.swapaxes(a, -1, -2)


def _normal(lower: NDArray[Any], fmt: Format) -> NDArray[np.bool_]:
    return linalg.divides_safely(lower, fmt)


def limits(lower: NDArray[Any], fmt: Format) -> tuple[F64, F64]:
    """Proof and contract of ``|L L^T - A|`` in the lower triangle."""
    n = lower.shape[-1]
    size = np.matmul(np.abs(lower), _t(np.abs(lower)))
    most = linalg.diagonal(lower).max((-2, -1), keepdims=True, initial=0.0)
    contract = gamma(n + 3, fmt.u) * size + 4 * (n + 1) * fmt.eta * (1.0 + most)
    contract = np.where(_normal(lower, fmt), contract + own_rounding(n + 1, size), np.inf)
    k = linalg.condition(lower, linalg.inverse(lower))
    rows = size.max(-1, keepdims=True, initial=0.0)
    blocks = linalg.block_factor(k, n, fmt) * gamma(n + 2, fmt.u) * rows
    underflow = 16 * (n + 1) * fmt.eta * k * (1.0 + most) * (1.0 + most)
    return np.asarray(contract + blocks + underflow), np.asarray(contract)


def stays_definite(a: NDArray[Any], fmt: Format) -> NDArray[np.bool_]:
    """True for the matrices, given by their lower triangle, that stay far from singular under the
    errors of a factorization: ``gamma_{n+3} n k_2(A) <= 1/16`` for A scaled to a unit diagonal
    (theorem 10.7)."""
    n = a.shape[-1]
    d = np.sqrt(np.diagonal(a, axis1=-2, axis2=-1))
    with np.errstate(all="ignore"):
        unit = a / (d[..., :, None] * d[..., None, :])
    unit = np.where(np.isfinite(unit), unit, 0.0)
    full = np.tril(unit) + _t(np.tril(unit, -1))
    least = np.linalg.eigvalsh(full).min(-1, initial=1.0)
    return np.asarray(least > 16 * n * gamma(n + 3, fmt.u))[..., None, None]


def inverse_limits(lower: NDArray[Any], fmt: Format) -> tuple[F64, F64]:
    """Limit on ``|L L^T X - I|``, and the largest sizes of X and what it is made of; infinite where
    the second orders do not vanish."""
    n = lower.shape[-1]
    finite = np.isfinite(lower).all((-2, -1), keepdims=True)
    lower = np.where(finite, lower, np.eye(n))
    inverted = linalg.inverse(lower)
    k = linalg.condition(lower, inverted)
    w, size = np.abs(inverted), np.abs(lower)
    g = gamma(n + 2, fmt.u)
    error = g * np.matmul(w, np.matmul(size, w))
    product = np.matmul(_t(w), w)
    forward = 2 * (np.matmul(_t(error), w) + np.matmul(_t(w), error) + g * product)
    forward = forward + 4 * n * fmt.eta * (1.0 + w.max((-2, -1), keepdims=True, initial=0.0)) * k
    limit = np.matmul(size, np.matmul(_t(size), forward))
    own = np.matmul(size, np.matmul(_t(size), product))
    ok = finite & (4 * g * k <= 1.0) & linalg.divides_safely(lower, fmt)
    limit = np.where(ok, limit + own_rounding(3 * n, own), np.inf)
    return np.asarray(limit), np.asarray(np.maximum(product, w + error) * 4)
