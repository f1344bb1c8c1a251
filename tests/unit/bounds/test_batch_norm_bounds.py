"""Batch-norm bounds against two-pass kernels that round every step, in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from sdc_guard.bounds import batch_norm as bounds
from sdc_guard.bounds.tracked import Tracked
from sdc_guard.formats import Format
from tests.unit.bounds import toy

FINE = Format("fine", 11, -60, 60)
COARSE = Format("coarse", 8, -60, 60)
EPS = 2.0**-10


def fl(x: Fraction, fmt: Format = FINE) -> Fraction:
    return toy.rounded(x, fmt)


def row(seed: int, n: int = 14) -> list[Fraction]:
    """Some rows far from zero, some centred."""
    generator = np.random.default_rng(seed)
    raw = generator.standard_normal(n) * 2.0 ** generator.integers(-3, 3)
    raw = raw + generator.choice([0.0, 1.0, 20.0])
    return [fl(Fraction(float(x)), COARSE) for x in raw]


def array(x: list[Fraction]) -> np.ndarray:
    return np.array([[float(v) for v in x]])


def two_pass(x: list[Fraction], stats: Format) -> tuple[Fraction, Fraction, Fraction]:
    """Mean, variance and reciprocal deviation as the channels-last kernel computes them."""
    n = len(x)
    mean = fl(fl(toy.running_sum(x, FINE) / n), stats)
    squares = toy.running_sum([fl(fl(v - mean) * fl(v - mean)) for v in x], FINE)
    var = fl(fl(squares, stats) / n, stats)
    root = fl(toy.sqrt(fl(var + Fraction(EPS))))
    return mean, var, fl(fl(1 / root), stats)


@pytest.mark.parametrize("stats", [FINE, COARSE])
@pytest.mark.parametrize("seed", range(30))
def test_two_passes_stay_within_their_bounds(seed: int, stats: Format) -> None:
    x = row(seed)
    mean, var, rstd = two_pass(x, stats)
    channel = bounds.two_pass(array(x), EPS, FINE, FINE, stats)
    exact_mean = sum(x, Fraction(0)) / len(x)
    exact_var = sum((v - exact_mean) ** 2 for v in x) / len(x)
    exact_rstd = 1 / toy.sqrt(exact_var + Fraction(EPS))
    m = channel.moments
    assert abs(mean - exact_mean) <= Fraction(float(m.mean_error[0, 0]))
    assert abs(var - exact_var) <= Fraction(float(channel.var_error[0, 0]))
    assert not np.isfinite(m.rstd_error[0, 0]) or abs(rstd - exact_rstd) <= Fraction(
        float(m.rstd_error[0, 0]))


def test_a_lost_element_is_outside_the_bound_of_the_mean() -> None:
    x = [Fraction(1)] * 14
    channel = bounds.two_pass(array(x), EPS, FINE, FINE, FINE)
    assert Fraction(1, 14) > Fraction(float(channel.moments.mean_error[0, 0]))


@pytest.mark.parametrize("seed", range(20))
def test_running_statistics_stay_within_their_bound(seed: int) -> None:
    generator = np.random.default_rng(seed)
    new, old = (fl(Fraction(float(v))) for v in generator.standard_normal(2))
    off = Fraction(float(generator.standard_normal())) * Fraction(1, 100)
    momentum = fl(Fraction(1, 10))
    got = fl(fl(momentum * (new + off)) + fl(fl(1 - momentum) * old))
    exact = Fraction(1, 10) * new + Fraction(9, 10) * old
    limit = bounds.running_error(np.asarray(float(abs(off))), np.asarray(float(new)),
                                 np.asarray(float(old)), 0.1, FINE)
    assert abs(got - exact) <= Fraction(float(limit))


@pytest.mark.parametrize("seed", range(30))
def test_gradients_stay_within_their_bounds(seed: int) -> None:
    x, grad = row(seed), row(seed + 1000)
    n = len(x)
    mean, _, rstd = two_pass(x, FINE)
    weight = fl(Fraction(3, 7))
    centred = [fl(v - mean) for v in x]
    dot = toy.running_sum([fl(c * g) for c, g in zip(centred, grad, strict=True)], FINE)
    total = toy.running_sum(grad, FINE)
    k = fl(fl(fl(dot * rstd) * rstd) / n)
    share = fl(total / n)
    got = [fl(fl(fl(fl(g - share) - fl(c * k)) * rstd) * weight)
           for c, g in zip(centred, grad, strict=True)]
    exact_dot = sum((v - mean) * g for v, g in zip(x, grad, strict=True))
    exact_k = exact_dot * rstd * rstd / n
    exact_share = sum(grad, Fraction(0)) / n
    exact = [(g - exact_share - (v - mean) * exact_k) * rstd * weight
             for v, g in zip(x, grad, strict=True)]
    found = bounds.gradients(
        array(grad), array(x), np.asarray([[float(mean)]]),
        Tracked.exact([[float(rstd)]], FINE), np.asarray([[float(weight)]]), n, FINE, FINE,
        training=True)
    for i in range(n):
        assert abs(got[i] - exact[i]) <= Fraction(float(found.x.error[0, i]))
    assert abs(fl(dot * rstd) - exact_dot * rstd) <= Fraction(float(found.weight.error[0, 0]))
    assert abs(total - sum(grad, Fraction(0))) <= Fraction(float(found.bias.error[0, 0]))
