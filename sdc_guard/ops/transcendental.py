"""Inverse, hyperbolic and logarithmic functions, elementwise.

Contract: 4 ulps of the computing format (``ELEMENTARY_ULPS``) as in
:mod:`sdc_guard.ops.elementary`; CUDA documents acos 2, asin 2, atan 2, atan2 3, asinh 3, acosh 4,
atanh 3, sinh 3, cosh 2, tan 4, hypot 3; seen on a CPU with torch 2.13 in fp32, 300,000 values each:
acos 0.8, asin 0.8, atan 0.8, asinh 1.5, acosh 2.0, atanh 1.6, sinh 1.7, cosh 1.0, tan 0.9, atan2
1.4, hypot 0.5.  Compositions add their own roundings:

- ``xlogy``, ``xlog1py``, ``entr``: one product, ``(e + u) |y|``;
- ``sinc``, ``sin(pi x) / (pi x)``: the argument errs by ``2u |pi x|``, which moves the quotient by
  2u absolutely, and two roundings;
- ``logit``, ``log(z / (1 - z))``: the argument of the logarithm errs by 4u relatively, which is 4u
  absolutely; a z clamped at ``1 - eps`` is rounded, which is ``u / eps`` more.  Backward,
  ``g / (x (1 - x))``: 4 roundings.

``sinh`` and ``cosh`` halve exponentials, which overflow first.  Place: vector body and scalar tail
differ by ulps in most of these, so all are taken to be so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from sdc_guard.bounds.elementwise import ELEMENTARY_ULPS
from sdc_guard.formats import FLOAT32, Format, is_covered_float
from sdc_guard.ops._pointwise import (
    Array,
    Computed,
    bounded,
    kernel_format,
    operand,
    pointwise,
    register_pointwise,
    stored_reference,
)
from sdc_guard.ops._registry import HostCall, Reference
from sdc_guard.ops._samples import pointwise_samples
from sdc_guard.ops.arithmetic import _rounded_quotient
from sdc_guard.ops.elementary import judged

aten = torch.ops.aten

FUNCTION = 2 * ELEMENTARY_ULPS


def _register(target: Any, function: Callable[[Array], Array], text: str, domain: str = "any",
              odd: tuple[str, ...] = (), sensitive: bool = True) -> None:
    def evaluate(call: HostCall, compute: Format) -> Computed:
        return judged(function(operand(call, "self")), compute)

    evaluate.__doc__ = text
    evaluate.__module__ = __name__
    bounded(target, formula="4 ulps", odd=odd, tail_sensitive=sensitive, domain=domain)(evaluate)


_register(aten.acos, np.arccos, "Inverse cosine.", "unit")
_register(aten.asin, np.arcsin, "Inverse sine.", "unit", ("self",))
_register(aten.atan, np.arctan, "Inverse tangent.", odd=("self",))
_register(aten.asinh, np.arcsinh, "Inverse hyperbolic sine.", odd=("self",))
_register(aten.atanh, np.arctanh, "Inverse hyperbolic tangent.", "unit", ("self",))
_register(aten.tan, np.tan, "Tangent.", odd=("self",))


def _exponential(call: HostCall, compute: Format, function: Callable[[Array], Array]) -> Computed:
    """A function that halves ``e^|x|``, the largest intermediate."""
    x = operand(call, "self")
    value = judged(function(x), compute)
    return Computed(value.expected, value.contract, value.proof, 2.0 * np.exp(np.abs(x)))


@bounded(aten.sinh, formula="4 ulps", odd=("self",), tail_sensitive=True)
def sinh(call: HostCall, compute: Format) -> Computed:
    """Hyperbolic sine."""
    return _exponential(call, compute, np.sinh)


@bounded(aten.cosh, formula="4 ulps", tail_sensitive=True)
def cosh(call: HostCall, compute: Format) -> Computed:
    """Hyperbolic cosine."""
    return _exponential(call, compute, np.cosh)


@bounded(aten.acosh, formula="4 ulps", domain="positive", tail_sensitive=True)
def acosh(call: HostCall, compute: Format) -> Computed:
    """Inverse hyperbolic cosine."""
    return judged(np.arccosh(operand(call, "self")), compute)


@bounded(aten.atan2, formula="4 ulps", odd=("self",), tail_sensitive=True)
def atan2(call: HostCall, compute: Format) -> Computed:
    """The angle of the point ``(b, a)``."""
    return judged(np.arctan2(operand(call, "self"), operand(call, "other")), compute)


@bounded(aten.hypot, formula="4 ulps", tail_sensitive=True)
def hypot(call: HostCall, compute: Format) -> Computed:
    """``sqrt(a^2 + b^2)`` without overflow."""
    return judged(np.hypot(operand(call, "self"), operand(call, "other")), compute)


def _half(call: HostCall, size: Array, count: int) -> Array:
    """Half formats: intermediates that some kernels round to them."""
    out = call.out_format()
    return np.asarray(count * (out.u * np.abs(size) + out.eta)
                      if out.precision < FLOAT32.precision else 0.0)


def _times_log(x: Array, logarithm: Array, y: Array) -> Array:
    return np.where(np.isnan(y), np.nan, np.where(x == 0, 0.0, x * logarithm))


def _product(target: Any, logarithm: Callable[[Array], Array], text: str) -> None:
    def evaluate(call: HostCall, compute: Format) -> Computed:
        x, y = operand(call, "self"), operand(call, "other")
        value = _times_log(x, logarithm(y), y)
        return judged(value, compute, ulps=ELEMENTARY_ULPS + 1,
                      more=_half(call, value, 1) + compute.eta * np.abs(x))

    evaluate.__doc__ = text
    evaluate.__module__ = __name__
    bounded(target, formula="5 ulps", tail_sensitive=True, domain="positive")(evaluate)


_product(aten.xlogy, np.log, "``x log y``, 0 for x = 0.")
_product(aten.special_xlog1py, np.log1p, "``x log(1 + y)``, 0 for x = 0.")


@bounded(aten.special_entr, formula="5 ulps", tail_sensitive=True, domain="positive")
def entr(call: HostCall, compute: Format) -> Computed:
    """``-x log x``, 0 at 0, -infinity below."""
    x = operand(call, "self")
    value = np.where(x == 0, 0.0, np.where(x < 0, -np.inf, -x * np.log(x)))
    return judged(value, compute, ulps=ELEMENTARY_ULPS + 1, more=_half(call, value, 1))


@bounded(aten.sinc, formula="2u + (e + 2u) |y|", tail_sensitive=True)
def sinc(call: HostCall, compute: Format) -> Computed:
    """``sin(pi x) / (pi x)``, 1 at 0; the sine of the exact rest of x modulo 1."""
    x = operand(call, "self")
    whole = np.rint(x)
    sine = np.sin(np.pi * (x - whole)) * np.where(np.remainder(whole, 2) == 0, 1.0, -1.0)
    value = np.where(x == 0, 1.0, sine / (np.pi * x))
    error = 3 * compute.u + (FUNCTION + 2) * compute.u * np.abs(value) + 2.0**-49 * np.abs(value)
    error = error + _half(call, np.ones_like(value), 4)
    proof = np.maximum(error, 2.0 ** (-compute.precision / 2) * np.ones_like(value))
    return Computed(value, error, proof, np.abs(np.pi * x))


@bounded(aten.logit, formula="5u + e |y|, and u / eps where x is clamped", tail_sensitive=True,
         domain="share")
def logit(call: HostCall, compute: Format) -> Computed:
    """``log(z / (1 - z))`` for z, x clamped to ``[eps, 1 - eps]``."""
    x, eps = operand(call, "self"), call["eps"]
    out = call.out_format()
    v = out.u if out.precision < FLOAT32.precision else compute.u
    clamped = np.asarray(0.0)
    if eps is not None:
        low, high = float(eps), 1.0 - float(eps)
        clamped = np.where(x >= high * (1 - 4 * v), 4 * v / max(float(eps), v), 0.0)
        clamped = clamped + np.where(x <= low * (1 + 4 * v), 4 * v, 0.0)
        if float(eps) < 4 * v:
            clamped = np.where(x >= high * (1 - 4 * v), np.inf, clamped)
        x = np.clip(x, low, high)
    value = np.log(x / (1.0 - x))
    error = 5 * v + clamped + FUNCTION * compute.u * np.abs(value) + 2.0**-49 * np.abs(value)
    error = error + 4 * out.tiny / np.maximum(np.abs(x), out.eta) * out.u
    proof = np.maximum(error, 2.0 ** (-compute.precision / 2) * (1 + np.abs(value)))
    return Computed(value, error, proof, np.maximum(np.abs(value), x / (1.0 - x)))


def _logit_backward(call: HostCall, compute: Format) -> Computed:
    """``g / (x (1 - x))`` inside the clamp, 0 outside; without one NaN outside [0, 1]."""
    g, x, eps = call.number("grad_output"), call.number("self"), call["eps"]
    slope = 1.0 / (x * (1.0 - x))
    value = g * slope
    error = 5 * (compute.u + 2.0**-52) * np.abs(value) + compute.eta * (1 + np.abs(g) * slope)
    more = _half(call, value, 4) + _half(call, g * slope * slope, 1)
    if eps is None:
        outside = (x < 0) | (x > 1)
        value = np.where(outside, np.nan, value)
    else:
        low, high = float(eps), 1.0 - float(eps)
        value = np.where((x < low) | (x > high), 0.0, value)
        v = call.out_format().u
        border = (np.abs(x - low) <= 4 * v * low) | (np.abs(x - high) <= 4 * v)
        error = np.where(border, np.inf, error)
    return Computed(value, error + more, error + more, np.maximum(np.abs(value), slope))


def _register_logit_backward() -> None:
    def reference(call: HostCall) -> tuple[Reference | None, ...]:
        if not is_covered_float(call.held[0].dtype):
            return (None,)
        fmt = kernel_format(call.call, call.held[0])
        with np.errstate(all="ignore"):
            return (stored_reference(call, _logit_backward(call, fmt), "5 roundings, relative"),)

    reference.__doc__ = _logit_backward.__doc__
    register_pointwise((aten.logit_backward,), reference, odd=("grad_output",),
                       tail_sensitive=True,
                       samples=pointwise_samples(aten.logit_backward, domain="share"))


_register_logit_backward()


@pointwise(aten.floor_divide, formula="3 roundings of |q|, and 1 beside an integer",
           domains={"other": "positive"}, scalars={"other": 3},
           extra=lambda call: _half(call, operand(call, "self") / operand(call, "other"), 4))
def floor_divide(call: HostCall) -> tuple[Array, Array, int]:
    """``floor(a / b)``."""
    return _rounded_quotient(call, "floor")
