"""Products, sums, quotients and roots of dyadic numbers against Python's fractions."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from sdc_guard.sweep.dyadic import Dyadic, full, product, quotient, root, total
from sdc_guard.sweep.exact import LAYOUTS
from tests.unit.sweep.exact_values import fraction_of, rounded

DTYPES = ("float64", "float32", "bfloat16", "float16")
Two = Callable[[Dyadic, Dyadic], Dyadic]


def _fractions(numbers: Dyadic) -> list[Fraction]:
    return [int(m) * Fraction(2) ** int(e)
            for m, e in zip(numbers.mantissa, numbers.exponent, strict=True)]


def _values(numbers: Dyadic, dtype: str) -> list[Fraction]:
    return [fraction_of(int(bits), dtype) for bits in numbers.bits(dtype)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("function", "exact"), [
    (product, lambda a, b: a * b), (total, lambda a, b: a + b), (quotient, lambda a, b: a / b)],
    ids=["product", "total", "quotient"])
def test_two_numbers_give_the_exact_result_rounded_once(
    function: Two, exact: Callable[[Fraction, Fraction], Fraction], dtype: str
) -> None:
    random = np.random.default_rng(3)
    spread = 2 if dtype == "float16" else 25
    a, b = (full(random, (300,), LAYOUTS[dtype].precision, spread) for _ in range(2))
    expected = [rounded(exact(x, y), dtype)
                for x, y in zip(_fractions(a), _fractions(b), strict=True)]
    assert _values(function(a, b), dtype) == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_root_is_the_nearest_number(dtype: str) -> None:
    random = np.random.default_rng(4)
    a = full(random, (300,), LAYOUTS[dtype].precision, 3, is_signed=False)
    for square, bits in zip(_fractions(a), root(a).bits(dtype), strict=True):
        low, here, high = (fraction_of(int(bits) + step, dtype) for step in (-1, 0, 1))
        assert ((low + here) / 2) ** 2 <= square <= ((here + high) / 2) ** 2


def test_a_perfect_square_has_its_root_and_a_tie_goes_to_even() -> None:
    square = Dyadic(np.array([(2**23 + 1) ** 2]), np.array([-46]))
    assert _fractions(root(square)) != []
    assert _values(root(square), "float32") == [Fraction(2**23 + 1, 2**23)]
    tie = Dyadic(np.array([2**24 + 1, 2**24 + 3]), np.array([0, 0]))
    assert _values(tie, "float32") == [2**24, 2**24 + 4]
    above = total(Dyadic(np.array([2**52 + 1]), np.array([60])),
                  Dyadic(np.array([1]), np.array([0])))
    assert _values(above, "float64") == [Fraction((2**52 + 1) * 2**60)]


def test_what_was_cut_off_still_decides_a_tie() -> None:
    # 2^53 + 1 is halfway between two float64; 2^-60 more is above the middle.
    sums = total(Dyadic(np.array([2**53 + 1]), np.array([0])),
                 Dyadic(np.array([1]), np.array([-60])))
    assert _values(sums, "float64") == [Fraction(2**53 + 2)]


def test_full_numbers_use_all_their_bits() -> None:
    numbers = full(np.random.default_rng(5), (4000,), 24, 3)
    size = abs(numbers.mantissa)
    assert int(size.min()) >= 2**23
    assert int(np.bitwise_or.reduce(size)) == 2**24 - 1
    assert int(np.bitwise_and.reduce(size)) == 2**23
    assert set(np.sign(numbers.mantissa)) == {-1, 1}


def test_only_keeps_bits_and_sign() -> None:
    kept = Dyadic(np.array([-7, 5]), np.array([2, 3])).only(np.array([5, 4]))
    assert kept.mantissa.tolist() == [-5, 4]
    assert kept.exponent.tolist() == [2, 3]
