"""Bits as fractions and back, one number at a time: what expected values are held against."""

from __future__ import annotations

from fractions import Fraction

from sdc_guard.sweep.exact import LAYOUTS


def fraction_of(bits: int, dtype: str) -> Fraction:
    """The number behind finite bits."""
    layout = LAYOUTS[dtype]
    stored = layout.precision - 1
    sign = -1 if bits >> (layout.num_bits - 1) else 1
    field = (bits >> stored) & ((1 << layout.exponent_bits) - 1)
    size = bits & ((1 << stored) - 1) | (1 << stored if field else 0)
    return sign * size * Fraction(2) ** (max(field, 1) - layout.bias - stored)


def rounded(value: Fraction, dtype: str) -> Fraction:
    """To the nearest number of a format without regard to its largest, ties to even."""
    if value == 0:
        return value
    layout = LAYOUTS[dtype]
    size = abs(value)
    power = size.numerator.bit_length() - size.denominator.bit_length()
    if size < Fraction(2) ** power:
        power -= 1
    step = Fraction(2) ** max(power - layout.precision + 1, 2 - layout.bias - layout.precision)
    return round(value / step) * step  # Python rounds a fraction's half to even
