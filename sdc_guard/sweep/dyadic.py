"""Arrays of numbers ``mantissa * 2^exponent``; products, sums, quotients and roots, rounded once,
by integers alone.

What a floating-point unit computes from two operands with full mantissas is then known to the last
bit: IEEE 754 (section 4.3) asks for the exact result, rounded once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc_guard.sweep.declared import Bits
from sdc_guard.sweep.exact import encode

Integers = NDArray[np.int64]
KEPT_BITS = 60
"""Bits kept of a longer integer, beside one that says whether the rest was 0: more than any
precision needs to round as the exact number does."""
INT64_BITS = 61


@dataclass(frozen=True, slots=True)
class Dyadic:
    """``mantissa * 2^exponent``, elementwise; both of one shape."""

    mantissa: Integers
    exponent: Integers

    def bits(self, dtype: str) -> Bits:
        """In a floating format, rounded to nearest even."""
        return encode(self.mantissa, dtype, self.exponent)

    def __getitem__(self, index: Any) -> Dyadic:
        return Dyadic(self.mantissa[index], self.exponent[index])

    def transposed(self) -> Dyadic:
        return Dyadic(np.ascontiguousarray(self.mantissa.T), np.ascontiguousarray(self.exponent.T))

    def scaled(self, sign: Integers, power: Integers) -> Dyadic:
        """Times ``sign * 2^power``, which no rounding follows."""
        return Dyadic(self.mantissa * sign, self.exponent + power)

    def only(self, mask: Integers) -> Dyadic:
        """The same numbers with those bits of the mantissa only that are in ``mask``."""
        return Dyadic(np.sign(self.mantissa) * (abs(self.mantissa) & mask),
                      np.broadcast_to(self.exponent, np.broadcast_shapes(
                          self.exponent.shape, mask.shape)))


def full(
    random: np.random.Generator, shape: tuple[int, ...], num_bits: int, spread: int,
    is_signed: bool = True,
) -> Dyadic:
    """Random numbers of exactly ``num_bits`` significant bits, all of them in use, in the binades
    2^-spread to 2^spread."""
    mantissa = random.integers(1 << (num_bits - 1), 1 << num_bits, shape, dtype=np.int64)
    if is_signed:
        mantissa *= signs(random, shape)
    exponent = random.integers(-spread, spread + 1, shape, dtype=np.int64) - (num_bits - 1)
    return Dyadic(mantissa, exponent)


def signs(random: np.random.Generator, shape: tuple[int, ...]) -> Integers:
    """1 and -1, drawn."""
    return 1 - 2 * random.integers(0, 2, shape, dtype=np.int64)


def product(a: Dyadic, b: Dyadic) -> Dyadic:
    """``a b``, elementwise with broadcasting."""
    exponent = a.exponent + b.exponent
    if _length(a.mantissa) + _length(b.mantissa) <= INT64_BITS:
        return Dyadic(a.mantissa * b.mantissa, exponent)
    return _squeezed(a.mantissa.astype(object) * b.mantissa.astype(object), exponent)


def total(a: Dyadic, b: Dyadic) -> Dyadic:
    """``a + b`` of one shape."""
    lowest = np.minimum(a.exponent, b.exponent)
    up_a, up_b = a.exponent - lowest, b.exponent - lowest
    reach = max(_length(a.mantissa) + int(up_a.max()), _length(b.mantissa) + int(up_b.max()))
    if reach < INT64_BITS:
        return Dyadic((a.mantissa << up_a) + (b.mantissa << up_b), lowest)
    return _squeezed((a.mantissa.astype(object) << up_a.astype(object))
                     + (b.mantissa.astype(object) << up_b.astype(object)), lowest)


def quotient(a: Dyadic, b: Dyadic) -> Dyadic:
    """``a / b`` of one shape and each of one length of mantissa, cut off, with a last bit that says
    whether anything was cut off."""
    shift = KEPT_BITS + _length(b.mantissa) - _length(a.mantissa)
    above = abs(a.mantissa).astype(object) << shift
    below = abs(b.mantissa).astype(object)
    whole = above // below
    size = whole * 2 + (whole * below != above)
    sign = np.sign(a.mantissa) * np.sign(b.mantissa)
    return _squeezed(size * sign, a.exponent - b.exponent - shift - 1)


def root(a: Dyadic) -> Dyadic:
    """The square root of positive numbers, likewise."""
    odd = a.exponent & 1
    shift = KEPT_BITS - _length(a.mantissa) // 2
    square = a.mantissa.astype(object) << (odd.astype(object) + 2 * shift)
    whole = np.frompyfunc(math.isqrt, 1, 1)(square)
    return _squeezed(whole * 2 + (whole * whole != square), (a.exponent - odd) // 2 - shift - 1)


def _length(mantissa: Integers) -> int:
    return int(abs(mantissa).max()).bit_length() if mantissa.size else 0


def _squeezed(values: NDArray[np.object_], exponent: Integers) -> Dyadic:
    """Python's integers as int64: their topmost bits, and whether any below was 1."""
    sizes = abs(values)
    lengths = np.asarray(np.frompyfunc(int.bit_length, 1, 1)(sizes)).astype(np.int64)
    shift = np.maximum(lengths - KEPT_BITS, 0)
    cut = shift.astype(object)
    kept = sizes >> cut
    rest = (kept << cut) != sizes
    mantissa = kept.astype(np.int64) | rest.astype(np.int64)
    return Dyadic(np.where(values < 0, -mantissa, mantissa), exponent + shift)
