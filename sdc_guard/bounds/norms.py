"""Moments and layer norm over the last axis of n elements.

*Moments.*  With ``h`` the depth in which a kernel merges its partial means,

    |mean^ - mean| <= 2 h u mean|x| + u t max|x|,
    |var^ - var|   <= 3 h u (s R + var) + (2 h u R)^2,      s^2 = var,  R^2 = mean x^2,

the error of an updating (Welford) or pairwise algorithm: a mean that is off by e enters the squared
deviations as ``2 s e``, and ``e^2`` once (Chan, Golub and LeVeque 1983, table 1: ``n u kappa`` with
``kappa = R / s``).  ``t = 1`` where elements are left over after the vectors: the kernel starts
from those few and steps from their mean to that of the vectors, which cancels; else 0.  ATen's
``RowwiseMoments`` (``moments_utils.h``) merges chunks of 16, a binary tree of chunks, then the
lanes:
``h = 16 + ceil(log2(n)) + 16 lanes``, at most n.  The *proof* form uses ``gamma_n`` for the mean
and the
textbook formula ``mean x^2 - mean^2`` for the variance, the worst in use: ``4 (n + 4) u R^2``.

*Forward.*  ``y = (x - m) r g + b`` with ``r = (var + eps)^{-1/2}``.  ``r^`` lies between the
values at
``var + eps +- (the error above + u eps)``, and 4 roundings; ``|r^ - r| <= D_r``.  ATen evaluates
``x r - m r``, whose two products are rounded one by one, so

    |y^ - y| <= |g| (|x - m| D_r + (r + D_r) (D_m + 3 u (|x| + |m|))) + 2 u (|y| + |g (x - m) r|).

*Backward*, with the given m and r, ``z = (x - m) r`` and ``N`` rows:

    dx = r (dy g - mean(dy g) - z mean(dy g z)),    dg = sum_rows dy z,    db = sum_rows dy.

ATen computes ``D = sum dy g``, ``S = sum dy g x`` and ``beta = (D m - S) r^3 / n``, then
``dx = r dy g + beta x - beta m - D r / n``.  Sums have depth h, products are rounded once each:

    D_beta <= r^3 / n (h + 5) u (|m| sum|dy g| + sum|dy g x|)
    |dx^ - dx| <= D_beta |x - m| + 6 u |beta| (|x| + |m|) + (r / n)(h + 4) u sum|dy g|
                  + 8 u r |dy g|,
    |dg^ - dg| <= (H + 4) u sum_rows |dy| r (|x| + |m|),   |db^ - db| <= H u sum_rows |dy|

with the depth H of the sum over rows: ATen adds them one after the other in each thread.  (``r dy
g`` takes four roundings on a CPU; CUDA's order of factors makes up to seven.)
A product that underflows is off by ``eta`` at most: 2 n of them enter S, one more each of ``a x``,
``a m`` and ``beta``; in ``dg`` and ``db`` one per row, where eta is that of the sum's format.
Every ``u`` is the accumulator's plus 2^-53 for our own evaluation by the same formulas.

*RMS norm* (Zhang and Sennrich 2019) has no mean: ``q = mean x^2``, ``r = (q + eps)^{-1/2}``,
``y = x r g``.  Kernels sum squares, in depth h + 2, or add the square of the mean to an updated
variance (``RowwiseMomentsCUDAKernel``).  The latter is worse: ``s, |m|, mean|x| <= R`` and the
errors of variance and mean above give

    |q^ - q| <= 3 h u (s R + var) + (2 h u R)^2 + 2 |m| D_m + D_m^2 + 2 u q
             <= (10 h + 2) u q + 8 (h u)^2 q,                          q = R^2,

h also the depth of CUDA's updates: ``n / 512 + 10`` in a block of 512 threads, a fourth of the
threads where it sums squares, which is covered by the factor 10.  ``y`` is the forward above with
``m = D_m = 0``, and ``eta`` for a product ``x r`` that underflows.

Its gradients are those above without the mean.  CUDA: ``(n a - x r S) (1 / n) r``, ``a = dy g``,
``S = sum a x r``; ``torch._decomp``: ``(a - (x r / n) S) r``.  In both, a term of S has at most 3
roundings, what is made of S at most 6, what is made of a at most 6, of which we allow 8:

    |dx^ - dx| <= (h + 5) u r^3 |x| / n sum|a x| + 6 u |beta| |x| + 8 u r |a| + eta (...),

``beta = r^3 / n sum a x``.  With ``Q = sum|x|`` an underflow of an ``a`` costs ``r^3 |x| Q / n``
besides ``r``, one of ``a x`` in S ``n`` times ``r^2 |x| (1 + r) / n``, one of ``x r`` or its
multiples ``r (1 + r) sum|a x| / n``; all of them are less than
``eta 4 (1 + r)^3 (1 + |x|) (1 + (Q + sum|a x|) / n)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CHUNK = 16
LANES = 16
WIDEST = 32
"""Elements of the widest vector: 64 bytes of a half format."""
THREADS = 64
UPDATING_THREADS = 512


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean, variance and reciprocal deviation of each row (last axis kept with size 1), and the
    limits on the errors of the first and the last."""

    mean: Array
    rstd: Array
    mean_error: Array
    rstd_error: Array


