"""Intervals for counts, medians and ratios of totals: exact where there is an exact one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from sdc_guard.errors import UsageError
from sdc_guard.records import Record

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000


class Interval(Record, frozen=True, kw_only=True):
    """``value`` with a two-sided interval; ``confidence`` is the least chance that it covers."""

    value: float
    low: float
    high: float
    confidence: float


@lru_cache(maxsize=4096)
def proportion(count: int, num: int, confidence: float = CONFIDENCE) -> Interval:
    """``count / num`` with the exact interval of Clopper and Pearson (1934).

    The low end is the p at which ``count`` or more successes in ``num`` have probability
    alpha / 2, the high end the p at which ``count`` or fewer have it; both by bisection on binomial
    tails.

    Raises:
        UsageError: if ``num`` is below 1 or ``count`` is not in ``0..num``.
    """
    _require_counts(count, num)
    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else _solve(lambda p: _at_most(num - count, num, 1 - p) - tail)
    high = 1.0 if count == num else _solve(lambda p: tail - _at_most(count, num, p))
    return Interval(value=count / num, low=low, high=high, confidence=confidence)


def wilson(count: int, num: int, confidence: float = CONFIDENCE) -> Interval:
    """``count / num`` with the score interval of Wilson (1927), without continuity correction.

    Its ends are the p at which ``count / num`` lies z standard deviations from p:
    ``(k + z^2/2 -+ z sqrt(k (n - k) / n + z^2/4)) / (n + z^2)``.  It covers ``confidence`` on
    average over p, not for each p as :func:`proportion` does, and is narrower for that.

    Raises:
        UsageError: as :func:`proportion`.
    """
    _require_counts(count, num)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = count + z * z / 2
    reach = z * math.sqrt(count * (num - count) / num + z * z / 4)
    return Interval(
        value=count / num, confidence=confidence,
        low=0.0 if count == 0 else (middle - reach) / (num + z * z),
        high=1.0 if count == num else (middle + reach) / (num + z * z))


def _require_counts(count: int, num: int) -> None:
    if num < 1 or not 0 <= count <= num:
        raise UsageError(f"{count} successes in {num} trials: give num >= 1 and 0 <= count <= num")


def _at_most(count: int, num: int, p: float) -> float:
    """P(X <= count) for X binomial(num, p)."""
    if p <= 0.0:
        return 1.0
    if p >= 1.0:
        return 1.0 if count >= num else 0.0
    log_p, log_q, log_all = math.log(p), math.log1p(-p), math.lgamma(num + 1)
    upper = count > num // 2  # the shorter tail is summed
    tail = math.fsum(
        math.exp(log_all - math.lgamma(k + 1) - math.lgamma(num - k + 1)
                 + k * log_p + (num - k) * log_q)
        for k in (range(count + 1, num + 1) if upper else range(count + 1)))
    return 1.0 - tail if upper else tail


def _solve(increasing: Callable[[float], float]) -> float:
    """The zero in [0, 1] of an increasing function, to the last bit that bisection reaches."""
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        if increasing(middle) < 0:
            low = middle
        else:
            high = middle
    return middle


def median(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Sample median with the sign test's interval: order statistics, no assumption on the
    distribution.

    With n values the k-th smallest and k-th largest enclose the median with probability
    ``1 - 2 P(X < k)``, X binomial(n, 1/2); k is the largest that reaches ``confidence``.  Where
    even k = 1 does not (n < 6 for 95 %), the interval is the range, with its own confidence.

    Raises:
        UsageError: if there are no values.
    """
    if not values:
        raise UsageError("no values: the median of nothing has no interval")
    ordered, num = sorted(values), len(values)
    k = 1
    while k < (num + 1) // 2 and 1 - 2 * _at_most(k, num, 0.5) >= confidence:
        k += 1
    return Interval(value=float(np.median(ordered)), low=ordered[k - 1], high=ordered[num - k],
                    confidence=max(0.0, 1 - 2 * _at_most(k - 1, num, 0.5)))


def ratio_of_totals(
    numerators: Sequence[float], denominators: Sequence[float], *, seed: int,
    confidence: float = CONFIDENCE,
) -> Interval:
    """``sum(numerators) / sum(denominators)`` of pairs, with the percentile bootstrap over pairs.

    For costs that fall on a few pairs only, which a median does not see.  The bootstrap is
    approximate: below some 20 pairs it is too narrow.

    Raises:
        UsageError: if there are no pairs.
    """
    if not numerators:
        raise UsageError("no pairs: a ratio of empty totals does not exist")
    above, below = np.asarray(numerators), np.asarray(denominators)
    generator = np.random.default_rng(seed)
    drawn = generator.integers(len(above), size=(NUM_RESAMPLES, len(above)))
    ratios = above[drawn].sum(axis=1) / below[drawn].sum(axis=1)
    low, high = np.quantile(ratios, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value=float(above.sum() / below.sum()), low=float(low), high=float(high),
                    confidence=confidence)
