"""Elementary functions, elementwise.

Contract: ``ELEMENTARY_ULPS`` (4) ulps in the format that the kernel computes in.  Vendor libraries
document at most that (CUDA: exp 1, log 1, tanh 2, erf 2, sin 2, cos 2, rsqrt 2; SLEEF's u10
functions 1.0); seen on a CPU with torch 2.13 in fp32, 6 million values each: exp 0.6, log 0.9,
log1p 1.0, expm1 1.0, exp2 0.9, tanh 0.6, sigmoid 2.0, rsqrt 1.5, erf 0.8, sin 0.7, cos 0.7, pow
1.5.  ``pow`` has twice the figure (CUDA documents 4, repeated products round each time).

The proof limit is the premise of :mod:`sdc_guard.bounds.elementwise`: right to half the
significand. The reference is NumPy's float64 function (at most 4 ulps), ``erf`` our own.

Place: exp, expm1, log, log2, log10, log1p, tanh, erf, erfc, sin, cos give equal bits wherever an
element stands; exp2, sigmoid, pow, and rsqrt of half formats do not.  tanh, erf, sin and the two
backward forms keep every bit but the sign under negation (seen in 4 formats).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.casts import nearest
from sdc_guard.bounds.elementwise import ELEMENTARY_ULPS
from sdc_guard.bounds.gamma import own_rounding, rounding
from sdc_guard.bounds.special import erf
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT32, Format
from sdc_guard.ops._pointwise import Array, Computed, bounded, operand, operand_dtype, pointwise
from sdc_guard.ops._registry import HostCall

aten = torch.ops.aten

REFERENCE_ULPS = 8
"""NumPy documents 4 ulps for its vectorised float64 functions; doubled as ``2 u`` is an ulp at
most."""

POW_ULPS = 2 * ELEMENTARY_ULPS


def half_significand(expected: Array, compute: Format) -> Array:
    """The proof limit of an elementary function: ``2^(-p/2) |f|`` and two smallest normals."""
    return np.asarray(2.0 ** (-compute.precision / 2) * np.abs(expected) + 2 * compute.tiny)


def judged(
    expected: Array, compute: Format, *, ulps: float = ELEMENTARY_ULPS, more: Array | float = 0.0
) -> Computed:
    """Contract of ``ulps`` ulps (each at most ``2 u |f|``) and ``more``, an absolute error."""
    size = np.abs(expected)
    own = own_rounding(REFERENCE_ULPS, size)
    contract = 2 * ulps * compute.u * size + ulps * compute.eta + own + more
    proof = half_significand(expected, compute) + own + more
    return Computed(np.asarray(expected), contract, np.maximum(proof, contract), size)


def _register(target: Any, function: Callable[[Array], Array], text: str, domain: str = "any",
              odd: tuple[str, ...] = (), tail_sensitive: bool = False) -> None:
    def evaluate(call: HostCall, compute: Format) -> Computed:
        return judged(function(operand(call, "self")), compute)

    evaluate.__doc__ = text
    evaluate.__module__ = __name__
    bounded(target, formula="4 ulps", odd=odd, tail_sensitive=tail_sensitive,
            domain=domain)(evaluate)


_register(aten.exp, np.exp, "``e^x``.")
_register(aten.exp2, np.exp2, "``2^x``.", tail_sensitive=True)
_register(aten.expm1, np.expm1, "``e^x - 1``.")
_register(aten.log, np.log, "Natural logarithm.", "positive")
_register(aten.log2, np.log2, "Logarithm to base 2.", "positive")
_register(aten.log10, np.log10, "Logarithm to base 10.", "positive")
_register(aten.log1p, np.log1p, "``log(1 + x)``.", "positive")
_register(aten.tanh, np.tanh, "Hyperbolic tangent.", odd=("self",))
_register(aten.sin, np.sin, "Sine.", odd=("self",))
_register(aten.cos, np.cos, "Cosine.")


@bounded(aten.erf, formula="4 ulps; half formats: and 8u of fp32", odd=("self",))
def erf_(call: HostCall, compute: Format) -> Computed:
    """The error function.  Code for half formats is exact to fp32's roundoff absolutely, not
    relatively: it gives 0 below 1.8e-7 (seen)."""
    half = call.out_format().precision < FLOAT32.precision
    return judged(erf(operand(call, "self")), compute, more=8 * compute.u if half else 0.0)


def logistic(x: Array) -> Array:
    """``1 / (1 + e^-x)`` without overflow and with full relative accuracy at both ends."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


@bounded(aten.sigmoid, formula="4 ulps, and 1/max where exp(-x) overflows", tail_sensitive=True)
def sigmoid(call: HostCall, compute: Format) -> Computed:
    """``1 / (1 + exp(-x))``, evaluated so: 0 where ``exp(-x)`` overflows, instead of below
    1/max."""
    return judged(logistic(operand(call, "self")), compute, more=1.0 / compute.max)


