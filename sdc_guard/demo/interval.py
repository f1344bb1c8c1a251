"""How sure a counted rate is: the exact interval of Clopper and Pearson."""

from __future__ import annotations

import math
from collections.abc import Callable

from sdc_guard.errors import UsageError

CONFIDENCE = 0.95
_BISECTIONS = 60


def clopper_pearson(
    hits: int, trials: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Smallest and largest rate under which ``hits`` of ``trials`` is not too unlikely.

    The bounds solve P(X >= hits | low) = alpha/2 and P(X <= hits | high) = alpha/2 for a binomial
    X, alpha = 1 - confidence (Clopper and Pearson 1934, Biometrika 26, p. 404).  With no trial
    the interval is [0, 1].

    Raises:
        UsageError: if not 0 <= hits <= trials, or confidence is outside (0, 1).
    """
    if not 0 <= hits <= trials:
        raise UsageError(f"{hits} hits of {trials} trials: hits must lie in 0..{trials}")
    if not 0 < confidence < 1:
        raise UsageError(f"confidence is {confidence} and must lie between 0 and 1")
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else _solve(
        lambda rate: binomial_tail(trials, rate, hits, trials), tail)
    high = 1.0 if hits == trials else _solve(
        lambda rate: -binomial_tail(trials, rate, 0, hits), -tail)
    return low, high


def binomial_tail(trials: int, rate: float, first: int, last: int) -> float:
    """P(first <= X <= last) for a binomial X and a rate inside (0, 1), summed term by term."""
    log_rate, log_rest = math.log(rate), math.log1p(-rate)
    log_all = math.lgamma(trials + 1)
    return math.fsum(
        math.exp(
            log_all - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
            + k * log_rate + (trials - k) * log_rest
        )
        for k in range(first, last + 1)
    )


def _solve(rising: Callable[[float], float], target: float) -> float:
    """The rate at which an increasing function of it reaches ``target``, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if rising(middle) < target:
            low = middle
        else:
            high = middle
    return (low + high) / 2
