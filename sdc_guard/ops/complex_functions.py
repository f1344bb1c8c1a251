"""Elementary functions of complex numbers, elementwise.

Contract: ``|error| <= 16 u |f(z)|`` in the modulus, a premise measured on a CPU (torch 2.13,
complex64 and complex128, 40,000 numbers each: over 60 binades, near the axes, the unit circle, 0, 1
and multiples of pi/2; vector and strided code).  Largest seen, in u: exp 2.4, log 2.9, log2 3.4,
log10 3.5, log1p 4.5, sqrt 2.0, rsqrt 2.7, sin 3.3, cos 2.7, tan 5.2, sinh 3.0, cosh 2.9, tanh 4.7,
asin 4.1, acos 3.8, atan 6.0, asinh 4.2, acosh 3.8, atanh 5.4, expm1 4.2, angle 2.0, sgn 2.0.  On
other devices nothing is judged but by replay.

``exp2`` multiplies its argument by log 2, whose rounding costs ``u |z| |f|``; ``sigmoid`` adds
``e^-z`` to 1, which cancels near its poles and costs ``|e^-z| / |1 + e^-z|``.  ``pow`` is
``exp(p log z)``: ``u |p log z| |f|`` more.  Near 1 nothing is judged of ``acos`` and ``acosh`` in
complex128 (3970 u was seen, and NumPy's own value is no better there).

The proof limit is the premise of :mod:`sdc_guard.bounds.elementwise`: right to half the
significand.  Nothing is judged where a part of the operand or of the result is not finite, or the
modulus of the result is within 1/u of the smallest normal number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sdc_guard.bounds.gamma import own_rounding
from sdc_guard.formats import FLOAT32, FLOAT64, Format, part_dtype
from sdc_guard.ops._axes import broadcast_axes
from sdc_guard.ops._complex import of_parts
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import LAYOUTS, SampleList, draw_values, pointwise_samples
from sdc_guard.ops._symmetry import OUTERMOST
from sdc_guard.ops.complex_arithmetic import (
    COMPLEX,
    complex_symmetries,
    finite,
    is_plain,
    operand,
)

aten = torch.ops.aten
Array = NDArray[Any]

ROUNDINGS = 16
OWN_ROUNDINGS = 16
POW_ROUNDINGS = 32

Function = Callable[[Array], Array]
Extra = Callable[[Array, Array], Array]
"""From the operand and the value: a relative error in units of u."""


def _wide(call: HostCall) -> Any:
    """complex128 operands are judged by a longer reference where the machine has one."""
    return np.clongdouble if call.out_format() is FLOAT64 else np.complex128


def judged(call: HostCall, expected: Array, roundings: Array | float, largest: Array) -> Reference:
    """The reference of a value that is right to ``roundings`` u."""
    fmt = call.out_format()
    narrow = np.complex128 if np.iscomplexobj(expected) else np.float64
    given, expected = expected, np.asarray(expected).astype(narrow)
    size = np.abs(expected)
    longer = given.dtype.itemsize > expected.dtype.itemsize
    own = own_rounding(2 if longer else OWN_ROUNDINGS, size)
    contract = roundings * fmt.u * size + own
    proof = np.maximum(2.0 ** (-fmt.precision / 2) * size + own, contract)
    seen = (size >= fmt.tiny / fmt.u) | (size == 0)
    contract, proof = (np.where(seen, x, np.inf) for x in (contract, proof))
    return Reference(expected, proof, contract, "16 u |f(z)|", np.asarray(largest, np.float64))


def _register(target: Any, function: Function, text: str, *, extra: Extra | None = None,
              grows: Callable[[Array], Array] | None = None, odd: tuple[str, ...] = (),
              domain: str = "any", in_place: bool = True) -> None:
    def reference(call: HostCall) -> tuple[Reference | None, ...]:
        if not is_plain(call) or call.held[0].device.type != "cpu":
            return (None,)
        with np.errstate(all="ignore"):
            z = operand(call, "self").astype(_wide(call))
            value = np.asarray(function(z))
            largest = np.abs(value) if grows is None else np.maximum(np.abs(value), grows(z))
            largest = np.where(finite(z, value), largest, np.inf)
            more = 0.0 if extra is None else extra(z, value)
            return (judged(call, value, ROUNDINGS * (1.0 + np.asarray(more, np.float64)), largest),)

    reference.__doc__ = text
    reference.__module__ = __name__
    checked(target, family="pointwise", axes=broadcast_axes, only_complex=True,
            symmetries=lambda call, held: complex_symmetries(call, held, odd, True),
            window=(OUTERMOST,),
            samples=pointwise_samples(target, domain, COMPLEX, in_place=in_place))(reference)


def _log1p(z: Array) -> Array:
    """``log(1 + z)``, right for small z too, where ``|1 + z|^2 - 1 = x (2 + x) + y^2``."""
    near = np.abs(z) < 0.5
    small = np.where(near, z, 0)
    x, y = small.real, small.imag
    shifted = np.array(z)
    shifted.real += 1  # ``1 + z`` would lose the sign of a zero, which is the side of the cut
    log = np.log(shifted)
    real = np.where(near, 0.5 * np.log1p(x * (2 + x) + y * y), log.real)
    return np.asarray(real + 1j * np.where(near, np.arctan2(y, 1 + x), log.imag)).astype(z.dtype)


def _sign(z: Array) -> Array:
    size = np.abs(z)
    return np.where(size == 0, 0, z / np.where(size == 0, 1, size))


def _modulus_leaves_range(z: Array, value: Array) -> Array:
    """Infinite where ``|z|^2`` leaves the range of normal numbers: vector code divides by its root
    (seen: an infinite ``sgn`` of subnormal numbers)."""
    doubles = z.dtype.itemsize > np.dtype(np.complex128).itemsize
    fmt = FLOAT64 if doubles else FLOAT32
    square = np.abs(z) ** 2
    safe = (z == 0) | ((square >= fmt.tiny / fmt.u) & (square <= fmt.max / 4))
    return np.where(safe, 0.0, np.inf)


def _near_one(z: Array, value: Array) -> Array:
    """Infinite for complex128 operands near 1 or -1."""
    doubles = z.dtype.itemsize > np.dtype(np.complex128).itemsize
    close = np.minimum(np.abs(z - 1), np.abs(z + 1)) < 0.125
    return np.where(doubles & close, np.inf, 0.0)


def _exponential(z: Array) -> Array:
    return np.asarray(np.exp(np.abs(z.real)) * 2)


def _turned(z: Array) -> Array:
    return np.asarray(np.exp(np.abs(z.imag)) * 2)


def _logistic(z: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-z)))


def _pole(z: Array, value: Array) -> Array:
    e = np.exp(-z)
    return np.asarray(np.abs(e) / np.abs(1 + e))


def _log(base: float) -> Function:
    return lambda z: np.asarray(np.log(z) / np.log(z.real.dtype.type(base)))


_register(aten.exp, np.exp, "``e^z``.", grows=_exponential)
_register(aten.exp2, lambda z: np.exp(z * np.log(z.real.dtype.type(2))), "``2^z``.",
          extra=lambda z, value: np.abs(z), grows=_exponential)
_register(aten.expm1, np.expm1, "``e^z - 1``.", grows=_exponential)
_register(aten.log, np.log, "Natural logarithm.")
_register(aten.log2, _log(2), "Logarithm to base 2.")
_register(aten.log10, _log(10), "Logarithm to base 10.")
_register(aten.log1p, _log1p, "``log(1 + z)``.")
_register(aten.sqrt, np.sqrt, "Square root.")
_register(aten.rsqrt, lambda z: 1 / np.sqrt(z), "``1 / sqrt(z)``.")
_register(aten.sin, np.sin, "Sine.", grows=_turned)
_register(aten.cos, np.cos, "Cosine.", grows=_turned)
_register(aten.tan, np.tan, "Tangent.")
_register(aten.sinh, np.sinh, "Hyperbolic sine.", grows=_exponential)
_register(aten.cosh, np.cosh, "Hyperbolic cosine.", grows=_exponential)
_register(aten.tanh, np.tanh, "Hyperbolic tangent.")
_register(aten.asin, np.arcsin, "Inverse sine.", extra=_near_one)
_register(aten.acos, np.arccos, "Inverse cosine.", extra=_near_one)
_register(aten.atan, np.arctan, "Inverse tangent.")
_register(aten.asinh, np.arcsinh, "Inverse hyperbolic sine.")
_register(aten.acosh, np.arccosh, "Inverse hyperbolic cosine.", extra=_near_one)
_register(aten.atanh, np.arctanh, "Inverse hyperbolic tangent.")
_register(aten.sigmoid, _logistic, "``1 / (1 + e^-z)``.", extra=_pole, grows=_exponential)
_register(aten.angle, np.angle, "The argument.", in_place=False)
_register(aten.sgn, _sign, "``z / |z|``, 0 for 0.", extra=_modulus_leaves_range)


def _backward(target: Any, function: Callable[[Array, Array], tuple[Array, Array]],
              text: str) -> None:
    """``function`` gives the value and the sum of the moduli of its terms."""

    def reference(call: HostCall) -> tuple[Reference | None, ...]:
        if not is_plain(call):
            return (None,)
        fmt: Format = call.out_format()
        with np.errstate(all="ignore"):
            g, y = operand(call, "grad_output"), operand(call, "output")
            value, size = function(g, np.conj(y))
            limit = 12 * (fmt.u + FLOAT64.u) * size + 8 * fmt.eta * (
                1 + np.abs(g) + np.abs(y) * (1 + np.abs(g)))
            largest = np.maximum(size, np.abs(g) * (1 + np.abs(y)) ** 2)
            largest = np.where(finite(g, y, value), largest, np.inf)
        return (Reference(value, limit, limit, "12 u of the moduli of the terms", largest),)

    reference.__doc__ = text
    reference.__module__ = __name__
    checked(target, family="pointwise", axes=broadcast_axes, only_complex=True,
            symmetries=lambda call, held: complex_symmetries(call, held, ("grad_output",), True),
            window=(OUTERMOST,), samples=pointwise_samples(target, "unit", COMPLEX))(reference)


_backward(aten.tanh_backward, lambda g, y: (g * (1 - y * y), np.abs(g) * (1 + np.abs(y) ** 2)),
          "``g conj(1 - y^2)``: two products, each within ``sqrt(2) gamma_2``, and a difference.")
_backward(aten.sigmoid_backward,
          lambda g, y: (g * (1 - y) * y, np.abs(g) * (1 + np.abs(y)) * np.abs(y)),
          "``g conj((1 - y) y)``: two products, each within ``sqrt(2) gamma_2``, and a difference.")


@checked(aten.pow, family="pointwise", axes=broadcast_axes, only_complex=True,
         symmetries=lambda call, held: complex_symmetries(call, held, (), True),
         window=(OUTERMOST,), samples=pointwise_samples(aten.pow, dtypes=COMPLEX))
def pow_(call: HostCall) -> tuple[Reference | None, ...]:
    """``z^p = exp(p log z)``, or repeated products for small integers; not judged at 0."""
    if not is_plain(call) or call.held[0].device.type != "cpu":
        return (None,)
    with np.errstate(all="ignore"):
        wide = _wide(call)
        z, p = operand(call, "self").astype(wide), operand(call, "exponent").astype(wide)
        turn = p * np.log(z)
        value = np.where(p == 2, z * z, np.where(p == 1, z, np.exp(turn)))
        sizes = [np.abs(value), 1 / np.abs(value), np.exp(np.abs(turn.real)), np.abs(z) ** 2,
                 1 / np.abs(z) ** 2]
        largest = np.maximum.reduce(np.broadcast_arrays(*sizes))
        largest = np.where(finite(z, p, value) & (z != 0), largest, np.inf)
        steps = POW_ROUNDINGS * (1.0 + np.abs(turn).astype(np.float64))
        return (judged(call, value, steps, largest),)


@checked(aten.polar, family="pointwise", axes=broadcast_axes, only_complex=True,
         symmetries=lambda call, held: complex_symmetries(call, held, (), True),
         window=(OUTERMOST,),
         samples=lambda generator, dtype: _pairs(aten.polar, generator, dtype))
def polar(call: HostCall) -> tuple[Reference | None, ...]:
    """``r (cos t + i sin t)``."""
    if not is_plain(call) or call.held[0].device.type != "cpu":
        return (None,)
    with np.errstate(all="ignore"):
        r, t = call.array("abs"), call.array("angle")
        value = r * np.cos(t) + 1j * (r * np.sin(t))
        largest = np.where(finite(r, t), np.abs(r), np.inf)
        return (judged(call, value, ROUNDINGS, largest),)


@checked(aten.complex, family="pointwise", axes=broadcast_axes, only_complex=True,
         symmetries=lambda call, held: complex_symmetries(call, held, (), False),
         window=(OUTERMOST,),
         samples=lambda generator, dtype: _pairs(aten.complex, generator, dtype))
def complex_(call: HostCall) -> tuple[Reference | None, ...]:
    """The number of these parts, exactly."""
    shape = tuple(call.held[0].shape)
    parts = [np.broadcast_to(call.array(n), shape) for n in ("real", "imag")]
    real, imag = (Reference(x, 0.0, 0.0, "exact") for x in parts)
    return (of_parts(real, imag),)


def _pairs(op: Any, generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    """Two real operands in several layouts."""
    if dtype not in COMPLEX:
        return []
    draw = draw_values(generator, part_dtype(dtype), "any")
    return [(op.default, (layout(draw), layout(draw)), {}) for layout in LAYOUTS]
