"""Rounding errors of complex arithmetic, as limits on the modulus of the error.

u is the unit roundoff of the parts, ``gamma_n`` that of Higham (2002), section 3.1; fused
multiply-add drops roundings and keeps every bound.

*Sum.*  Each part is rounded once: ``|err| <= u |x + y|``.

*Product* ``(a + bi)(c + di)``.  The real part errs by at most ``gamma_2 (|ac| + |bd|)``, the
imaginary by ``gamma_2 (|ad| + |bc|)``; both sums are at most ``|x| |y|`` (Cauchy and Schwarz), so
``|err| <= sqrt(2) gamma_2 |x y|`` (Higham 2002, lemma 3.5).  No intermediate exceeds ``|x| |y|``.

*Quotient.*  Every evaluation in use multiplies x by the conjugate of y, scaled or not, and divides
by ``|y|^2``, scaled alike; a scale counts as exact, because numerator and denominator have the same
one.  Each term of a numerator has at most as many roundings as

    y conj / |y|^2 unscaled           1 product, 1 sum;  denominator 2;  division 1          5
    both operands scaled first        2 + 1 + 1;         2 + 2;          1                   9
    Smith: r = d / c, (a + b r) / (c + d r), by a product with 1 / (c + d r)   3;  3 + 1;  1  8
    1 / y by any of these, then a product                                    9 + 2          11

and the denominator, a sum of two terms of one sign, has a relative error of no more.  The moduli of
the terms of either part add up to at most ``|x| |y|``, so ``|err| <= sqrt(2) gamma_12 |x / y|``.

*Modulus.*  ``sqrt(a^2 + b^2)`` has a relative error of ``gamma_2 / 2`` and a rounding, a scaled one
two roundings more: ``gamma_4``.

Underflow: each product is off by ``eta / 2`` more.  Where ``|y|^2`` leaves the range of normal
numbers (or comes within 1/u of their smallest) the evaluations differ, and there is no limit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc_guard.bounds.gamma import gamma
from sdc_guard.formats import FLOAT64, Format

Array = NDArray[Any]

ROOT2 = math.sqrt(2.0) * (1 + 2.0**-50)
QUOTIENT = 12


def relative(num_roundings: int, fmt: Format) -> float:
    """``sqrt(2) gamma_n`` of the format and of our own float64 evaluation."""
    return ROOT2 * (gamma(num_roundings, fmt.u) + gamma(num_roundings, FLOAT64.u))


def product_error(size: Array, fmt: Format) -> Array:
    """The limit for a product of modulus at most ``size``."""
    return np.asarray(relative(2, fmt) * size + 4 * fmt.eta)


def quotient_error(x_size: Array, y_size: Array, fmt: Format) -> Array:
    """The limit for a quotient of numbers of these moduli; infinite where evaluations differ.

    An underflow is off by eta: of a scaled operand or a product beside a denominator of at least
    1, of an unscaled one divided by ``|y|^2``, of a ratio ``d / c`` times ``|x| / |y|``.
    """
    square = y_size * y_size
    low, high = fmt.tiny / fmt.u, fmt.max / 4
    safe = (square >= low) & (square <= high) & (x_size * y_size <= high) & (x_size <= high)
    with np.errstate(all="ignore"):
        lost = 8 * fmt.eta * (1 + (1 + x_size) * (1 / y_size + 1 / square))
        limit = relative(QUOTIENT, fmt) * (x_size / y_size) + lost
    return np.asarray(np.where(safe, limit, np.inf))


def modulus_error(size: Array, fmt: Format) -> Array:
    """The limit for ``|z|``; infinite where ``|z|^2`` leaves the range of normal numbers."""
    square = size * size
    safe = (square >= fmt.tiny / fmt.u) & (square <= fmt.max / 4)
    limit = (gamma(4, fmt.u) + gamma(4, FLOAT64.u)) * size
    return np.asarray(np.where(safe, limit, np.where(size == 0, 0.0, np.inf)))