def merge_depth(n: int) -> int:
    """Depth h of ``RowwiseMoments`` for n elements."""
    return min(n, CHUNK + math.ceil(math.log2(max(n, 2))) + LANES)


def row_depth(num_rows: int) -> int:
    """Depth of a sum over rows: one thread may have them all."""
    return num_rows + THREADS


def is_any(deviation: Array, mean_error: Array, weight: Array) -> Array:
    """Where an infinite weight meets a deviation that may be 0 or of either sign: the product may
    be NaN or either infinity."""
    return np.asarray(np.isinf(weight) & (np.abs(deviation) <= mean_error))


def moments(x: Array, eps: float, u: float, eta: float, *, proof: bool) -> Moments:
    """Moments of the last axis with their error limits; ``proof`` chooses the generous form.

    ``eta`` is the spacing of subnormals: each of the n terms of a mean, and each of its merges, may
    lose as much, and so may each square.
    """
    n = x.shape[-1]
    mean = x.mean(-1, keepdims=True)
    deviation = x - mean
    var = (deviation * deviation).mean(-1, keepdims=True)
    abs_mean = np.abs(x).mean(-1, keepdims=True)
    square = var + mean * mean
    if proof:
        mean_error = 2 * (n + 4) * u * abs_mean
        var_error = 4 * (n + 4) * u * square
    else:
        h = merge_depth(n)
        mean_error = 2 * h * u * abs_mean
        if n % WIDEST:
            mean_error = mean_error + u * np.abs(x).max(-1, keepdims=True)
        var_error = 3 * h * u * (np.sqrt(var * square) + var) + (2 * h * u) ** 2 * square
    mean_error = mean_error + 2 * (n + 4) * eta
    var_error = var_error + 2 * (n + 4) * eta * (1 + abs_mean)
    rstd, rstd_error = _reciprocal_root(var, var_error, eps, u)
    return Moments(mean, rstd, mean_error, rstd_error)


def square_depth(n: int) -> int:
    """Depth h of an update of mean and variance, on a CPU and on CUDA."""
    return min(n, max(merge_depth(n), math.ceil(n / UPDATING_THREADS) + 10))


def square_roundings(depth: float, u: float) -> float:
    """Relative error of a mean of squares whose updates have some depth."""
    return (10 * depth + 2) * u + 8 * (depth * u) ** 2


def root_mean_square(x: Array, eps: float, u: float, eta: float, *, proof: bool) -> Moments:
    """Reciprocal roots of ``mean x^2 + eps`` with their error limits, beside a mean of zero;
    ``proof`` chooses the depth of any order."""
    n = x.shape[-1]
    square = (x * x).mean(-1, keepdims=True)
    depth = n + 4 if proof else square_depth(n)
    lost = 2 * (n + 4) * eta * (1 + np.abs(x).mean(-1, keepdims=True))
    rstd, rstd_error = _reciprocal_root(square, square_roundings(depth, u) * square + lost, eps, u)
    zero = np.zeros_like(square)
    return Moments(zero, rstd, zero, rstd_error)


def _reciprocal_root(
    square: Array, error: Array, eps: float, u: float
) -> tuple[Array, Array]:
    """``(square + eps)^{-1/2}`` and the limit on its error."""
    slack = error + u * (eps + square)
    with np.errstate(divide="ignore"):  # a deviation within its error of zero: no limit
        rstd = 1 / np.sqrt(square + eps)
        highest = 1 / np.sqrt(np.maximum(square + eps - slack, 0.0))
        lowest = 1 / np.sqrt(square + eps + slack)
    return rstd, np.maximum(highest - rstd, rstd - lowest) + 4 * u * highest


def forward_error(
    x: Array, m: Moments, weight: Array | float, y: Array, u: float
) -> Array:
    """Limit on ``|y^ - y|`` before the result is rounded to its format."""
    deviation = np.abs(x - m.mean)
    inner = deviation * m.rstd_error + (m.rstd + m.rstd_error) * (
        m.mean_error + 3 * u * (np.abs(x) + np.abs(m.mean)))
    g = np.abs(weight)
    return np.asarray(g * inner + 2 * u * (np.abs(y) + g * deviation * m.rstd))


