"""Known values of the functions that NumPy lacks."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from sdc_guard.bounds.special_values import erfc, inverse_erf, log_gamma, psi

EULER = 0.57721566490153286


@pytest.mark.parametrize("n", [1, 2, 3, 10, 15, 16, 17, 40])
def test_psi_of_a_whole_number_is_a_harmonic_number(n: int) -> None:
    harmonic = sum((Fraction(1, k) for k in range(1, n)), Fraction(0))
    exact = float(harmonic) - EULER
    assert abs(float(psi(np.asarray(float(n)))) - exact) <= 2.0**-50 * (1 + abs(exact))


@pytest.mark.parametrize("x", [0.5, -0.5, -3.5])
def test_psi_of_a_half(x: float) -> None:
    exact = -EULER - 2 * math.log(2)
    shifted = 0.5
    while shifted > x:
        shifted -= 1
        exact -= 1 / shifted
    assert abs(float(psi(np.asarray(x))) - exact) <= 2.0**-49 * (1 + abs(exact))


def test_psi_at_its_poles() -> None:
    got = psi(np.array([0.0, -0.0, -1.0, np.inf]))
    assert got[0] == -np.inf
    assert got[1] == np.inf
    assert np.isnan(got[2])
    assert got[3] == np.inf


def test_log_gamma_of_a_whole_number_is_the_log_of_a_factorial() -> None:
    numbers = np.arange(1, 20)
    exact = [math.log(math.factorial(n - 1)) for n in numbers]
    assert np.all(np.abs(log_gamma(numbers) - exact) <= 2.0**-50 * (1 + np.abs(exact)))
    assert log_gamma(np.array([0.0, -1.0, 1e308, -np.inf])).tolist() == [np.inf] * 4


def test_inverse_erf_is_the_inverse_of_erf() -> None:
    y = np.concatenate([np.linspace(-3, 3, 601), [1e-8, 1e-300]])
    x = np.vectorize(math.erf)(y)
    slope = 2 / math.sqrt(math.pi) * np.exp(-y * y)
    # The rounding of x, carried back through the slope, and a few of our own.
    limit = 2.0**-53 * np.abs(x) / slope + 2.0**-50 * np.abs(y)
    assert np.all(np.abs(inverse_erf(x) - y) <= limit)
    assert inverse_erf(np.array([1.0, -1.0])).tolist() == [np.inf, -np.inf]
    assert np.isnan(inverse_erf(np.array([1.5]))[0])


def test_erfc_keeps_its_relative_accuracy() -> None:
    x = np.array([0.0, 1.0, 10.0, 26.0])
    exact = np.array([1.0, 0.15729920705028513, 2.088487583762545e-45, 5.663192408856143e-296])
    assert np.all(np.abs(erfc(x) - exact) <= 2.0**-49 * exact)
