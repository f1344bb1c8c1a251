"""The convolution bound against kernels that round every step to 8 bits, in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from sdc_guard.bounds import convolution
from sdc_guard.formats import BFLOAT16, FLOAT32
from tests.unit.bounds import toy


def limit_of(num_terms: int, expected: Fraction, size: Fraction, num_stored: int = 0,
             dtype: torch.dtype = torch.bfloat16) -> Fraction:
    return Fraction(float(convolution.dot_bound(
        num_terms, np.asarray(float(expected)), np.asarray(float(size)), 1e3, dtype,
        num_stored=num_stored)))


@pytest.mark.parametrize("seed", range(20))
def test_partial_sums_stored_in_bf16_stay_within_the_bound(seed: int) -> None:
    """Columns are summed exactly (better than fp32), each partial sum of columns is stored."""
    generator = np.random.default_rng(seed)
    num_columns, length = int(generator.integers(2, 10)), int(generator.integers(1, 12))
    a, b = (toy.draw(generator, num_columns, length) for _ in range(2))
    columns = [sum((Fraction(x) * Fraction(y) for x, y in zip(p, q, strict=True)), Fraction(0))
               for p, q in zip(a.tolist(), b.tolist(), strict=True)]
    size = Fraction(float((np.abs(a) * np.abs(b)).sum()))
    total = Fraction(0)
    for column in columns:
        total = toy.rounded(total + toy.rounded(column, BFLOAT16), BFLOAT16)
    error = abs(total - sum(columns))
    limit = limit_of(num_columns * length, sum(columns), size, num_columns + 1)
    assert error <= limit


def test_without_stored_sums_the_bound_is_too_small_for_them() -> None:
    """A large first column swallows half a unit of each later one."""
    columns = [Fraction(1)] + [Fraction(BFLOAT16.u) * Fraction(127, 128)] * 30
    total = toy.running_sum(columns, BFLOAT16)
    size = sum(columns, Fraction(0))
    error = abs(total - size)
    assert error > limit_of(len(columns), size, size)
    assert error <= limit_of(len(columns), size, size, len(columns))


def test_a_dot_product_in_fp32_nearly_reaches_its_bound() -> None:
    terms = [Fraction(1)] + [Fraction(FLOAT32.u) * Fraction(127, 128)] * 60
    size = sum(terms, Fraction(0))
    error = abs(toy.running_sum(terms, FLOAT32) - size)
    limit = limit_of(len(terms), size, size, dtype=torch.float32)
    assert limit / 4 < error <= limit
