from __future__ import annotations

from fractions import Fraction

import hypothesis
import hypothesis.strategies as st
import numpy as np

from sdc_guard.bounds.tracked import Tracked
from sdc_guard.formats import BFLOAT16, FLOAT16, FLOAT32

numbers = st.floats(width=32, min_value=-(2.0**40), max_value=2.0**40) | st.floats(
    width=32, min_value=-(2.0**-120), max_value=2.0**-120)


def exact(x: float) -> Tracked:
    return Tracked.exact(x, FLOAT32)


def off(computed: np.float32, true: Fraction, tracked: Tracked) -> bool:
    """True if a computed number is outside the bound around the exact one."""
    return abs(Fraction(float(computed)) - true) > Fraction(float(tracked.error))


@hypothesis.given(numbers, numbers, numbers, numbers)
def test_a_chain_in_fp32_stays_inside_its_bound(a: float, b: float, c: float, d: float) -> None:
    hypothesis.assume(abs(d) > 2.0**-60)
    with np.errstate(all="ignore"):
        computed = (np.float32(a) + np.float32(b)) * np.float32(c) / np.float32(d)
        tracked = (exact(a) + exact(b)) * exact(c) / exact(d)
    true = (Fraction(a) + Fraction(b)) * Fraction(c) / Fraction(d)
    hypothesis.assume(np.isfinite(computed))
    assert not off(computed, true, tracked)


@hypothesis.given(numbers, numbers)
def test_a_cancelling_denominator_keeps_its_bound(a: float, b: float) -> None:
    one = np.float32(1)
    with np.errstate(all="ignore"):
        denominator = np.float32(a) * np.float32(a) - np.float32(b)
        computed = one / denominator
        tracked = exact(1.0) / (exact(a) * exact(a) - exact(b))
    true = Fraction(a) ** 2 - Fraction(b)
    hypothesis.assume(true != 0 and np.isfinite(computed) and np.isfinite(tracked.error))
    assert not off(computed, 1 / true, tracked)


@hypothesis.given(st.floats(width=32, min_value=0, max_value=2.0**40), numbers)
def test_a_square_root_keeps_its_bound(a: float, b: float) -> None:
    with np.errstate(all="ignore"):
        inside = np.float32(a) + np.float32(b) * np.float32(b)
        computed = np.sqrt(inside)
        tracked = (exact(a) + exact(b) * exact(b)).sqrt()
    hypothesis.assume(np.isfinite(computed))
    true = Fraction(a) + Fraction(b) ** 2
    low, high = (Fraction(float(computed)) + s * Fraction(float(tracked.error)) for s in (-1, 1))
    assert max(low, Fraction(0)) ** 2 <= true <= high**2


def test_the_bound_is_within_a_small_factor_of_the_rounding() -> None:
    product = exact(1.1) * exact(1.3)
    assert FLOAT32.u * 1.43 <= float(product.error) <= 1.01 * FLOAT32.u * 1.43


def test_storing_in_a_narrower_format_adds_its_rounding() -> None:
    stored = exact(3.3).stored(BFLOAT16)
    assert BFLOAT16.u * 3.3 <= float(stored.error) <= 1.01 * BFLOAT16.u * 3.3
    assert exact(3.3).stored(FLOAT32).error == 0


def test_a_possibly_zero_denominator_has_no_bound() -> None:
    with np.errstate(all="ignore"):
        inverse = exact(1.0) / Tracked(np.array(1e-9), np.array(1e-8), FLOAT32)
    assert float(inverse.error) == np.inf


def test_nothing_is_said_where_the_format_overflows() -> None:
    with np.errstate(all="ignore"):
        huge = exact(1e25) * exact(1e25)
        step = exact(1e25) / (huge.sqrt() + exact(1e-8))
        below = exact(1e18) * exact(1e18)
        half = exact(1e36).stored(FLOAT16)
        nothing = exact(0.0) * huge
    for found in (huge, step, half, nothing):
        assert np.isinf(found.error)
    assert np.isfinite(below.error)
