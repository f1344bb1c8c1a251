"""Modified Bessel functions of order 0 and 1, scaled, and the Hurwitz zeta function, in float64 by
our own path.

``exp(-|x|) I_n(x)``: the power series up to 8 (all terms of one sign), the trapezoidal rule for

    I_n(x) = 1/pi integral_0^pi exp(x cos t) cos(n t) dt

with 128 points on the circle up to 64, whose error is ``I_128(x)``, below 2^-60 of the result, and
the asymptotic series beyond, 20 terms.

``zeta(s, x) = sum_k (x + k)^-s`` for x > 0: 16 terms and the Euler-Maclaurin formula for the rest,
seven Bernoulli numbers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc_guard.bounds.special_values import BERNOULLI

Array = NDArray[Any]

SERIES_TO = 8.0
CIRCLE_TO = 64.0
POINTS = 128
NUM_TERMS = 20
FIRST_TERMS = 16


def scaled_bessel(order: int, x: Array) -> Array:
    """``exp(-|x|) I_n(x)`` for n of 0 or 1; NaN stays NaN."""
    with np.errstate(all="ignore"):
        size = np.abs(np.asarray(x, dtype=np.float64))
        low = _series(order, np.minimum(size, SERIES_TO))
        middle = _circle(order, np.clip(size, SERIES_TO, CIRCLE_TO))
        high = _asymptotic(order, np.maximum(size, CIRCLE_TO))
        value = np.where(size <= SERIES_TO, low, np.where(size <= CIRCLE_TO, middle, high))
        value = np.where(np.isinf(size), 0.0, np.where(np.isnan(size), np.nan, value))
        return np.asarray(np.copysign(value, x) if order else value)


def _series(order: int, x: Array) -> Array:
    term = (x / 2) ** order * np.exp(-x)
    total = term.copy()
    for k in range(1, 40):
        term = term * (x * x / 4) / (k * (k + order))
        total = total + term
    return np.asarray(total)


def _circle(order: int, x: Array) -> Array:
    total = np.zeros_like(x)
    for j in range(POINTS // 2 + 1):
        angle = 2 * math.pi * j / POINTS
        # 1 - cos without cancellation.
        fall = 2 * math.sin(angle / 2) ** 2
        weight = 1.0 if j in (0, POINTS // 2) else 2.0
        total = total + weight * math.cos(order * angle) * np.exp(-x * fall)
    return np.asarray(total / POINTS)


def _asymptotic(order: int, x: Array) -> Array:
    term = np.ones_like(x)
    total = term.copy()
    for k in range(1, NUM_TERMS):
        term = -term * (4 * order * order - (2 * k - 1) ** 2) / (8 * k * x)
        total = total + term
    return np.asarray(total / (math.sqrt(2 * math.pi) * np.sqrt(x)))


def hurwitz(s: int, x: Array) -> Array:
    """``sum_k (x + k)^-s`` for s of at least 2 and x > 0; NaN elsewhere."""
    with np.errstate(all="ignore"):
        x = np.where(np.asarray(x, dtype=np.float64) > 0, x, np.nan)
        total = np.zeros_like(x)
        for k in range(FIRST_TERMS - 1, -1, -1):
            total = total + (x + k) ** -s
        y = x + FIRST_TERMS
        rest = y ** (1 - s) / (s - 1) + 0.5 * y**-s
        factor = s * y ** (-s - 1)
        for k, number in enumerate(BERNOULLI, 1):
            rest = rest + number / math.factorial(2 * k) * factor
            factor = factor * (s + 2 * k - 1) * (s + 2 * k) / (y * y)
        return np.asarray(total + rest)
