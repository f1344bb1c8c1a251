"""A computer that rounds every operation to a few bits, in exact rational arithmetic.

Real formats round so finely that a wrong constant in a bound would hardly show; with 6 to 11
significand bits the errors are large and a test that adds up the worst of them is quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np

from sdc_guard.formats import Format

TOY = Format("toy", 8, -40, 60)
"""As fine as bf16, with a narrower exponent range."""


def rounded(x: Fraction, fmt: Format = TOY) -> Fraction:
    """The nearest number of the format, ties to even, subnormals included."""
    if x == 0:
        return x
    magnitude = abs(x)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if Fraction(2) ** exponent > magnitude:
        exponent -= 1
    step = Fraction(2) ** (max(exponent, fmt.emin) - fmt.precision + 1)
    return round(x / step) * step


def exp(x: Fraction) -> Fraction:
    """``e^x`` to 50 digits."""
    with localcontext() as context:
        context.prec = 50
        return Fraction((Decimal(x.numerator) / Decimal(x.denominator)).exp())


def log(x: Fraction) -> Fraction:
    """The natural logarithm to 50 digits."""
    with localcontext() as context:
        context.prec = 50
        return Fraction((Decimal(x.numerator) / Decimal(x.denominator)).ln())


def sqrt(x: Fraction) -> Fraction:
    """The square root to 50 digits."""
    with localcontext() as context:
        context.prec = 50
        return Fraction((Decimal(x.numerator) / Decimal(x.denominator)).sqrt())


def running_sum(terms: Sequence[Fraction], fmt: Format = TOY) -> Fraction:
    """Terms added one after the other, each sum rounded."""
    total = Fraction(0)
    for term in terms:
        total = rounded(total + term, fmt)
    return total


def dot(a: Sequence[Fraction], b: Sequence[Fraction], fmt: Format = TOY) -> Fraction:
    """Products and sums each rounded."""
    return running_sum([rounded(x * y, fmt) for x, y in zip(a, b, strict=True)], fmt)


def draw(generator: np.random.Generator, *shape: int, spread: float = 3.0) -> np.ndarray:
    """Numbers of the toy format over some binades, as float64."""
    raw = generator.standard_normal(shape) * np.exp2(spread * generator.standard_normal(shape))
    flat = [float(rounded(Fraction(float(x)))) for x in raw.ravel()]
    return np.array(flat).reshape(shape)


def fractions(array: np.ndarray) -> list[Fraction]:
    """The elements of a vector as exact numbers."""
    return [Fraction(float(x)) for x in array]
