"""Variance bounds against Welford's algorithm and trees of merges, exact in fractions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest

from sdc_guard.bounds import moments
from sdc_guard.formats import FLOAT32

F32 = np.float32
Part = tuple[np.float32, np.float32, int]


def exact(values: Sequence[float]) -> tuple[Fraction, Fraction]:
    """Mean and sum of squares about it."""
    numbers = [Fraction(float(v)) for v in values]
    mean = sum(numbers, Fraction(0)) / len(numbers)
    return mean, sum(((x - mean) ** 2 for x in numbers), Fraction(0))


def welford(values: np.ndarray) -> Part:
    mean, squares = F32(0), F32(0)
    for i, x in enumerate(values):
        delta = F32(x - mean)
        mean = F32(mean + F32(delta / F32(i + 1)))
        squares = F32(squares + F32(delta * F32(x - mean)))
    return mean, squares, len(values)


def merged(a: Part, b: Part) -> Part:
    n = a[2] + b[2]
    delta = F32(b[0] - a[0])
    share = F32(F32(b[2]) / F32(n))
    squares = F32(F32(a[1] + b[1]) + F32(F32(F32(delta * delta) * F32(a[2])) * share))
    return F32(a[0] + F32(delta * share)), squares, n


def tree(values: np.ndarray) -> Part:
    if len(values) <= 3:
        return welford(values)
    half = len(values) // 2
    return merged(tree(values[:half]), tree(values[half:]))


def limits(values: np.ndarray) -> tuple[float, float, float, float]:
    """Exact mean and squares, and the limits on both."""
    mean, squares = exact(values.tolist())
    largest = np.asarray(float(np.abs(values).max()))
    spread = np.asarray(float(values.max()) - float(values.min()))
    off = moments.mean_error(len(values), largest, spread, FLOAT32.u, FLOAT32.eta)
    error = moments.square_sum_error(len(values), np.asarray(float(squares)), off, FLOAT32.u,
                                     FLOAT32.eta)
    return float(mean), float(squares), float(off), float(error)


def draws() -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    shapes = [rng.standard_normal(n) for n in (2, 3, 7, 50, 400)]
    far = [1e4 + rng.standard_normal(300), np.full(200, 0.1), np.r_[np.full(199, 0.1), 1000.0]]
    tiny = [FLOAT32.tiny * rng.standard_normal(60), np.exp2(rng.uniform(-12, 12, 200))]
    return [x.astype(F32) for x in (*shapes, *far, *tiny)]


@pytest.mark.parametrize("algorithm", [welford, tree])
@pytest.mark.parametrize("values", draws(), ids=range(len(draws())))
def test_both_algorithms_keep_the_bound(algorithm: object, values: np.ndarray) -> None:
    mean, squares, _ = algorithm(values)  # type: ignore[operator]
    wanted_mean, wanted, off, error = limits(values)
    assert abs(float(mean) - wanted_mean) <= off
    assert abs(float(squares) - wanted) <= error


@pytest.mark.parametrize("values", draws()[2:4], ids=range(2))
def test_one_lost_element_breaks_the_bound(values: np.ndarray) -> None:
    _, squares, _ = welford(values[:-1])
    _, wanted, _, error = limits(values)
    assert abs(float(squares) - wanted) > error


def test_the_root_of_a_number_known_within_an_error() -> None:
    value, error = np.array([4.0, 1e-8, 0.0]), np.array([1e-6, 1e-8, 1e-10])
    limit = moments.root_error(value, error)
    for v, e, bound in zip(value, error, limit, strict=True):
        worst = max(abs(math.sqrt(v + s * e) - math.sqrt(v)) for s in (-1, 1) if v + s * e >= 0)
        assert worst <= bound * (1 + 1e-12) <= 4 * worst
