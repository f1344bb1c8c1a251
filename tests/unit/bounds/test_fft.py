"""Fourier transforms on a computer of few bits: a radix-2 transform keeps the path bound."""

from __future__ import annotations

import cmath
import math
from fractions import Fraction

import numpy as np
import pytest

from sdc_guard.bounds import fft
from sdc_guard.formats import FLOAT32
from tests.unit.bounds import toy
from tests.unit.bounds.test_complex_numbers import Number, product
from tests.unit.bounds.toy import TOY, rounded


def root_of_unity(j: int, n: int) -> Number:
    w = cmath.exp(-2j * math.pi * j / n)
    return rounded(Fraction(w.real)), rounded(Fraction(w.imag))


def transform(x: list[Number]) -> list[Number]:
    """Decimation in time; every operation is rounded, the roots of unity too."""
    n = len(x)
    if n == 1:
        return x
    even, odd = transform(x[::2]), transform(x[1::2])
    turned = [product(root_of_unity(j, n), z) for j, z in enumerate(odd)]
    sums = [(rounded(a[0] + b[0]), rounded(a[1] + b[1])) for a, b in zip(even, turned, strict=True)]
    rest = [(rounded(a[0] - b[0]), rounded(a[1] - b[1])) for a, b in zip(even, turned, strict=True)]
    return sums + rest


@pytest.mark.parametrize("stages", range(1, 7))
def test_a_transform_stays_within_the_path_bound(stages: int) -> None:
    n, generator = 2**stages, np.random.default_rng(stages)
    worst = 0.0
    for trial in range(12):
        parts = toy.fractions(toy.draw(generator, 2 * n))
        if trial == 0:  # one frequency: the last stages cancel
            wave = [root_of_unity(-3 * j, n) for j in range(n)]
        elif trial == 1:
            wave = [(rounded(Fraction(1, 10)), Fraction(0))] * n
        else:
            wave = [(rounded(a), rounded(b)) for a, b in zip(parts[:n], parts[n:], strict=True)]
        numbers = np.array([complex(*map(float, z)) for z in wave])
        exact = np.fft.fft(numbers)
        found = np.array([complex(*map(float, z)) for z in transform(wave)])
        limit = fft.path_error(stages, TOY.u) * np.abs(numbers).sum()
        worst = max(worst, float(np.abs(found - exact).max() / limit))
    assert 0.02 < worst <= 1.0


def test_a_proof_exists_for_powers_of_two_and_the_contract_is_inside_it() -> None:
    total = np.asarray([1.0])
    assert fft.transform_error(12, total, FLOAT32)[0] is None
    for n in (1, 2, 1024, 2**20):
        proof, contract = fft.transform_error(n, total, FLOAT32)
        assert proof is not None
        assert (contract <= proof).all()


def test_only_sizes_with_large_prime_factors_need_room_for_a_convolution() -> None:
    assert fft.growth(2**5 * 3 * 13) == 1.0
    assert fft.growth(2 * 17) > 1.0
