"""Complex arithmetic on a computer of few bits: no evaluation in use leaves its limit."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from sdc_guard.bounds import complex_numbers as bounds
from sdc_guard.formats import FLOAT32
from tests.unit.bounds import toy
from tests.unit.bounds.toy import TOY, rounded

Number = tuple[Fraction, Fraction]


def exact_product(x: Number, y: Number) -> Number:
    (a, b), (c, d) = x, y
    return a * c - b * d, a * d + b * c


def exact_quotient(x: Number, y: Number) -> Number:
    square = y[0] ** 2 + y[1] ** 2
    a, b = exact_product(x, (y[0], -y[1]))
    return a / square, b / square


def product(x: Number, y: Number) -> Number:
    (a, b), (c, d) = x, y
    return (rounded(rounded(a * c) - rounded(b * d)), rounded(rounded(a * d) + rounded(b * c)))


def fused_product(x: Number, y: Number) -> Number:
    (a, b), (c, d) = x, y
    return rounded(a * c - rounded(b * d)), rounded(a * d + rounded(b * c))


def plain_quotient(x: Number, y: Number) -> Number:
    a, b = product(x, (y[0], -y[1]))
    square = rounded(rounded(y[0] ** 2) + rounded(y[1] ** 2))
    return rounded(a / square), rounded(b / square)


def scaled_quotient(x: Number, y: Number) -> Number:
    """Both operands times ``1 / max(|c|, |d|)``, as ATen's vector code has it."""
    scale = rounded(1 / max(abs(y[0]), abs(y[1])))
    x, y = ((rounded(z[0] * scale), rounded(z[1] * scale)) for z in (x, y))
    return plain_quotient(x, y)


def smith_quotient(x: Number, y: Number) -> Number:
    (a, b), (c, d) = x, y
    if abs(c) >= abs(d):
        ratio = rounded(d / c)
        scale = rounded(1 / rounded(c + rounded(d * ratio)))
        return (rounded(rounded(a + rounded(b * ratio)) * scale),
                rounded(rounded(b - rounded(a * ratio)) * scale))
    ratio = rounded(c / d)
    scale = rounded(1 / rounded(rounded(c * ratio) + d))
    return (rounded(rounded(rounded(a * ratio) + b) * scale),
            rounded(rounded(rounded(b * ratio) - a) * scale))


def quotient_by_inverse(x: Number, y: Number) -> Number:
    return product(x, scaled_quotient((Fraction(1), Fraction(0)), y))


def drawn(generator: np.random.Generator) -> Number:
    """Parts of like or of very different size, and pairs that nearly cancel."""
    numbers = toy.fractions(toy.draw(generator, 2))
    kind = int(generator.integers(0, 4))
    if kind == 0:
        return rounded(numbers[0]), rounded(numbers[1] * Fraction(1, 2**6))
    if kind == 1:
        return rounded(numbers[0]), rounded(numbers[0] * (1 + Fraction(TOY.u) * 2))
    return rounded(numbers[0]), rounded(numbers[1])


def modulus(z: Number) -> float:
    return math.hypot(float(z[0]), float(z[1]))


def error(computed: Number, exact: Number) -> float:
    return modulus((computed[0] - exact[0], computed[1] - exact[1]))


@pytest.mark.parametrize("evaluate", [product, fused_product])
def test_a_product_stays_within_its_limit_and_comes_near(
    evaluate: Callable[[Number, Number], Number],
) -> None:
    generator = np.random.default_rng(0)
    worst = 0.0
    for _ in range(800):
        x, y = drawn(generator), drawn(generator)
        size = np.asarray(modulus(x) * modulus(y))
        limit = float(bounds.product_error(size, TOY))
        worst = max(worst, error(evaluate(x, y), exact_product(x, y)) / limit)
    assert 0.2 < worst <= 1.0


@pytest.mark.parametrize(
    "evaluate", [plain_quotient, scaled_quotient, smith_quotient, quotient_by_inverse])
def test_every_quotient_stays_within_its_limit(
    evaluate: Callable[[Number, Number], Number],
) -> None:
    generator = np.random.default_rng(1)
    worst = 0.0
    for _ in range(800):
        x, y = drawn(generator), drawn(generator)
        if not (any(x) and any(y)):
            continue
        limit = float(bounds.quotient_error(np.asarray(modulus(x)), np.asarray(modulus(y)), TOY))
        if math.isfinite(limit):
            worst = max(worst, error(evaluate(x, y), exact_quotient(x, y)) / limit)
    assert 0.05 < worst <= 1.0


def test_nothing_is_said_of_a_quotient_whose_denominator_leaves_the_range() -> None:
    one = np.asarray(1.0)
    for size in (1e-30, 1e30, 0.0):
        assert np.isinf(bounds.quotient_error(one, np.asarray(size), FLOAT32))
    assert np.isfinite(bounds.quotient_error(one, np.asarray(1e-10), FLOAT32))


def test_a_modulus_stays_within_its_limit() -> None:
    generator = np.random.default_rng(2)
    for _ in range(1000):
        a, b = drawn(generator)
        if not (a or b):
            continue
        square = rounded(rounded(a * a) + rounded(b * b))
        root = rounded(Fraction(math.sqrt(square)))
        limit = float(bounds.modulus_error(np.asarray(modulus((a, b))), TOY))
        assert abs(float(root) - modulus((a, b))) <= limit


@pytest.mark.parametrize("seed", range(10))
def test_a_complex_inner_product_is_two_real_ones_of_twice_the_length(seed: int) -> None:
    """Products and sums of complex numbers in any grouping: ``gamma_2k`` for either part."""
    generator = np.random.default_rng(seed)
    pairs = [(drawn(generator), drawn(generator)) for _ in range(int(generator.integers(1, 30)))]
    total: Number = (Fraction(0), Fraction(0))
    for x, y in pairs:
        term = product(x, y)
        total = rounded(total[0] + term[0]), rounded(total[1] + term[1])
    k, u = len(pairs), Fraction(TOY.u)
    gamma = 2 * k * u / (1 - 2 * k * u)
    for part in (0, 1):
        exact = sum(exact_product(x, y)[part] for x, y in pairs)
        size = sum(abs(x[0] * y[part]) + abs(x[1] * y[1 - part]) for x, y in pairs)
        assert abs(total[part] - exact) <= gamma * size
