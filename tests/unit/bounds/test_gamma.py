from __future__ import annotations

from fractions import Fraction

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch

from sdc_guard.bounds.elementwise import elementary, rounded
from sdc_guard.bounds.gamma import gamma, own_rounding, rounding, stored
from sdc_guard.errors import UsageError
from sdc_guard.formats import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    accumulator_of,
    format_of,
    is_covered_float,
)
from tests.unit.bounds import toy

DTYPES = {torch.float64: FLOAT64, torch.float32: FLOAT32, torch.float16: FLOAT16,
          torch.bfloat16: BFLOAT16}


@pytest.mark.parametrize(("dtype", "fmt"), DTYPES.items())
def test_formats_are_those_of_torch(dtype: torch.dtype, fmt: object) -> None:
    info, own = torch.finfo(dtype), format_of(dtype)
    assert own is fmt
    assert info.eps == 2 * own.u
    assert info.tiny == own.tiny
    assert info.max == own.max
    assert info.smallest_normal * info.eps == own.eta


def test_a_format_that_is_not_known_is_an_error_that_names_it() -> None:
    assert not is_covered_float(torch.float8_e4m3fn)
    with pytest.raises(UsageError, match="float8_e4m3fn"):
        format_of(torch.float8_e4m3fn)


def test_half_formats_accumulate_in_fp32() -> None:
    assert [accumulator_of(d) for d in DTYPES] == [FLOAT64, FLOAT32, FLOAT32, FLOAT32]


@hypothesis.given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_ulp_is_the_distance_to_the_next_fp32_number(x: float) -> None:
    magnitude = np.float32(abs(x))
    hypothesis.assume(magnitude < FLOAT32.max)
    step = float(np.nextafter(magnitude, np.float32(np.inf))) - float(magnitude)
    assert FLOAT32.ulp(np.array(float(magnitude))) == step


def test_ulp_of_what_is_not_finite_is_that_of_the_largest_number() -> None:
    largest = float(FLOAT32.ulp(np.array(FLOAT32.max)))
    assert list(FLOAT32.ulp(np.array([np.inf, -np.inf, np.nan]))) == [largest] * 3


@hypothesis.given(st.integers(1, 200), st.randoms(use_true_random=False))
def test_gamma_bounds_products_of_roundings(n: int, random: object) -> None:
    u = Fraction(1, 2**8)
    limit = Fraction(gamma(n, float(u)))
    for signs in ([1] * n, [-1] * n, [random.choice((-1, 1)) for _ in range(n)]):  # type: ignore[attr-defined]
        product, inverse = Fraction(1), Fraction(1)
        for sign in signs:
            product *= 1 + sign * u
            inverse /= 1 + sign * u
        assert abs(product - 1) <= limit
        assert abs(inverse - 1) <= limit


def test_gamma_is_tight_and_ends_where_the_lemma_ends() -> None:
    assert gamma(100, 2.0**-24) < 1.001 * 100 * 2.0**-24
    assert gamma(2**24, 2.0**-24) == float("inf")


@hypothesis.given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_one_rounding_stays_within_its_bound_and_can_reach_it(x: float) -> None:
    error = abs(toy.rounded(Fraction(x), BFLOAT16) - Fraction(x))
    assert error <= Fraction(float(rounding(x, BFLOAT16)))
    tie = Fraction(1) + Fraction(BFLOAT16.u)
    assert abs(toy.rounded(tie, BFLOAT16) - tie) == Fraction(BFLOAT16.u)


@hypothesis.given(st.floats(-1e3, 1e3), st.floats(-1e-3, 1e-3))
def test_storing_a_value_that_is_already_off_adds_one_rounding(x: float, error: float) -> None:
    computed = Fraction(x) + Fraction(error)
    kept = toy.rounded(computed, BFLOAT16)
    limit = stored(abs(error), np.array(x), BFLOAT16)
    assert abs(kept - Fraction(x)) <= Fraction(float(limit)) * (1 + Fraction(1, 2**50))


def test_our_own_rounding_is_far_below_that_of_fp32() -> None:
    assert 0 < float(own_rounding(1000, 1.0)) < 2.0**-42


@hypothesis.given(st.integers(1, 6), st.floats(0.01, 100.0))
def test_a_chain_of_roundings_of_one_size_stays_within_the_sum(count: int, x: float) -> None:
    value = Fraction(x)
    for _ in range(count):
        value = toy.rounded(value * (1 + Fraction(1, 2**30)))
    limit = float(rounded(np.array(x), toy.TOY, count + 1))
    assert abs(value - Fraction(x)) <= Fraction(limit)


def test_elementary_functions_have_a_contract_of_ulps_and_a_proof_of_half_the_digits() -> None:
    proof, contract = elementary(np.array(1.0), FLOAT32, FLOAT32)
    four_ulps = 8 * FLOAT32.u
    assert four_ulps <= contract <= four_ulps + 2 * FLOAT32.u
    assert 2.0**-12 <= proof <= 2.0**-12 + 2 * FLOAT32.u
