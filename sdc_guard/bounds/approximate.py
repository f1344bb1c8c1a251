"""How far a device's elementary functions may be off, for bounds derived from a formula.

*Contract.*  Vendor libraries document at most 4 ulp for the functions below; the CUDA C++
Programming Guide (appendix "Mathematical Functions") and the PTX ISA document more for the fast
instructions that Triton's compiler emits in their place:

- ``exp`` is ``ex2.approx`` of a rounded product, ``__expf``: ``2 + floor(1.173 |x|)`` ulp;
- ``log``, ``log2``, ``log10`` (``__logf`` and kin): 3 ulp, absolute ``2^-21.41`` from 0.5 to 2;
- ``sin``, ``cos`` (``__sinf``, ``__cosf``): absolute ``2^-21.19`` for ``|x| <= pi``.  Beyond,
  nothing is documented, and the proof's limit is taken;
- ``div.full.f32``, which Triton's ``/`` is: 2 ulp, that is 4 u.  A quotient may also be a
  reciprocal and a product: 5 u;
- ``sqrt.approx.f32``: ``2^-23``, that is 2 u.

Quotients and roots have no worse instruction in PTX, so for them this is the proof too.

*Proof.*  A premise, not a theorem: a kernel that computes the function at all is right to a
relative ``2^-10`` in formats up to fp32 (the coarsest instruction of PTX, ``tanh.approx.f32``, is
right to ``2^-11``), and to half the significand in fp64.  Where a function passes through zero,
the usual formulas (``2 sigmoid(2x) - 1`` for ``tanh``) cancel, hence ``2^-20`` absolutely.

An argument that is off by e moves ``f`` by at most e times the largest slope on the way, which is
what the functions here return.  Flushed subnormals add two smallest normals.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc_guard.bounds.elementwise import ELEMENTARY_ULPS
from sdc_guard.formats import FLOAT32, FLOAT64, Format

Array = NDArray[Any]
Moved = Callable[[Array, Array, Array], Array]
"""``(x, f(x), e) -> limit on |f(x + d) - f(x)| for |d| <= e``."""

QUOTIENT_ROUNDINGS = 5.0
ROOT_ROUNDINGS = 2.0
OWN_ROUNDINGS = 8.0
"""Of NumPy's own float64 function."""


@dataclass(frozen=True, slots=True)
class Function:
    """An elementary function: how an error of its argument moves it, and what it adds itself.

    ``ulps_per_argument``: further ulps for each unit of ``|x|``; ``absolute``: what it may be off
    where it is small; ``documented_to``: the largest ``|x|`` that the contract speaks of.
    """

    moved: Moved
    passes_zero: bool = False
    ulps_per_argument: float = 0.0
    absolute: float = 0.0
    documented_to: float = math.inf
    per_argument: float = 0.0

    def own_error(self, x: Array, f: Array, error: Array, fmt: Format, *, proof: bool) -> Array:
        """The function's own error for an argument within ``error`` of x, in either bound."""
        reach = np.abs(x) + error
        size = np.abs(f) + self.moved(x, f, error)
        narrow = fmt.precision <= FLOAT32.precision
        ulps = ELEMENTARY_ULPS + (self.ulps_per_argument * reach if narrow else 0.0)
        absolute = self.absolute if narrow else 0.0
        contract = 2 * ulps * fmt.u * size + absolute
        floor = 2.0**-20 if narrow else 2.0**-40
        share = 2.0**-10 if narrow else 2.0 ** (-fmt.precision / 2)
        loose = np.maximum(contract, share * size + floor * self.passes_zero
                           + self.per_argument * reach)
        chosen = loose if proof else np.where(reach <= self.documented_to, contract, loose)
        return np.asarray(chosen + OWN_ROUNDINGS * FLOAT64.u * size + 2 * fmt.tiny)


def _apart(x: Array, e: Array) -> Array:
    """Size of the smallest argument on the way, at which a bell-shaped slope is largest."""
    return np.asarray(np.maximum(np.abs(x) - e, 0.0))


def _growth(f: Array, exponent: Array) -> Array:
    return np.asarray(np.where(exponent == 0, 0.0, np.abs(f) * np.expm1(exponent)))


def _of_logarithm(x: Array, e: Array, scale: float) -> Array:
    room = x - e
    slope = np.where(room > 0, e / np.where(room > 0, room, 1.0), np.inf)
    return np.asarray(np.where(e == 0, 0.0, slope) / scale)


def _logistic_slope(x: Array) -> Array:
    s = 1.0 / (1.0 + np.exp(-x))
    return np.asarray(s * (1.0 - s))


def _constant(slope: float) -> Moved:
    return lambda x, f, e: slope * e


LOG_FLOOR = 2.0**-21.41
USUAL_FORMULA = 16 * FLOAT32.u
"""Absolute error of ``2 sigmoid(2x) - 1``, ``exp(x) - 1`` and ``log(1 + x)`` near zero, where these
are what a kernel computes: a few roundings of numbers of size 1."""
TURN = Function(_constant(1.0), True, absolute=2.0**-21.19, documented_to=math.pi,
                per_argument=2.0**-20)

FUNCTIONS: dict[str, Function] = {
    "exp": Function(lambda x, f, e: _growth(f, e), ulps_per_argument=1.173),
    "exp2": Function(lambda x, f, e: _growth(f, e * math.log(2.0))),
    "expm1": Function(lambda x, f, e: _growth(f + 1.0, e), True, ulps_per_argument=1.173,
                      absolute=USUAL_FORMULA),
    "log": Function(lambda x, f, e: _of_logarithm(x, e, 1.0), True, absolute=LOG_FLOOR),
    "log2": Function(lambda x, f, e: _of_logarithm(x, e, math.log(2.0)), True, absolute=LOG_FLOOR),
    "log10": Function(lambda x, f, e: _of_logarithm(x, e, math.log(10.0)), True,
                      absolute=LOG_FLOOR),
    "log1p": Function(lambda x, f, e: _of_logarithm(1.0 + x, e, 1.0), True,
                      absolute=LOG_FLOOR + USUAL_FORMULA),
    "tanh": Function(lambda x, f, e: e / np.cosh(np.minimum(_apart(x, e), 300.0)) ** 2, True,
                     absolute=USUAL_FORMULA),
    "expit": Function(lambda x, f, e: e * _logistic_slope(_apart(x, e)), ulps_per_argument=1.173,
                      absolute=USUAL_FORMULA),
    "erf": Function(lambda x, f, e: e * 2 / math.sqrt(math.pi)
                    * np.exp(-np.minimum(_apart(x, e), 25.0) ** 2), True),
    "sin": TURN,
    "cos": TURN,
    "arctan": Function(_constant(1.0), True),
    "sinh": Function(lambda x, f, e: e * np.cosh(np.abs(x) + e), True, ulps_per_argument=1.173),
    "cosh": Function(lambda x, f, e: e * np.sinh(np.abs(x) + e), ulps_per_argument=1.173),
}
"""By the name of the NumPy (or, for ``expit`` and ``erf``, SciPy) function."""
