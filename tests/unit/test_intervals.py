"""Intervals against independent computations, and the claims that their docstrings make."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from sdc_guard.errors import UsageError
from sdc_guard.intervals import median, proportion, ratio_of_totals, wilson

COUNTS = [(0, 1), (1, 1), (0, 500), (500, 500), (1, 2), (3, 7), (198, 200), (1999, 2000), (7, 3000)]


@pytest.mark.parametrize(("count", "num"), COUNTS)
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
def test_proportion_is_the_interval_of_clopper_and_pearson(
    count: int, num: int, confidence: float
) -> None:
    expected = stats.binomtest(count, num).proportion_ci(confidence, method="exact")
    got = proportion(count, num, confidence)
    assert got.value == count / num
    assert got.low == pytest.approx(expected.low, rel=1e-9, abs=1e-12)
    assert got.high == pytest.approx(expected.high, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("count", "num"), COUNTS)
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
def test_wilson_is_the_score_interval(count: int, num: int, confidence: float) -> None:
    expected = stats.binomtest(count, num).proportion_ci(confidence, method="wilson")
    got = wilson(count, num, confidence)
    assert (got.value, got.confidence) == (count / num, confidence)
    assert got.low == pytest.approx(expected.low, rel=1e-9, abs=1e-12)
    assert got.high == pytest.approx(expected.high, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("interval", [proportion, wilson])
@pytest.mark.parametrize(("count", "num"), [(0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(
    count: int, num: int, interval: Callable[[int, int], object]
) -> None:
    with pytest.raises(UsageError, match=f"{count} successes in {num} trials"):
        interval(count, num)


@pytest.mark.parametrize(("num", "rank"), [(6, 1), (8, 1), (9, 2), (20, 6), (21, 6)])
def test_median_has_the_order_statistics_of_the_sign_test(num: int, rank: int) -> None:
    """Ranks from the usual table for 95 % (Conover, table of the sign test)."""
    values = [float(v) for v in np.random.default_rng(num).permutation(num) + 1]
    got = median(values)
    assert (got.low, got.high) == (rank, num + 1 - rank)
    assert got.value == (num + 1) / 2
    assert got.confidence == pytest.approx(1 - 2 * stats.binom.cdf(rank - 1, num, 0.5))
    assert got.confidence >= 0.95


def test_too_few_values_get_their_range_and_its_own_confidence() -> None:
    got = median([3.0, 1.0, 2.0])
    assert (got.low, got.high) == (1.0, 3.0)
    assert got.confidence == pytest.approx(0.75)


def test_the_median_interval_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    num_covering = 0
    for _ in range(1000):
        got = median(list(generator.lognormal(size=20)))
        num_covering += got.low <= 1.0 <= got.high
    # Exact coverage is 0.9586; a count below 930 has a chance of 3e-5.
    assert num_covering >= 930


def test_ratio_of_totals_sees_what_a_median_does_not() -> None:
    below = [1.0] * 40
    above = [1.0] * 36 + [11.0] * 4
    assert median([a / b for a, b in zip(above, below, strict=True)]).value == 1.0
    got = ratio_of_totals(above, below, seed=0)
    assert got.value == 2.0
    assert 1.0 < got.low < 2.0 < got.high < 3.5


def test_nothing_has_no_interval() -> None:
    with pytest.raises(UsageError, match="no values"):
        median([])
    with pytest.raises(UsageError, match="no pairs"):
        ratio_of_totals([], [], seed=0)
