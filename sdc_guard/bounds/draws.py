"""How far the mean of independent draws may be from its expectation, but for one call in 1e30.

Draws that lie in an interval of width w: ``P(|mean - E mean| >= t) <= 2 exp(-2 n t^2 / w^2)``
(Hoeffding 1963, theorem 2; the draws need not have one distribution).  Normal draws of deviation
at most s: the mean is normal, ``P(|mean - E mean| >= t) <= 2 exp(-n t^2 / (2 s^2))``.  Both are
solved for t at ``FALSE_ALARM``.  The premise is that a generator's numbers behave as independent
ones; a call in ``1 / FALSE_ALARM`` breaks the bound although nothing is wrong.
"""

from __future__ import annotations

import math

FALSE_ALARM = 1e-30
"""Probability, per call, that a correct draw breaks a bound of this file."""

_LOG = math.log(2 / FALSE_ALARM)


def bounded_mean(num_draws: int, width: float) -> float:
    """Hoeffding's t for draws in an interval of that width."""
    return width * math.sqrt(_LOG / (2 * num_draws)) if num_draws else math.inf


def normal_mean(num_draws: int, deviation: float) -> float:
    """The t of normal draws of at most that deviation."""
    return deviation * math.sqrt(2 * _LOG / num_draws) if num_draws else math.inf