def _half_rounding(call: HostCall, size: Array, count: int = 1) -> Array | float:
    """``count`` roundings of an intermediate to a half format, which ATen's scalar code makes."""
    out = call.out_format()
    return count * 1.01 * rounding(size, out) if out.precision < FLOAT32.precision else 0.0


def _is_half(call: BoundCall, held: tuple[Tensor, ...]) -> bool:
    return held[0].element_size() == 2


@bounded(aten.rsqrt, formula="4 ulps; half formats: and a rounding of sqrt(x)", domain="positive",
         tail_sensitive=_is_half)
def rsqrt(call: HostCall, compute: Format) -> Computed:
    """``1 / sqrt(x)``.  The scalar code of half formats rounds ``sqrt(x)`` to them first, which
    changes the result by one relative rounding."""
    expected = 1.0 / np.sqrt(operand(call, "self"))
    return judged(expected, compute, more=_half_rounding(call, expected))


def _unrepresentable(value: Any, fmt: Format) -> float:
    """Relative rounding of a scalar operand that ``fmt`` does not hold."""
    if isinstance(value, Tensor) or value is None:
        return 0.0
    return 0.0 if float(nearest(value, fmt)) == float(value) else fmt.u


def _is_square(call: BoundCall) -> bool:
    exponent = call["exponent"]
    return not isinstance(exponent, Tensor) and bool(exponent == 2)


def _integer_power(call: HostCall) -> Array | None:
    """``x^p`` modulo 2^b of the common format, to which both operands are converted first; a
    negative power of 1 or -1 is one of them, that of any other number is 0 (``powi`` in
    ``aten/src/ATen/native/Pow.h``)."""
    dtype = operand_dtype(call.call, "self", "exponent")
    if dtype.is_floating_point or dtype.is_complex or not bits.has_values(dtype):
        return None
    kind = np.uint8 if dtype is torch.bool else bits.values(torch.empty((), dtype=dtype)).dtype
    x, p = (np.asarray(call.number(n)).astype(np.int64).astype(kind) for n in ("self", "exponent"))
    power = np.power(x, np.maximum(p, 0))
    odd = np.where(p % 2 == 0, 1, x)
    return np.where(p >= 0, power, np.where(np.abs(x) == 1, odd, 0))


def _is_rough(call: BoundCall, held: tuple[Tensor, ...]) -> bool:
    """True where body and tail may round differently: not for squares, nor for integers."""
    return held[0].is_floating_point() and not _is_square(call)


@bounded(aten.pow, formula="8 ulps, the rounding of a scalar operand, 1/max",
         domain="exponent", tail_sensitive=_is_rough, integers=_integer_power)
def pow_(call: HostCall, compute: Format) -> Computed:
    """``x^p``.

    A scalar exponent off by a relative ``d`` changes the result by ``|p log x| d``, a scalar base
    by ``|p| d``.  ATen evaluates small negative powers as ``1 / (x x)``, which is 0 where ``x x``
    overflows: 1/max absolutely; half formats round the intermediates of small powers, at most 2.
    """
    x, p = operand(call, "self"), operand(call, "exponent")
    expected = np.power(x.astype(np.float64), p)
    size = np.abs(expected)
    out = call.out_format()
    exponent = _unrepresentable(call["exponent"], out)
    base = _unrepresentable(call["self"], out)
    with np.errstate(all="ignore"):
        shift = np.where(x == 0, 0.0, np.abs(p * np.log(np.abs(x)))) * exponent + np.abs(p) * base
    more = np.nan_to_num(1.1 * shift * size) + 1.0 / compute.max + _half_rounding(call, size, 2)
    return judged(expected, compute, ulps=POW_ULPS, more=more)


@pointwise(aten.sigmoid_backward, formula="3 roundings of |g y (1 - y)|, |g y|, |g (1 - y)|",
           odd=("grad_output",), domain="share",
           extra=lambda call: _backward_intermediates(call))
def sigmoid_backward(call: HostCall) -> tuple[Array, Array, int]:
    """``g (1 - y) y``."""
    g, y = call.number("grad_output"), call.number("output")
    gradient = g * (1.0 - y) * y
    return gradient, np.maximum(np.abs(gradient), np.abs(g) * np.abs(y) * np.maximum(
        np.abs(y), np.abs(1 - y))), 3


@pointwise(aten.tanh_backward, formula="4 roundings of |g| max(1, y^2)", odd=("grad_output",),
           domain="unit", extra=lambda call: _backward_intermediates(call))
def tanh_backward(call: HostCall) -> tuple[Array, Array, int]:
    """``g (1 - y^2)``."""
    g, y = call.number("grad_output"), call.number("output")
    return g * (1.0 - y * y), np.abs(g) * np.maximum(1.0, y * y), 4


def _backward_intermediates(call: HostCall) -> Array:
    """Half formats: ATen rounds the intermediates to them (seen), three of at most ``|g| max(1,
    y^2)``."""
    g, y = call.number("grad_output"), call.number("output")
    size = np.abs(g) * np.maximum(1.0, y * y)
    return np.asarray(_half_rounding(call, size, 3))
