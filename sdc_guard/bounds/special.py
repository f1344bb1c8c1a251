"""The error function in float64 by our own path: Taylor polynomials about the points of a grid.

NumPy has no ``erf``, and the kernels that compute it are under test.  About a grid point ``c`` with
``t = x - c``:

    erf(c + t) = erf(c) + integral_0^t f'(c + s) ds,    f' = sum_j d_j s^j,
    d_0 = 2/sqrt(pi) exp(-c^2),    (j + 1) d_(j+1) = -2 (c d_j + d_(j-1)),

which is ``f'' = -2 x f'`` for ``f = erf``, term by term.  The grid has spacing 1/32, so
``|t| <= 1/64``; with 10 terms the first omitted one is below 2^-60.  ``erf(c)`` and ``exp`` come
from the C library through Python's :mod:`math`, once.  Beyond 6 the function is 1 in float64
(``erfc(6) = 2.2e-17``).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

SPACING = 1.0 / 32
LIMIT = 6.0
DEGREE = 10

ERF_ERROR = 2.0**-51
"""Largest relative error of :func:`erf`: a few roundings of float64."""


@functools.cache
def _table() -> tuple[F64, F64]:
    """``erf(c)`` and the coefficients ``[DEGREE, points]`` of the powers of ``t``, slope
    included."""
    points = np.arange(int(LIMIT / SPACING) + 1) * SPACING
    value = np.array([math.erf(c) for c in points.tolist()])
    slope = np.array([2 / math.sqrt(math.pi) * math.exp(-c * c) for c in points.tolist()])
    d = np.zeros((DEGREE, len(points)))
    d[0] = slope
    for j in range(DEGREE - 1):
        d[j + 1] = -2 * (points * d[j] + (d[j - 1] if j else 0.0)) / (j + 1)
    return value, d / np.arange(1, DEGREE + 1)[:, None]


def erf(x: NDArray[Any] | float) -> F64:
    """``2/sqrt(pi) * integral_0^x exp(-t^2) dt`` within ``ERF_ERROR |erf x|``; NaN stays NaN."""
    values, coefficients = _table()
    x = np.asarray(x, dtype=np.float64)
    size = np.minimum(np.nan_to_num(np.abs(x), nan=0.0, posinf=LIMIT), LIMIT)
    cell = np.rint(size / SPACING).astype(np.intp)
    t = size - cell * SPACING
    polynomial = np.zeros_like(size)
    for row in coefficients[::-1]:
        polynomial = polynomial * t + row[cell]
    result = np.copysign(values[cell] + polynomial * t, x)
    return np.where(np.isnan(x), np.nan, result)
