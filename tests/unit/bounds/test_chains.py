"""Bounds of products and log-sum-exps against exact fractions and against adversaries."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from sdc_guard.bounds import chains
from sdc_guard.formats import BFLOAT16, FLOAT32, FLOAT64

F32 = np.float32


def product_of(values: np.ndarray) -> tuple[float, float]:
    """The exact product and the limit for any order in fp32."""
    exact = math.prod((Fraction(float(v)) for v in values), start=Fraction(1))
    low, high = (b.sum() for b in chains.binades(values.astype(np.float64)))
    limit = chains.product_error(len(values) - 1, np.asarray(float(exact)), low, high,
                                 np.asarray((values == 0).any()), FLOAT32)
    return float(exact), float(limit)


@pytest.mark.parametrize("seed", range(6))
def test_products_in_any_order_keep_the_bound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.choice([-1, 1], 300) * rng.uniform(0.8, 1.25, 300)).astype(F32)
    exact, limit = product_of(values)
    worst = 0.0
    for _ in range(20):
        got = F32(1)
        for x in rng.permutation(values):
            got = F32(got * x)
        worst = max(worst, abs(float(got) - exact))
    assert 0.01 * limit < worst <= limit
    assert abs(exact / float(values[7]) - exact) > limit


def test_a_product_with_a_zero_is_zero_and_one_that_may_underflow_is_not_judged() -> None:
    assert product_of(np.array([3.0, 0.0, 5.0], F32)) == (0.0, 0.0)
    assert product_of(np.array([1e-30, 1e-30, 1e30, 1e30], F32))[1] == math.inf
    assert product_of(np.array([1e30, 1e30, 0.0], F32))[1] == math.inf
    assert math.isfinite(product_of(np.array([1e-30, 1e30, 2.0], F32))[1])


def test_a_nan_factor_gives_no_limit() -> None:
    low, high = (b.sum() for b in chains.binades(np.array([1.0, math.nan])))
    zero = np.asarray(False)
    assert chains.product_error(1, np.asarray(math.nan), low, high, zero, FLOAT32) == math.inf


@pytest.mark.parametrize("size", [1.0, 50.0])
def test_running_log_sums_keep_the_bound(size: float) -> None:
    rng = np.random.default_rng(3)
    x = (size * rng.standard_normal(400)).astype(F32)
    got = F32(x[0])
    for value in x[1:]:
        high, low = max(got, value), min(got, value)
        got = F32(high + np.log1p(np.exp(F32(low - high))))
    wanted = np.logaddexp.reduce(x.astype(np.float64))
    largest = np.asarray(float(np.abs(x).max()))
    limit = chains.log_add_error(400, largest, FLOAT32.u, 8 * FLOAT32.u)
    assert abs(float(got) - wanted) <= limit < 0.01
    assert abs(float(got) - np.logaddexp.reduce(np.sort(x)[:-1].astype(np.float64))) > limit


@pytest.mark.parametrize("stored", [BFLOAT16, FLOAT32])
def test_a_stored_log_sum_exp_keeps_the_bound(stored: object) -> None:
    from sdc_guard.bounds.casts import nearest

    rng = np.random.default_rng(4)
    x = nearest(3 * rng.standard_normal((50, 60)), stored)  # type: ignore[arg-type]

    def store(values: np.ndarray) -> np.ndarray:
        return nearest(values, stored)  # type: ignore[arg-type]

    d = x - x.max(-1, keepdims=True)
    kept = store(np.log(store(store(np.exp(store(d))).sum(-1, keepdims=True))))
    terms = np.exp(d)
    total = terms.sum(-1, keepdims=True)
    u = stored.u + FLOAT64.u  # type: ignore[attr-defined]
    limit = chains.log_sum_exp_error(np.abs(d), terms, total, 59, FLOAT32.u, 8 * FLOAT32.u, u,
                                     stored.eta)  # type: ignore[attr-defined]
    error = np.abs(kept - np.log(total))
    assert (error <= limit).all()
    assert (error > 0.01 * limit).any()
    without = np.abs(kept - np.log(total - terms.max(-1, keepdims=True)))
    assert (without > limit).any()
