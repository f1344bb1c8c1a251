"""``erfc``, ``erfinv``, ``lgamma``, ``digamma``, ``polygamma``, Bessel functions, elementwise.

The references are those of :mod:`sdc_guard.bounds.special_values` and
:mod:`sdc_guard.bounds.bessel`.

Contract: 8 ulps for ``erfc`` (0.8 seen on a CPU with torch 2.13 in fp32) and ``erfinv`` (0.5).
``lgamma`` and ``digamma`` have zeros where only an absolute error is possible: 8 ulps of
``|y| + 1`` for x > 0 (0.5 and 5.5 seen); below 0 the reflection adds ``8 ulps of |x psi(x)|`` or
``|x| (1 + psi(x)^2)``.  The Bessel functions ``i0``, ``i1`` and their scaled forms have 32 ulps (14
seen near 8, where the series changes).  ``polygamma`` has 16 ulps for x > 0, and of 1 near the zero
of its first form, and is not judged below; ATen's trigamma ends its series at ``x + 6`` before the
term ``1 / (30 x^9)``, in fp64 too.  The proof is half the significand.

Place: vector body and scalar tail may differ by ulps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard.bounds.bessel import hurwitz, scaled_bessel
from sdc_guard.bounds.special_values import erfc, inverse_erf, log_gamma, psi
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT64, Format, is_covered_float
from sdc_guard.ops._axes import broadcast_axes
from sdc_guard.ops._places import pointwise_symmetries
from sdc_guard.ops._pointwise import Array, Computed, kernel_format, operand, stored_reference
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import pointwise_samples
from sdc_guard.ops._symmetry import OUTERMOST, Symmetry

aten = torch.ops.aten

COST = 64
"""Operations per element of these references: Python's functions take one number at a time."""

ULPS = 8.0

HALVES = 32.0
"""The scalar tail sums the Bessel functions' Chebyshev series in a half format itself (seen: 6)."""

def _register(target: Any, function: Callable[..., Array],
              slack: Callable[[Array, Array], Array], text: str, domain: str = "any",
              largest: Callable[[Array], Array] = np.zeros_like, halves: float = 0.0,
              **scalars: Any) -> None:
    """``slack`` gives the size of which 8 ulps are the contract, ``largest`` an intermediate,
    ``halves`` ulps of a half format that is computed in."""

    def reference(call: HostCall) -> tuple[Reference | None, ...]:
        if not is_covered_float(call.held[0].dtype):
            return (None,)
        fmt = kernel_format(call.call, call.held[0])
        with np.errstate(all="ignore"):
            x = operand(call, "self")
            given = (int(call[name]) for name in scalars)
            value = _computed(function(x, *given), slack, x, fmt)
            out = call.out_format()
            more: Any = 0.0
            if out is not fmt:
                factor = math.factorial(int(call.get("n") or 0))
                more = halves * (out.u * np.abs(value.expected) + factor * out.eta)
            if call.get("n") == 1:
                more = more + 1 / (30 * (np.maximum(x, 0) + 6) ** 9)
            value = Computed(value.expected, value.contract + more, value.proof + more,
                             np.maximum(value.magnitude, largest(x)))
            return (stored_reference(call, value, "8 ulps"),)

    def symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
        return pointwise_symmetries(call, held, tail_sensitive=True)

    reference.__doc__ = text
    reference.__module__ = __name__
    checked(target, family="pointwise", axes=broadcast_axes, symmetries=symmetries,
            window=(OUTERMOST,), flops=_flops,
            samples=pointwise_samples(target, domain, scalars=scalars))(reference)


def _flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    return COST * held[0].numel()


def _computed(expected: Array, slack: Callable[[Array, Array], Array], x: Array, fmt: Format
              ) -> Computed:
    size = slack(expected, x)
    error = 2 * ULPS * (fmt.u + 4 * FLOAT64.u) * size + 2 * fmt.tiny
    proof = 2.0 ** (-fmt.precision / 2) * size + error
    return Computed(expected, error, proof, np.abs(expected))


_register(aten.erfc, erfc,
          lambda y, x: np.abs(y), "``1 - erf(x)``.")
_register(aten.erfinv, inverse_erf, lambda y, x: np.abs(y), "The inverse of erf.", "unit")
_register(aten.lgamma, log_gamma,
          lambda y, x: np.abs(y) + 1 + np.where(x < 0, np.abs(x * psi(x)), 0.0),
          "``log |gamma(x)|``.", largest=lambda x: np.abs(x) * np.log(np.maximum(np.abs(x), 2)))
_register(aten.digamma, psi,
          lambda y, x: np.abs(y) + 1 + np.where(x < 0, np.abs(x) * (1 + y * y), 0.0),
          "The logarithmic derivative of the gamma function.")


def _polygamma(x: Array, n: int) -> Array:
    """``psi`` for n = 0, else ``(-1)^(n + 1) n! zeta(n + 1, x)``."""
    if n == 0:
        return psi(x)
    return (-1.0) ** (n + 1) * math.factorial(n) * hurwitz(n + 1, x)


def _unscaled(order: int) -> Callable[[Array], Array]:
    return lambda x: scaled_bessel(order, x) * np.exp(np.abs(x))


_register(aten.polygamma, _polygamma,
          lambda y, x: np.where((x > 0) & (x < np.inf),
                                2 * np.abs(y) + (np.abs(y) < 1) * (x < 4), np.inf),
          "Derivatives of the digamma function.", "positive", halves=3.0, n=1)


def _exponential(x: Array) -> Array:
    return np.asarray(2 * np.exp(np.abs(x)))


def _wide(y: Array, x: Array) -> Array:
    return np.asarray(4 * np.abs(y))


_register(aten.i0, _unscaled(0), _wide, "Modified Bessel function of order 0.",
          largest=_exponential, halves=HALVES)
_register(aten.special_i1, _unscaled(1), _wide,
          "Modified Bessel function of order 1.", largest=_exponential, halves=HALVES)
_register(aten.special_i0e, lambda x: scaled_bessel(0, x), _wide,
          "``exp(-|x|) I_0(x)``.", halves=HALVES)
_register(aten.special_i1e, lambda x: scaled_bessel(1, x), _wide,
          "``exp(-|x|) I_1(x)``.", halves=HALVES)
