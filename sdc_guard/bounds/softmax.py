"""Softmax, log-softmax and their gradients along the last axis.

Let ``d_i = x_i - max x``, ``e_i = exp(d_i)``, ``S = sum e``.  Premise, not a theorem: an
exponential or
a logarithm errs by at most a relative ``phi`` (:func:`exp_contract`, :func:`exp_proof`).  A term is
computed as ``exp(d_i (1 + u)) (1 + phi)``, so its relative error is at most

    r_i = e^{u |d_i|} (1 + phi) - 1,

and that of the sum, in a tree of depth h, ``r_S = (sum e_i r_i / S)(1 + h u) + h u``.  Hence

    |p_i - e_i / S|   <= p_i ((1 + r_i)(1 + 3 u) / (1 - r_S) - 1) + 2 tiny          (softmax)
    |l_i - d_i + log S| <= u |d_i| - log1p(-r_S) + (phi + v) |log S| + v + u |l_i|   (log-softmax)

where the three roundings are the reciprocal, the product and their inflation, ``tiny`` stands for
exponentials that are flushed to zero, and ``v`` is the roundoff of a storage format in which the
sum and its logarithm are kept between two steps (ATen's CPU log-softmax keeps them in the dtype of
the input; ``v = 0`` for none).

The gradients are ``y_i (g_i - T)`` with ``T = sum g y``, and ``g_i - exp(y_i) G`` with ``G = sum
g``:

    |y_i| (h' u sum|g y| + v |T| + 3 u (|g_i| + |T|)),    e^{y_i} (h u sum|g| + (v + phi + 3 u)
    |G|) + u |.|

with ``h' = h + 1``.  The reference makes the same errors with u = 2^-53, phi far below ours: every
``u`` passed in is the sum of the accumulator's and of 2^-53.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc_guard.bounds.elementwise import ELEMENTARY_ULPS
from sdc_guard.formats import FLOAT64, Format

Array = NDArray[np.float64]

LARGEST_GROWTH = 1e300
"""Relative errors are cut here: the term that carries one is exactly zero in float64."""


def with_reference(acc: Format) -> float:
    """``u`` of the accumulator plus that of our own float64 evaluation of the same formula."""
    return acc.u + FLOAT64.u


def exp_contract(acc: Format) -> float:
    """``phi`` by the libraries' documentation: 4 ulp of the format that is computed in."""
    return 2 * ELEMENTARY_ULPS * with_reference(acc)


def exp_proof(acc: Format) -> float:
    """``phi`` by the premise of :mod:`bounds.elementwise`: right to half the significand."""
    return float(2.0 ** (-acc.precision / 2))


def growth(exponent: NDArray[Any]) -> Array:
    """An upper bound of ``e^x - 1`` for x >= 0: ``x + x^2`` up to 1 (and the function beyond)."""
    with np.errstate(over="ignore", invalid="ignore"):
        small = exponent + exponent * exponent
        if exponent.size and not float(np.max(exponent, initial=0.0)) <= 1.0:
            small = np.where(exponent <= 1.0, small, np.expm1(exponent))
        return np.asarray(np.minimum(small, LARGEST_GROWTH))


def term_error(distance: Array, u: float, phi: float) -> Array:
    """``r_i`` for distances ``|d_i|`` from the maximum."""
    r = growth(u * distance)
    return np.asarray(r + phi * (1 + r))


def sum_error(terms: Array, term_errors: Array, total: Array, depth: float, u: float) -> Array:
    """``r_S``, kept below 1: beyond, the sum is not known at all."""
    weighted = (terms * term_errors).sum(-1, keepdims=True) / total
    return np.asarray(np.minimum(weighted * (1 + depth * u) + depth * u, 1 - 2.0**-20))


def softmax_error(
    distance: Array, terms: Array, total: Array, depth: float, u: float, phi: float, tiny: float
) -> Array:
    """Limit on ``|p_i - e_i / S|`` before the result is rounded.

    Args:
        distance: ``|d_i|``.
        terms: ``e_i``.
        total: ``S``, last axis kept with size 1.
    """
    r = term_error(distance, u, phi)
    r_sum = sum_error(terms, r, total, depth, u)
    relative = ((1 + r) * (1 + 4 * u) - (1 - r_sum)) / (1 - r_sum)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(terms / total * relative + 2 * tiny)


def log_softmax_error(
    distance: Array, terms: Array, total: Array, depth: float, u: float, phi: float, v: float
) -> Array:
    """Limit on ``|l_i - (d_i - log S)|`` before the result is rounded to its format."""
    r_sum = sum_error(terms, term_error(distance, u, phi), total, depth, u)
    log_total = np.log(total)
    shared = -np.log1p(-r_sum) + (phi + v) * np.abs(log_total) + v * (1 + v)
    return np.asarray((u * distance + shared) * (1 + 4 * u) + u * np.abs(distance + log_total))


def softmax_gradient_error(
    grad: Array, output: Array, depth: float, u: float, v: float
) -> Array:
    """Limit on ``|y (g - sum g y)|``'s error before the result is rounded."""
    product = grad * output
    total = np.abs(product.sum(-1, keepdims=True))
    abs_total = np.abs(product).sum(-1, keepdims=True)
    inner = (depth + 1) * u * abs_total + v * total + 3 * u * (np.abs(grad) + total)
    return np.asarray(np.abs(output) * inner * (1 + 4 * u + v))


def log_softmax_gradient_error(
    grad: Array, exp_output: Array, depth: float, u: float, phi: float, v: float
) -> Array:
    """Limit on the error of ``g - exp(y) sum g`` before the result is rounded to its format."""
    total = np.abs(grad.sum(-1, keepdims=True))
    abs_total = np.abs(grad).sum(-1, keepdims=True)
    inner = exp_output * (depth * u * abs_total + (v + phi + 3 * u) * total)
    return np.asarray((inner + 2 * u * (np.abs(grad) + exp_output * total)) * (1 + 4 * u + v))
