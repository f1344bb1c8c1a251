"""GELU and its backward, exact (``erf``) and ``tanh`` forms.

Bounds.  u is the roundoff of the computing format, e = 8 u the error of an elementary function (4
ulps).  Write ``G(z) = |z erf'(z)|`` and ``T(z) = |z tanh'(z)|`` for the change of a function by a
relative change of its argument.

*erf form*, ``y = x/2 (1 + erf(x/sqrt 2))``: the argument errs by 2u relatively (constant, product),
so

    |err(cdf)| <= 1/2 [2u G(z) + 16u + u (1 + erf z)] + u cdf,

where 16u is the absolute error of the worst ``erf`` in use: oneDNN's (CPU, fp32) is the formula of
Abramowitz and Stegun 7.1.26, within 1.5e-7 = 2.5u, evaluated in fp32 with terms up to 1.5; 9.4u was
seen for a transposed operand and 11.7u for a contiguous one.  Then y errs by ``|x|`` of that and
two roundings of y.  For negative x the sum cancels: the error is of the size of ``u |x|``, not of
``u |y|``.

*tanh form*, ``z = b (x + k x^3)``: both terms have the sign of x, so z errs by 7u relatively, and
``err(tanh) <= 7u T(z) + e |tanh z|``, 0 where ``1 - |tanh z| < u/8`` (a premise: implementations
return 1 there).

Backward, ``g (cdf + x pdf)``: pdf errs by ``(3u x^2/2 + e + 2u) pdf``.  Backward of the tanh form,
``g [(1 + t)/2 + x/2 (1 - t^2) z']``: ``1 - t^2`` errs by ``2 |t| err(t) + u t^2 + u (1 - t^2)``.

Kernels that use ``erfc`` or evaluate the pieces in another order stay inside: every piece is
bounded by its largest form.  The proof limit doubles nothing; it is half the significand of the
largest intermediate, the premise of :mod:`sdc_guard.bounds.elementwise`.

Place: the vector body and the scalar tail differ by ulps
(``aten/src/ATen/native/cpu/Activation.cpp``), and oneDNN takes another path for operands that are
not contiguous, so that those have no relation that is known to hold but the negated gradient.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from sdc_guard.bounds.elementwise import ELEMENTARY_ULPS
from sdc_guard.bounds.gamma import own_rounding
from sdc_guard.bounds.special import erf
from sdc_guard.formats import Format
from sdc_guard.ops._pointwise import Array, Computed, bounded
from sdc_guard.ops._registry import HostCall

aten = torch.ops.aten

BETA = math.sqrt(2 / math.pi)
KAPPA = 0.044715
OWN_ROUNDINGS = 40

ERF_ERROR = 16.0
"""Absolute error of ``erf`` in units of u, see above."""


def finish(expected: Array, error: Array, size: Array, compute: Format, out: Format) -> Computed:
    """Add the reference's own error and the underflow of a few intermediates, which code for half
    formats flushes to 0 (seen: below 2 tiny)."""
    own = own_rounding(OWN_ROUNDINGS, size)
    contract = error * (1 + 2.0**-10) + 16 * (compute.eta if compute is out else compute.tiny) + own
    proof = 2.0 ** (-compute.precision / 2) * size + 2 * compute.tiny + own
    # x (1 + erf) / 2 may double x before it halves.
    return Computed(expected, contract, np.maximum(proof, contract), 2 * size)


def _cdf(x: Array, u: float) -> tuple[Array, Array]:
    """The normal distribution function and its error."""
    z = x / math.sqrt(2)
    value = erf(z)
    slope = 2 / math.sqrt(math.pi) * np.abs(z) * np.exp(-z * z)
    cdf = 0.5 * (1 + value)
    error = 0.5 * (2 * u * slope + ERF_ERROR * u + u * (1 + value))
    return cdf, error + u * cdf


def _tanh(x: Array, u: float) -> tuple[Array, Array, Array]:
    """``tanh(b (x + k x^3))``, ``1 - tanh^2`` without cancellation, and the error of the first."""
    z = BETA * (x + KAPPA * x**3)
    t = np.tanh(z)
    decay = np.exp(-2 * np.abs(z))
    square = 4 * decay / (1 + decay) ** 2
    slope = np.where(decay == 0, 0.0, np.abs(np.where(decay == 0, 0.0, z)) * square)
    error = 7 * u * slope + 2 * ELEMENTARY_ULPS * u * np.abs(t)
    return t, square, np.where(2 * decay < u / 8, 0.0, error)


@bounded(aten.gelu, formula="|x| err(cdf) + 2u |y|, derived in the docstring", tail_sensitive=True,
         layout_sensitive=True)
def gelu(call: HostCall, compute: Format) -> Computed:
    """``x cdf(x)`` of the standard normal distribution, or its tanh approximation."""
    x, u = call.array("self"), compute.u
    if call["approximate"] == "none":
        cdf, error = _cdf(x, u)
    else:
        t, square, error_t = _tanh(x, u)
        # (1 + t)/2 for t near -1, from 1 - t^2 = (1 - t)(1 + t).
        cdf = np.where(t < 0, square / (2 * (1 - t)), 0.5 * (1 + t))
        error = 0.5 * (error_t + u * (1 + t)) + u * cdf
    size = np.abs(x)
    expected = np.where(x == -np.inf, np.nan, x * cdf)
    error = size * error + 3 * u * np.abs(expected)
    return finish(expected, error, size, compute, call.out_format())


@bounded(aten.gelu_backward, formula="|g| err(cdf + x pdf), derived in the docstring",
         odd=("grad_output",), tail_sensitive=True, layout_sensitive=True)
def gelu_backward(call: HostCall, compute: Format) -> Computed:
    """``g (cdf + x pdf)``, or the derivative of the tanh approximation."""
    g, x, u = call.array("grad_output"), call.array("self"), compute.u
    if call["approximate"] == "none":
        cdf, error = _cdf(x, u)
        half_square = 0.5 * x * x
        term = x * np.exp(-half_square) / math.sqrt(2 * math.pi)
        slope = cdf + term
        error = error + np.abs(term) * (3 * u * half_square + (2 * ELEMENTARY_ULPS + 4) * u)
        size = np.abs(cdf) + np.abs(term)
    else:
        t, square, error_t = _tanh(x, u)
        cdf = np.where(t < 0, square / (2 * (1 - t)), 0.5 * (1 + t))
        inner = BETA * (1 + 3 * KAPPA * x * x)
        lever = 0.5 * np.abs(x) * inner
        term = 0.5 * x * square * inner
        slope = cdf + np.where(square == 0, 0.0, term)
        saturated = error_t == 0
        lost = np.where(saturated, square, 2 * np.abs(t) * error_t + u * (1 + square))
        error = 0.5 * (error_t + u * (1 + t)) + u * cdf
        error = error + np.where(lost == 0, 0.0, lever * (lost + 7 * u * square))
        size = np.abs(cdf) + np.abs(np.where(square == 0, 0.0, term))
    expected = g * slope
    error = np.abs(g) * (error + u * np.abs(slope)) + 2 * u * np.abs(expected)
    return finish(expected, error, np.abs(g) * (1 + size), compute, call.out_format())