def out_of_range(
    x: Array, largest: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Rows (last axis kept with size 1) in whose mean, and in whose variance, an intermediate may
    overflow: a sum or a difference of two elements, and the sum of squared differences."""
    size = np.abs(x)
    linear = size.sum(-1, keepdims=True) + 2 * size.max(-1, keepdims=True)
    squares = 4 * (x * x).sum(-1, keepdims=True)
    return np.asarray(~(linear < largest)), np.asarray(~(squares < largest))


def input_gradient_error(
    grad: Array, x: Array, mean: Array, rstd: Array, depth: float, u: float, eta: float
) -> Array:
    """Limit on ``|dx^ - dx|`` before rounding; ``grad`` is ``dy g``."""
    n = x.shape[-1]
    abs_grad = np.abs(grad)
    abs_x, abs_mean = np.abs(x), np.abs(mean)
    abs_sum = abs_grad.sum(-1, keepdims=True)
    cubed = np.abs(rstd) ** 3 / n
    moment = abs_mean * abs_sum + (abs_grad * abs_x).sum(-1, keepdims=True)
    beta = cubed * np.abs((grad * (x - mean)).sum(-1, keepdims=True))
    beta_error = cubed * ((depth + 5) * u * moment + 2 * n * eta * (1 + abs_mean))
    beta_error = beta_error + eta * (1 + np.abs(rstd)) ** 3
    r = np.abs(rstd)
    return np.asarray(
        beta_error * np.abs(x - mean)
        + 6 * u * (beta + beta_error) * (abs_x + abs_mean)
        + eta * (abs_x + abs_mean)
        + r / n * ((depth + 4) * u * abs_sum + 2 * n * eta)
        + 8 * u * r * abs_grad
    )


def input_gradient_size(grad: Array, x: Array, mean: Array, rstd: Array) -> Array:
    """The largest intermediate of ``dx``: ``r^3``, ``D``, ``S``, ``beta (|x| + |m|)`` and what they
    are made of; ``grad`` is ``dy g``, or ``dy`` where a kernel multiplies by g later."""
    abs_grad, abs_x, abs_mean = np.abs(grad), np.abs(x), np.abs(mean)
    total = abs_grad.sum(-1, keepdims=True)
    moment = (abs_grad * abs_x).sum(-1, keepdims=True) + total * (1 + abs_mean)
    cubed = (1 + np.abs(rstd)) ** 3
    return np.asarray(cubed * (1 + moment * (1 + (abs_x + abs_mean) / x.shape[-1])))


def weight_gradient_error(
    grad: Array, x: Array, mean: Array, rstd: Array, depth: float, u: float, eta: float
) -> Array:
    """Limit on ``|dg^ - dg|`` before rounding: rows are the first axis."""
    abs_grad = np.abs(grad)
    size = abs_grad * np.abs(rstd) * (np.abs(x) + np.abs(mean))
    return np.asarray((depth + 4) * u * size.sum(0) + eta * (2 * abs_grad.sum(0) + depth))


def rms_input_gradient_error(
    grad: Array, x: Array, rstd: Array, depth: float, u: float, eta: float
) -> Array:
    """Limit on ``|dx^ - dx|`` of an RMS norm before rounding; ``grad`` is ``dy g``."""
    n = x.shape[-1]
    r, abs_x = np.abs(rstd), np.abs(x)
    moment = np.abs(grad * x).sum(-1, keepdims=True)
    cubed = r**3 / n
    beta = cubed * np.abs((grad * x).sum(-1, keepdims=True))
    beta_error = cubed * (depth + 5) * u * moment
    lost = (1 + r) ** 3 * (1 + (abs_x.sum(-1, keepdims=True) + moment) / n)
    return np.asarray((beta_error + 6 * u * (beta + beta_error)) * abs_x
                      + 8 * u * r * np.abs(grad) + 4 * eta * lost * (1 + abs_x))


def rms_input_gradient_size(grad: Array, x: Array, rstd: Array) -> Array:
    """The largest intermediate of an RMS norm's ``dx``: ``r^3``, ``n a``, S, ``n x r S``."""
    n, r = x.shape[-1], 1 + np.abs(rstd)
    moment = np.abs(grad * x).sum(-1, keepdims=True)
    return np.asarray(r**3 * (1 + moment) * (1 + np.abs(x)) + n * r * np.abs(grad))


def bias_gradient_error(grad: Array, depth: float, u: float, eta: float) -> Array:
    """Limit on ``|db^ - db|`` before rounding: rows are the first axis."""
    return np.asarray(depth * (u * np.abs(grad).sum(0) + eta))
