from __future__ import annotations

import math
from fractions import Fraction

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from sdc_guard.bounds.special import ERF_ERROR, erf

PI = Fraction(31415926535897932384626433832795028841971, 10**40)


def exact_erf(x: float) -> Fraction:
    """Maclaurin series in rational arithmetic, without the factor 2/sqrt(pi)."""
    value = Fraction(x)
    term, total, n = value, value, 0
    while abs(term) > Fraction(1, 2**140):
        n += 1
        term = -term * value * value / n
        total += term / (2 * n + 1)
    return total


@pytest.mark.parametrize("x", [2.0**-40, 1 / 64, 0.015, 0.3, 0.99, 1.7, 2.5, 3.1])
def test_erf_against_its_exact_series(x: float) -> None:
    series = exact_erf(x)
    # erf = 2/sqrt(pi) * series  <=>  erf^2 pi = 4 series^2
    got = Fraction(float(erf(x)))
    ratio = float(got * got * PI / (4 * series * series))
    assert abs(ratio - 1) <= 2 * ERF_ERROR


@hypothesis.given(st.floats(-7, 7))
def test_erf_agrees_with_the_c_library(x: float) -> None:
    assert abs(float(erf(x)) - math.erf(x)) <= ERF_ERROR * abs(math.erf(x))


def test_erf_at_the_ends() -> None:
    got = erf(np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 100.0]))
    assert got[:2].tolist() == [1.0, -1.0]
    assert np.isnan(got[2])
    assert np.signbit(got[4])
    assert not np.signbit(got[3])
    assert got[5] == 1.0


def test_a_wrong_coefficient_would_be_seen() -> None:
    assert abs(float(erf(0.5)) * (1 + 4 * ERF_ERROR) - math.erf(0.5)) > ERF_ERROR * math.erf(0.5)
