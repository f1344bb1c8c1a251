"""Mean and sum of squares about the mean, by any algorithm that merges parts.

With ``m`` the mean of n numbers, ``A = max|x|``, ``R = max x - min x``, ``M = sum (x - m)^2``.
Welford's update is a merge with a part of one number (Chan, Golub and LeVeque 1983): parts a and b
with d = m_b - m_a, w = n_a n_b / n give ``m = m_a + d n_b / n``, ``M = M_a + M_b + w d^2``.

*Mean.*  A merge rounds by at most ``u (A + 4 R)`` and passes on the errors of its parts with
weights that sum to 1, so along any tree the error is at most ``E = 2 gamma_{n+1} (A + 4 R)``, the
factor 2 standing for terms of second order.  A plain sum, divided, keeps it too
(``gamma_n A``).

*Squares.*  Each computed d is off by at most ``2 E``, so a merge errs by ``w (4 |d| E + 4 E^2)``
besides its roundings.  ``sum w <= W = n (1 + log2(n) / 2)``, because ``w <= min(n_a, n_b)``; by
Cauchy and Schwarz ``sum w |d| <= sqrt(W sum w d^2) = sqrt(W M)``.  With at most n + 8 roundings on
a path,

    |M' - M| <= (1 + g)(4 E sqrt(W M) + 4 E^2 W) + g M + 2 n eta,    g = gamma_{n+8}.

Two passes about a mean that is off by E add ``n E^2`` (``sum (x - m')^2 = M + n (m - m')^2``); that
is part of the above.

*Root.*  ``|sqrt(v + e) - sqrt(v)| <= min(e / sqrt(v), sqrt(e))``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc_guard.bounds.gamma import gamma

Array = NDArray[Any]


def mean_error(n: int, largest: Array, spread: Array, u: float, eta: float) -> Array:
    """E: the limit on the error of a mean of n numbers, any merging order."""
    return np.asarray(2 * gamma(n + 1, u) * (largest + 4 * spread) + 2 * n * eta)


def square_sum_error(n: int, squares: Array, mean_off: Array, u: float, eta: float) -> Array:
    """The limit on the error of ``M`` for means off by ``mean_off``, any merging order."""
    weight = n * (1 + math.log2(max(n, 1)) / 2)
    carried = 4 * mean_off * np.sqrt(weight * squares) + 4 * weight * mean_off**2
    g = gamma(n + 8, u)
    return np.asarray((1 + g) * carried + g * squares + 2 * n * eta)


def root_error(value: Array, error: Array) -> Array:
    """The limit on the error of the square root of ``value``, known within ``error``."""
    with np.errstate(all="ignore"):
        steep = np.where(value > 0, error / np.sqrt(value), np.inf)
    return np.asarray(np.minimum(steep, np.sqrt(error)))
