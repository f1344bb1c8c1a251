"""Softmax bounds against a kernel that rounds every step to 8 bits; true values by 50 digits."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from sdc_guard.bounds import softmax as bounds
from tests.unit.bounds import toy

U = bounds.with_reference(toy.TOY)
PHI = 1 * toy.TOY.u
"""The toy's exponential is correctly rounded."""


def drawn(seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return toy.draw(generator, int(generator.integers(2, 14)), spread=1.0)


def parts(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    d = x - x.max()
    e = np.exp(d)
    return np.abs(d), e, e.sum(keepdims=True)


def toy_terms(x: list[Fraction]) -> list[Fraction]:
    top = max(x)
    return [toy.rounded(toy.exp(toy.rounded(v - top))) for v in x]


def worst(computed: list[Fraction], exact: list[Fraction], limit: np.ndarray) -> Fraction:
    """Largest error over its limit, the rounding of the stored result counted."""
    return max(
        abs(c - e) / (Fraction(float(bound)) + Fraction(toy.TOY.u) * abs(e) + Fraction(toy.TOY.eta))
        for c, e, bound in zip(computed, exact, limit, strict=True)
    )


def softmax_case(x: np.ndarray) -> Fraction:
    exact_terms = [toy.exp(v - max(toy.fractions(x))) for v in toy.fractions(x)]
    terms = toy_terms(toy.fractions(x))
    inverse = toy.rounded(1 / toy.running_sum(terms))
    computed = [toy.rounded(t * inverse) for t in terms]
    distance, e, total = parts(x)
    limit = bounds.softmax_error(distance, e, total, len(x), U, PHI, toy.TOY.tiny)
    return worst(computed, [t / sum(exact_terms) for t in exact_terms], limit)


def log_softmax_case(x: np.ndarray) -> Fraction:
    values = toy.fractions(x)
    top = max(values)
    log_total = toy.rounded(toy.log(toy.running_sum(toy_terms(values))))
    computed = [toy.rounded(toy.rounded(v - top) - log_total) for v in values]
    true_log = toy.log(sum(toy.exp(v - top) for v in values))
    distance, e, total = parts(x)
    limit = bounds.log_softmax_error(distance, e, total, len(x), U, PHI, 0.0)
    return worst(computed, [v - top - true_log for v in values], limit)


def softmax_gradient_case(x: np.ndarray) -> Fraction:
    grad, output = toy.fractions(x), toy_terms(toy.fractions(x[::-1]))
    total = toy.dot(grad, output)
    computed = [toy.rounded(toy.rounded(g - total) * y)
                for g, y in zip(grad, output, strict=True)]
    true_total = sum(g * y for g, y in zip(grad, output, strict=True))
    limit = bounds.softmax_gradient_error(x, np.array([float(y) for y in output]), len(x), U, 0.0)
    return worst(computed, [(g - true_total) * y for g, y in zip(grad, output, strict=True)], limit)


def log_softmax_gradient_case(x: np.ndarray) -> Fraction:
    grad, output = toy.fractions(x), [-abs(v) for v in toy.fractions(x[::-1])]
    total = toy.running_sum(grad)
    computed = [toy.rounded(g - toy.rounded(toy.rounded(toy.exp(y)) * total))
                for g, y in zip(grad, output, strict=True)]
    limit = bounds.log_softmax_gradient_error(
        x, np.exp(-np.abs(x[::-1])), len(x), U, PHI, 0.0)
    return worst(computed, [g - toy.exp(y) * sum(grad) for g, y in zip(grad, output, strict=True)],
                 limit)


CASES = (softmax_case, log_softmax_case, softmax_gradient_case, log_softmax_gradient_case)


@pytest.mark.parametrize("case", CASES)
def test_every_error_is_inside_and_some_come_near(case: Callable[[np.ndarray], Fraction]) -> None:
    ratios = [case(drawn(seed)) for seed in range(60)]
    assert max(ratios) <= 1
    assert max(ratios) >= Fraction(1, 10)


def test_a_term_far_below_the_maximum_has_a_finite_limit() -> None:
    x = np.array([0.0, -1e9, -np.inf])
    limit = bounds.softmax_error(*parts(x), 2.0, U, PHI, toy.TOY.tiny)
    assert np.all(np.isfinite(limit))
    assert limit[1] == limit[2] == 2 * toy.TOY.tiny


@pytest.mark.parametrize("x", [0.0, 1e-9, 0.3, 0.999, 1.0, 1.5, 20.0, 600.0])
def test_growth_bounds_the_exponential(x: float) -> None:
    bound = float(bounds.growth(np.array([x]))[0])
    assert np.expm1(x) <= bound * (1 + 2.0**-50)
    assert bound <= 1.2 * np.expm1(x)


def test_growth_is_cut_where_it_would_overflow() -> None:
    assert float(bounds.growth(np.array([1e6, np.inf]))[1]) == bounds.LARGEST_GROWTH


def test_storage_of_the_sum_widens_the_logarithm_and_nothing_else() -> None:
    x = drawn(3)
    kept = bounds.log_softmax_error(*parts(x), 5, U, PHI, 0.0)
    coarse = bounds.log_softmax_error(*parts(x), 5, U, PHI, 2.0**-8)
    assert np.all(coarse - kept >= 2.0**-8)
    assert np.ptp(coarse - kept) < 1e-4
