"""Weights of cubic and of antialiased interpolation along one dimension, and how far a kernel's
weights may be off.

*Place.*  Result i of m lies at ``r = s (i + 1/2) - 1/2`` of n elements, or at ``s i`` with aligned
corners; ``s`` is ``1 / scale``, ``n / m`` or ``(n - 1) / (m - 1)``.  A kernel rounds s, the product
and the sum, each number being at most ``s (i + 1) + 1``, so r is off by at most
``D = 4 u (s (i + 1) + 1)``.  ATen takes the floor of r in fp32 also where it computes r in fp64
(``guard_index_and_lambda``): within ``2^-24 r`` below an integer, r counts as that integer.

*Cubic.*  Keys' kernel with parameter a,

    k(x) = (a + 2) |x|^3 - (a + 3) |x|^2 + 1          for |x| <= 1,
    k(x) = a |x|^3 - 5 a |x|^2 + 8 a |x| - 4 a        for 1 <= |x| <= 2,  0 beyond,

is evaluated by Horner's scheme.  For ``|a| <= 3/4`` its slope is at most 1.35 (at |x| = 0.6, a =
-3/4).  The second piece is ``((a x + 3.75) x - 6) x + 3`` with partial results of at most 1.5,
3, 4.7, 3 and 3.2 before the last sum: with factors ``x <= 2`` the roundings of x (2u), of the
product (1.5u) and of the sums add up to at most ``37 u``; those of the first piece to at most
``8 u``.  So a weight errs by at most ``40 u + 1.5 D``; weights of elements outside the operand are
added to those of its border.

*Antialiased.*  With ``S = max(s, 1)`` and ``c = s (i + 1/2)`` the weights are
``f((j + 1/2 - c) / S)``, divided by their sum T over the elements of the operand.  The argument x,
below 3, is off by at most ``E = (2 D + 8 u S) / S + 2 u |x| <= 2 D / S + 14 u``.  Slopes are at
most 2: f is a triangle (1), Keys' kernel with a = -1/2 (1.4), or ``sinc(x) sinc(x / 3)`` (1.9;
slope of sinc at most 1.4).  Its evaluation errs by at most ``40 u``: for sinc, ``sin(y) / y`` at
``y = pi x`` rounded twice changes by at most 4u, a sine of 4 ulps and a division add 9u, twice.
With ``e = 40 u + 2 E`` per element and q elements in reach, T errs by
``t = q e + gamma_q(u) sum|f|`` and a weight w by ``(e + |w| t) / (T - t) + u |w|``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sdc_guard.bounds.gamma import gamma

F64 = NDArray[np.float64]

EVALUATION = 40.0
"""Roundings of a weight of at most 1.2 in size, see above."""

SUPPORT = {"linear": 1.0, "cubic": 2.0, "lanczos": 3.0}
"""Where the filters of antialiased interpolation end."""

FLOOR_U = 2.0**-24
"""Unit roundoff of the format in which ATen takes floors."""


def step_of(size: int, out: int, align: bool, scale: float | None) -> float:
    """How far results lie apart, in elements of the operand."""
    if align:
        return (size - 1) / (out - 1) if out > 1 else 0.0
    return 1.0 / scale if scale is not None and scale > 0 else size / out


def floored_in_fp32(real: F64, u: float) -> F64:
    """How far a coordinate moves because its floor is taken in fp32; 0 in formats below fp64."""
    above = np.ceil(real) - real
    near = above <= FLOOR_U * np.abs(real) if u < FLOOR_U else np.zeros(real.shape, dtype=bool)
    return np.where(near, above, 0.0)


def keys(x: F64, a: float) -> F64:
    """Keys' cubic convolution kernel."""
    x = np.abs(x)
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x < 1, inner, np.where(x < 2, outer, 0.0))


def cubic_weights(size: int, out: int, align: bool, scale: float | None, u: float
                  ) -> tuple[F64, F64]:
    """Weights [out, size] of Keys' kernel with a = -3/4, and the limit on each weight's error."""
    place = np.arange(out, dtype=np.float64)
    step = step_of(size, out, align, scale)
    real = step * place if align else step * (place + 0.5) - 0.5
    off = 4 * (u + 2.0**-52) * (step * (place + 1) + 1) + floored_in_fp32(real, u)
    low = np.floor(real)
    rows = np.arange(out)
    matrix, limit = np.zeros((out, size)), np.zeros((out, size))
    for shift in range(-2, 4):
        where = np.clip(low + shift, 0, size - 1).astype(np.int64)
        weight = keys(real - (low + shift), -0.75)
        near = np.abs(real - (low + shift)) < 2 + off
        np.add.at(matrix, (rows, where), weight)
        np.add.at(limit, (rows, where), np.where(near, EVALUATION * u + 1.5 * off, 0.0))
    return matrix, limit


def filter_value(x: F64, kind: str) -> F64:
    """The filter of antialiased interpolation: triangle, Keys' kernel with a = -1/2, Lanczos-3."""
    if kind == "linear":
        return np.maximum(1.0 - np.abs(x), 0.0)
    if kind == "cubic":
        return keys(x, -0.5)
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


def antialias_weights(kind: str, size: int, out: int, align: bool, scale: float | None, u: float
                      ) -> tuple[F64, F64]:
    """Weights [out, size] of antialiased interpolation and the limit on each weight's error;
    infinite in rows whose weights may sum to 0."""
    step = step_of(size, out, align, scale)
    stretch = max(step, 1.0)
    center = step * (np.arange(out, dtype=np.float64) + 0.5)
    x = (np.arange(size) + 0.5 - center[:, None]) / stretch
    value = filter_value(x, kind)
    u = u + 2.0**-52
    moved = 8 * u * (center[:, None] + step / 2 + 1) / stretch + 14 * u
    reached = np.abs(x) < SUPPORT[kind] + moved
    error = np.where(reached, EVALUATION * u + 2 * moved, 0.0)
    count = int(reached.sum(1).max(initial=0))
    total = value.sum(1, keepdims=True)
    off = error.sum(1, keepdims=True) + gamma(count, u) * np.abs(value).sum(1, keepdims=True)
    with np.errstate(all="ignore"):
        weight = value / total
        room = np.abs(total) - off
        limit = np.where(room > 0, (error + np.abs(weight) * off) / room + u * np.abs(weight),
                         np.inf)
    return np.where(room > 0, weight, 0.0), np.where(reached | (room <= 0), limit, 0.0)
