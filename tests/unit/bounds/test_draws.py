"""The tails of exact binomial distributions lie under the stated rate of false alarms."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from sdc_guard.bounds.draws import FALSE_ALARM, bounded_mean, normal_mean


def tail(n: int, p: Fraction, t: float) -> Fraction:
    """``P(|X / n - p| >= t)`` of a binomial X, exactly."""
    far = [k for k in range(n + 1) if abs(Fraction(k, n) - p) >= Fraction(t)]
    return sum((math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in far), start=Fraction(0))


@pytest.mark.parametrize("n", [1, 7, 100, 300, 1000])
@pytest.mark.parametrize("p", [Fraction(1, 2), Fraction(1, 10), Fraction(99, 100)])
def test_a_mean_of_bits_breaks_its_bound_no_more_often_than_stated(n: int, p: Fraction) -> None:
    assert tail(n, p, bounded_mean(n, 1.0)) <= Fraction(FALSE_ALARM)


def test_the_bound_is_not_idle() -> None:
    """A quarter of it is broken far more often."""
    assert tail(1000, Fraction(1, 2), bounded_mean(1000, 1.0) / 4) > Fraction(FALSE_ALARM) * 10**20


def test_the_normal_tail_is_that_of_the_error_function() -> None:
    for n in (1, 10, 10_000):
        t = normal_mean(n, 2.0)
        assert math.erfc(t * math.sqrt(n) / (2.0 * math.sqrt(2))) <= FALSE_ALARM


def test_without_draws_nothing_is_said() -> None:
    assert bounded_mean(0, 1.0) == normal_mean(0, 1.0) == math.inf
