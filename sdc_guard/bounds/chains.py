"""Products of many factors, and sums of logarithms, in any order.

*Product.*  n factors multiplied in any order err by at most ``gamma_{n-1} |P|`` (Higham 2002, lemma
3.1) as long as no partial product leaves the normal range.  Every partial product of some order is
a product of a subset, hence between ``low = prod min(1, |x|)`` and ``high = prod max(1, |x|)``
(factors 0 left out).  Where ``high`` overflows or ``low`` underflows the order decides, so there is
no limit; with a factor 0 and no overflow the product is 0.  ``low`` and ``high`` are kept as
logarithms to base 2, each of n terms with a relative error below ``2^-50``, which a margin of one
binade covers for n up to 2^40.

*Logarithm of a sum of exponentials.*  ``logaddexp(a, b) = m + log1p(exp(-|a - b|))`` is a smooth
maximum: an error of one argument is passed on with a weight between 0 and 1.  One step errs by at
most ``u (|result| + 1) + 3 phi`` for functions right to a relative phi, because ``log1p(e^-d) <=
log 2`` and ``d e^-d <= 1``; n steps on a path by n times that with ``|result| <= max|x| + log n``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc_guard.bounds.gamma import gamma
from sdc_guard.bounds.softmax import sum_error, term_error
from sdc_guard.formats import Format

Array = NDArray[Any]


def binades(x: Array) -> tuple[Array, Array]:
    """``log2 min(1, |x|)`` and ``log2 max(1, |x|)``, 0 for a factor 0; NaN stays NaN."""
    with np.errstate(all="ignore"):
        size = np.abs(x)
        exponent = np.log2(np.where(size == 0, 1.0, size))
    return np.minimum(exponent, 0.0), np.maximum(exponent, 0.0)


def in_range(low: Array, high: Array, fmt: Format) -> tuple[Array, Array]:
    """Whether no partial product can underflow, and none can overflow, in the format; false for
    NaN."""
    room = 1.0
    return np.asarray(low >= fmt.emin + room), np.asarray(high <= fmt.emax - room)


def product_error(
    n: Any, value: Array, low: Array, high: Array, has_zero: Array, fmt: Format
) -> Array:
    """The limit on ``|computed - P|``: 0 with a factor 0, infinite where the order decides.

    Args:
        n: number of factors, broadcastable.
        value: the product.
        low, high: sums of :func:`binades` over the factors.
        has_zero: where a factor is 0.
        fmt: of the partial products.
    """
    normal, finite = in_range(low, high, fmt)
    counts = np.asarray(n, dtype=np.float64)
    with np.errstate(all="ignore"):
        growth = np.where(counts * fmt.u < 1, counts * fmt.u / (1 - counts * fmt.u), np.inf)
        limit = np.where(normal, growth * (1 + 2.0**-50) * np.abs(value), np.inf)
    return np.asarray(np.where(finite, np.where(has_zero, 0.0, limit), np.inf))


def log_add_error(steps: Any, largest: Array, u: float, phi: float) -> Array:
    """The limit for ``steps`` additions of exponentials on a path, arguments up to ``largest``."""
    counts = np.asarray(steps, dtype=np.float64)
    each = u * (largest + np.log(np.maximum(counts, 1)) + 1) + 3 * phi
    return np.asarray(counts * each * (1 + gamma(4, u)))


def log_sum_exp_error(
    distance: Array, terms: Array, total: Array, depth: int, u: float, phi: float, v: float,
    flushed: float,
) -> Array:
    """The limit on ``log sum exp(d_i)``, of which every step is stored with roundoff ``v``.

    A stored ``d_i`` gives a term off by ``r_i`` (:func:`sdc_guard.bounds.softmax.term_error`), an
    underflow by ``flushed``; the sum of depth h errs by ``h u`` more and is stored, twice where
    threads each keep a part; the logarithm turns the relative error r of the sum into ``-log(1 -
    r)`` and adds ``(phi + v) |log S|``.  Last axis summed and kept.
    """
    errors = term_error(distance, v, phi + v) + flushed / np.maximum(terms, flushed)
    relative = sum_error(terms, errors, total, depth, u)
    relative = np.minimum(relative * (1 + 2 * v) + 2 * v + v * v, 1 - 2.0**-20)
    return np.asarray(-np.log1p(-relative) + (phi + v) * np.abs(np.log(total)))
