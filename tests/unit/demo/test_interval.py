"""Exact binomial intervals: against scipy, against known figures, and at the edges."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from sdc_guard.demo.interval import binomial_tail, clopper_pearson
from sdc_guard.errors import UsageError


@pytest.mark.parametrize(
    ("hits", "trials"), [(0, 10), (10, 10), (1, 10), (3, 24), (120, 9900), (500, 1000)]
)
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
def test_it_agrees_with_scipy(hits: int, trials: int, confidence: float) -> None:
    low, high = clopper_pearson(hits, trials, confidence)
    exact = binomtest(hits, trials).proportion_ci(confidence, method="exact")
    assert low == pytest.approx(exact.low, rel=1e-6)
    assert high == pytest.approx(exact.high, rel=1e-6)


def test_no_trial_says_nothing() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0)


def test_none_seen_is_not_never() -> None:
    low, high = clopper_pearson(0, 100)
    assert low == 0.0
    assert high == pytest.approx(1 - 0.025 ** (1 / 100))


def test_the_tail_is_a_probability() -> None:
    assert binomial_tail(50, 0.3, 0, 50) == pytest.approx(1.0)
    assert binomial_tail(2, 0.5, 1, 1) == pytest.approx(0.5)


@pytest.mark.parametrize(("hits", "trials"), [(-1, 3), (4, 3)])
def test_impossible_counts_are_an_error(hits: int, trials: int) -> None:
    with pytest.raises(UsageError, match=f"{hits} hits of {trials} trials"):
        clopper_pearson(hits, trials)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_a_confidence_is_a_probability(confidence: float) -> None:
    with pytest.raises(UsageError, match="confidence is"):
        clopper_pearson(1, 2, confidence)
