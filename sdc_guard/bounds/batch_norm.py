"""Batch norm: moments of a channel in two passes, and the gradients with given moments.

*Moments* of n elements of a channel, each row of the arrays here; ATen's CPU kernels
(``batch_norm_kernel.cpp``) add the elements, divide, and add the squared deviations from that mean:

    |m^ - m| <= gamma_{n+1}(v) A + u |m| + eta,                      A = mean|x|,
    S^ = sum (x - m^)^2,  |S^ - S| <= n E^2 + (gamma_{n+3}(v) + 3 w)(S + n E^2) + 2 n eta,

with E the error of the mean that the second pass uses, *stored* (a half format keeps mean and sum
of squares in its own format: one more rounding each), v the unit roundoff of the additions and w
that of a term.  ``sum (x - m^)^2 = S + n (m - m^)^2`` is exact, so no term in E alone appears.
``r = (S / n + eps)^{-1/2}`` lies between its values at ``S / n + eps +-`` that error, 4 roundings.

The additions are made in double for contiguous fp32 (``acc_type<float>`` on a CPU is double), in
fp32 else: the *contract* uses the one, the *proof* always the other.

*Normalised values* are :func:`sdc_guard.bounds.norms.forward_error` with the bias added, and
the *running* statistics ``momentum s + (1 - momentum) old`` err by momentum times the error of s
and 4 roundings.

*Gradients* with the given m and r, ``q = sum (x - m) dy``, ``k = q r^2 / n``:

    dx = (dy - mean(dy) - (x - m) k) r w,     dw = q r,     db = sum dy,

by running error analysis (:mod:`sdc_guard.bounds.tracked`) from ``|q^ - q| <= (gamma_H + 3 u)
sum|x - m||dy| + 2 n eta`` and ``gamma_H sum|dy|``, H the depth of the sums; in evaluation
``dx = dy r w``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdc_guard.bounds.gamma import gamma, rounding
from sdc_guard.bounds.norms import Moments
from sdc_guard.bounds.tracked import Tracked
from sdc_guard.formats import FLOAT64, Format

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Channel:
    """Mean, variance (biased), reciprocal deviation [C, 1], and their error limits as stored."""

    moments: Moments
    var: Array
    var_error: Array


def two_pass(
    x_CN: Array, eps: float, sums: Format, terms: Format, stats: Format
) -> Channel:
    """Moments of each row.

    Args:
        x_CN: elements of each channel.
        eps: added to the variance.
        sums: format of the additions.
        terms: format of one squared deviation and of the scalars after it.
        stats: format in which mean and sum of squares are stored.
    """
    n = x_CN.shape[-1]
    add = gamma(n + 1, sums.u) + gamma(n + 1, FLOAT64.u)
    mean = x_CN.mean(-1, keepdims=True)
    deviation = x_CN - mean
    squares = (deviation * deviation).sum(-1, keepdims=True)
    size = np.abs(x_CN).mean(-1, keepdims=True)
    mean_error = add * size + terms.u * np.abs(mean) + terms.eta
    mean_error = mean_error + rounding(np.abs(mean) + mean_error, stats)
    shifted = n * mean_error**2
    many = gamma(n + 3, sums.u) + gamma(n + 3, FLOAT64.u) + 3 * terms.u
    error = shifted + many * (squares + shifted) + 2 * n * terms.eta
    error = error + rounding(squares + error, stats)
    var = squares / n
    coarser = max(terms, stats, key=lambda f: f.u)
    var_error = error / n + coarser.u * (squares + error) / n + max(terms.eta, stats.eta)
    rstd, rstd_error = reciprocal_root(var, var_error, eps, terms)
    rstd_error = rstd_error + rounding(rstd + rstd_error, stats)
    return Channel(Moments(mean, rstd, mean_error, rstd_error), var, var_error)


def reciprocal_root(var: Array, var_error: Array, eps: float, fmt: Format) -> tuple[Array, Array]:
    """``(var + eps)^{-1/2}`` and its error limit; infinite where the deviation may be 0."""
    slack = var_error + (fmt.u + FLOAT64.u) * (eps + var)
    with np.errstate(all="ignore"):
        rstd = 1 / np.sqrt(var + eps)
        highest = 1 / np.sqrt(np.maximum(var + eps - slack, 0.0))
        lowest = 1 / np.sqrt(var + eps + slack)
        error = np.maximum(highest - rstd, rstd - lowest) + 4 * (fmt.u + FLOAT64.u) * highest
    return rstd, np.asarray(error)


def running_error(error: Array, new: Array, old: Array, momentum: float, fmt: Format) -> Array:
    """Limit on ``momentum new + (1 - momentum) old`` where ``new`` is off by ``error``."""
    size = abs(momentum) * (np.abs(new) + error) + abs(1 - momentum) * np.abs(old)
    return np.asarray(abs(momentum) * error + 4 * (fmt.u + FLOAT64.u) * size + 4 * fmt.eta)


@dataclass(frozen=True, slots=True)
class Gradients:
    """Gradients of a channel with their error limits before they are stored: rows are channels."""

    x: Tracked
    weight: Tracked
    bias: Tracked
    magnitude: Array


def gradients(
    grad_CN: Array, x_CN: Array, mean: Array, rstd: Tracked, weight: Array, depth: int,
    sums: Format, fmt: Format, *, training: bool,
) -> Gradients:
    """See the module's docstring; ``sums`` is the format of the additions, ``fmt`` of the rest."""
    n = x_CN.shape[-1]
    centred = x_CN - mean
    dot = (centred * grad_CN).sum(-1, keepdims=True)
    size = (np.abs(centred) * np.abs(grad_CN)).sum(-1, keepdims=True)
    abs_sum = np.abs(grad_CN).sum(-1, keepdims=True)
    add = gamma(depth, sums.u) + gamma(n, FLOAT64.u)
    # The sums are rounded to the format of the scalars where that is narrower.
    q = Tracked(dot, (add + 4 * fmt.u) * size + 2 * n * fmt.eta, fmt)
    total = grad_CN.sum(-1, keepdims=True)
    s = Tracked(total, (add + fmt.u) * abs_sum + n * fmt.eta, fmt)
    grad, w = Tracked.exact(grad_CN, fmt), Tracked.exact(weight, fmt)
    magnitude = abs_sum + size * (1 + np.abs(rstd.value) + rstd.value**2)
    if training:
        count = Tracked.exact(np.asarray(float(n)), fmt)
        k = q * rstd * rstd / count
        shift = (Tracked.exact(x_CN, fmt) - Tracked.exact(mean, fmt)) * k
        inner = grad - s / count - shift
        magnitude = magnitude + np.abs(shift.value).max(-1, keepdims=True, initial=0.0)
    else:
        inner = grad
    return Gradients(inner * rstd * w, q * rstd, s, magnitude)
