"""Known values and identities of the modified Bessel and Hurwitz zeta functions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from sdc_guard.bounds.bessel import hurwitz, scaled_bessel

ULPS = 2.0**-49


def exact_bessel(order: int, x: Fraction) -> Fraction:
    """``I_n(x)`` by its power series in rational arithmetic."""
    half = x / 2
    term = half**order
    total = term
    for k in range(1, 400):
        term = term * half * half / (k * (k + order))
        total += term
        if term < total * Fraction(1, 2**70):
            break
    return total


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("x", [2.0**-20, 0.5, 3.0, 7.9, 8.1, 20.0, 63.0, 65.0, 120.0])
def test_bessel_against_its_series_in_rational_arithmetic(order: int, x: float) -> None:
    exact = float(exact_bessel(order, Fraction(x))) * math.exp(-x)
    got = float(scaled_bessel(order, np.asarray(x)))
    assert abs(got - exact) <= (ULPS + 2.0**-52 * x) * exact


def test_bessel_of_order_one_is_odd_and_both_end_well() -> None:
    x = np.array([-2.0, 2.0, np.inf, -np.inf, np.nan, 0.0])
    one, zero = scaled_bessel(1, x), scaled_bessel(0, x)
    assert one[0] == -one[1]
    assert zero[0] == zero[1]
    assert zero[2:4].tolist() == [0.0, 0.0]
    assert np.isnan(zero[4])
    assert (zero[5], one[5]) == (1.0, 0.0)


@pytest.mark.parametrize(("s", "exact"), [
    (2, math.pi**2 / 6), (4, math.pi**4 / 90), (3, 1.2020569031595942)])
def test_zeta_of_one_is_riemanns(s: int, exact: float) -> None:
    assert abs(float(hurwitz(s, np.asarray(1.0))) - exact) <= ULPS * exact


@pytest.mark.parametrize("s", [2, 3, 5])
@pytest.mark.parametrize("x", [0.01, 0.5, 3.75, 40.0])
def test_zeta_falls_by_its_first_term(s: int, x: float) -> None:
    first, second = (float(hurwitz(s, np.asarray(v))) for v in (x, x + 1))
    assert abs(first - second - x**-s) <= 4 * ULPS * first
    assert np.isnan(hurwitz(s, np.asarray(-x)))
