from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from sdc_guard.bounds import products, sums
from sdc_guard.formats import BFLOAT16, FLOAT32, FLOAT64
from tests.unit.bounds import toy


def tree_sum(terms: list[Fraction], generator: np.random.Generator) -> Fraction:
    """Any two partial sums are added, in random order."""
    parts = list(terms)
    while len(parts) > 1:
        i, j = sorted(generator.choice(len(parts), 2, replace=False))
        second, first = parts.pop(j), parts.pop(i)
        parts.append(toy.rounded(first + second))
    return parts[0]


@pytest.mark.parametrize("seed", range(20))
def test_a_sum_in_any_order_stays_within_the_proof_bound(seed: int) -> None:
    generator = np.random.default_rng(seed)
    terms = toy.fractions(toy.draw(generator, int(generator.integers(1, 40))))
    limit = Fraction(float(sums.any_order(len(terms), float(sum(map(abs, terms))), toy.TOY)))
    for computed in (toy.running_sum(terms), toy.running_sum(terms[::-1]),
                     tree_sum(terms, generator)):
        assert abs(computed - sum(terms)) <= limit


def test_the_proof_bound_of_a_sum_is_nearly_reached() -> None:
    """A large first term swallows half a unit each time."""
    terms = [Fraction(1)] + [Fraction(toy.TOY.u) * Fraction(127, 128)] * 60
    error = abs(toy.running_sum(terms) - sum(terms))
    limit = Fraction(float(sums.any_order(len(terms), float(sum(terms)), toy.TOY)))
    assert limit / 4 < error <= limit


@pytest.mark.parametrize("seed", range(10))
def test_a_binary_tree_stays_within_its_depth(seed: int) -> None:
    generator = np.random.default_rng(seed)
    parts = toy.fractions(toy.draw(generator, 64))
    exact, size = sum(parts), sum(map(abs, parts))
    while len(parts) > 1:
        parts = [toy.rounded(a + b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    assert abs(parts[0] - exact) <= 6 * Fraction(toy.TOY.u) * (1 + Fraction(1, 20)) * size


def cascaded_depth(n: int) -> int:
    """The number of additions behind the first element, by walking through ATen's loops."""
    power = max(4, math.ceil(math.log2(n)) // 4)
    step, depth = 2**power, [0, 0, 0, 0]
    i = 0
    while i + step <= n:
        depth[0] += step
        i += step
        for level in range(1, 4):
            depth[level] = max(depth[level], depth[level - 1]) + 1
            depth[level - 1] = 0
            if i & ((step - 1) << (level * power)):
                break
    depth[0] += n - i
    return max(depth) + 3


@pytest.mark.parametrize("n", [1, 2, 17, 256, 1000, 4097, 65536, 100_003, 2**18 + 1, 2**20])
def test_the_depth_of_the_cascade_covers_the_loops_of_the_kernel(n: int) -> None:
    assert sums.cascade_depth(n) >= min(n - 1, cascaded_depth(n))
    assert sums.cascade_depth(n) <= max(n - 1, 0)


def test_the_cascade_is_far_shallower_than_the_number_of_terms_and_runs_add_up() -> None:
    assert sums.cascade_depth(10**6) < 500
    assert sums.cascade_depth(10**6, runs=5000) > 5000
    assert sums.cascade_depth(10**6, parts=8) == sums.cascade_depth(10**6) + 8
    assert sums.cascade_depth(0) == sums.cascade_depth(1) == 0


@pytest.mark.parametrize("acc", [FLOAT32, FLOAT64])
def test_lanes_make_a_running_sum_shallower(acc: object) -> None:
    assert sums.lane_depth(7, acc) == 6  # type: ignore[arg-type]
    assert sums.lane_depth(10**6, acc) <= 10**6 / 2 + 40  # type: ignore[arg-type]


def test_the_reference_of_a_long_double_is_sharper() -> None:
    assert sums.reference_error(10**6, 1.0, 2.0**-64) < sums.reference_error(10**6, 1.0) / 100


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("coarse", [0.0, 2 * BFLOAT16.u])
def test_a_product_stays_within_its_bound_with_exact_and_with_rounded_inputs(
    seed: int, coarse: float
) -> None:
    generator = np.random.default_rng(seed)
    k = int(generator.integers(1, 24))
    a, b = (generator.standard_normal((2, k)).astype(np.float32).astype(np.float64))
    exact = sum(x * y for x, y in zip(toy.fractions(a), toy.fractions(b), strict=True))
    inputs = [[toy.rounded(x, BFLOAT16) if coarse else x for x in toy.fractions(v)]
              for v in (a, b)]
    computed = toy.dot(*inputs, FLOAT32)
    size = np.array(np.abs(a) @ np.abs(b))
    error = products.product_error(k, size, np.abs(a).sum(), np.abs(b).sum(), torch.float32, coarse)
    limit = products.product_bound(np.array(float(exact)), error, FLOAT32)
    assert abs(computed - exact) <= Fraction(float(limit))


def test_the_product_bound_is_nearly_reached() -> None:
    k = 200
    a = [Fraction(1)] + [Fraction(FLOAT32.u) * Fraction(127, 128)] * (k - 1)
    b = [Fraction(1)] * k
    error = abs(toy.dot(a, b, FLOAT32) - sum(a))
    limit = products.product_error(k, np.array(float(sum(a))), 1.0, float(k), torch.float32, 0.0)
    assert Fraction(float(limit)) / 4 < error <= Fraction(float(limit))


def test_bf16_products_may_flush_what_is_subnormal() -> None:
    flushed = products.product_error(4, np.array(0.0), 1.0, 1.0, torch.bfloat16, 0.0)
    kept = products.product_error(4, np.array(0.0), 1.0, 1.0, torch.float16, 0.0)
    assert flushed >= 8 * FLOAT32.tiny
    assert kept <= 9 * FLOAT32.eta


def test_lowered_precision_of_fp32_products_widens_the_bound() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        assert products.input_rounding(torch.float32, "cpu") == 0.0
        torch.set_float32_matmul_precision("medium")
        assert products.input_rounding(torch.float32, "cpu") == 2 * BFLOAT16.u
        assert products.input_rounding(torch.float32, "cuda") == 2 * 2.0**-11
        assert products.input_rounding(torch.float64, "cuda") == 0.0
    finally:
        torch.set_float32_matmul_precision(before)


def test_split_sums_in_half_formats_are_a_matter_of_cuda() -> None:
    assert products.split_rounding(torch.bfloat16, "cuda") == 8 * BFLOAT16.u
    assert products.split_rounding(torch.float32, "cuda") == 0.0
    assert products.split_rounding(torch.bfloat16, "cpu") == 0.0
