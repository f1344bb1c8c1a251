"""Functions that NumPy lacks, in float64 by our own path: ``erfc``, ``log_gamma``, ``psi``,
``inverse_erf``.

``erfc`` and ``log_gamma`` are the C library's, one number at a time through Python's :mod:`math`.
The digamma function is its recurrence ``psi(x) = psi(x + 1) - 1/x`` up to 16 and then

    psi(x) = log x - 1/(2x) - sum_k B_2k / (2k x^2k),

whose first omitted term is below 2^-56 there, with the reflection ``psi(1 - x) - pi / tan(pi x)``
below zero.  ``inverse_erf`` takes three steps of third order (Halley) on ``erf``, or on ``erfc``
beyond one half, from Winitzki's approximation, which is right to 0.2 %.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc_guard.bounds.special import erf

Array = NDArray[Any]

BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6)

LARGEST = 2.5e305
"""Beyond, ``log_gamma`` is more than the largest double."""

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def erfc(x: Array) -> Array:
    """``1 - erf(x)`` with full relative accuracy; NaN stays NaN."""
    return np.asarray(_erfc(np.asarray(x, dtype=np.float64)))


def _log_gamma(x: float) -> float:
    if math.isnan(x) or math.isinf(x):
        return abs(x)
    if (x <= 0 and x == math.floor(x)) or abs(x) > LARGEST:
        return math.inf
    return math.lgamma(x)


_lgamma = np.vectorize(_log_gamma, otypes=[np.float64])


def log_gamma(x: Array) -> Array:
    """``log |gamma(x)|``, infinite at the poles and both infinities."""
    return np.asarray(_lgamma(np.asarray(x, dtype=np.float64)))


@np.errstate(all="ignore")
def psi(x: Array) -> Array:
    """The logarithmic derivative of the gamma function, NaN at -infinity and at poles but 0."""
    x = np.asarray(x, dtype=np.float64)
    negative = x < 0
    y = np.where(negative, 1.0 - x, x)
    total = np.zeros_like(y)
    for _ in range(16):
        small = y < 16
        total = np.where(small, total - 1.0 / y, total)
        y = np.where(small, y + 1.0, y)
    series = np.zeros_like(y)
    for k in range(len(BERNOULLI), 0, -1):
        series = (series + BERNOULLI[k - 1] / (2 * k)) / (y * y)
    value = total + np.log(y) - 0.5 / y - series
    rest = x - np.rint(x)
    value = np.where(negative, value - math.pi / np.tan(math.pi * rest), value)
    value = np.where(negative & (rest == 0), np.nan, value)
    value = np.where(x == 0, np.copysign(np.inf, -x), value)
    return np.where(x == np.inf, np.inf, value)


@np.errstate(all="ignore")
def inverse_erf(x: Array) -> Array:
    """y with ``erf(y) = x``."""
    size = np.abs(np.asarray(x, dtype=np.float64))
    inside = np.where(size < 1, size, 0.5)
    log_rest = np.log1p(-inside * inside)
    first = 2 / (math.pi * 0.147) + log_rest / 2
    y = np.sqrt(np.sqrt(first * first - log_rest / 0.147) - first)
    for _ in range(3):
        tail = inside > 0.5
        error = np.where(tail, (1 - inside) - erfc(y), erf(y) - inside)
        step = error / (2 / math.sqrt(math.pi) * np.exp(-y * y))
        y = y - step / (1 + y * step)
    y = np.where(inside == 0, 0.0, y)
    value = np.where(size < 1, y, np.where(size == 1, np.inf, np.nan))
    return np.copysign(value, x)
