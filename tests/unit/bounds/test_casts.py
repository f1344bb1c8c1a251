from __future__ import annotations

from fractions import Fraction

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch

from sdc_guard import bits
from sdc_guard.bounds import casts
from sdc_guard.formats import BFLOAT16, FLOAT16, FLOAT32, Format

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def exactly_rounded(x: float, fmt: Format) -> float:
    """Rounding to nearest, ties to even, in exact rational arithmetic."""
    value = abs(Fraction(x))
    exponent = fmt.emin
    while Fraction(2) ** (exponent + 1) <= value:
        exponent += 1
    spacing = Fraction(2) ** (exponent - fmt.precision + 1)
    quotient = round(value / spacing) * spacing  # Python rounds a half to the even integer
    size = float("inf") if quotient > Fraction(fmt.max) else float(quotient)
    return float(np.copysign(size, x))


@pytest.mark.parametrize("fmt", [BFLOAT16, FLOAT16, FLOAT32], ids=lambda f: f.name)
@hypothesis.given(
    x=st.floats(allow_nan=False, allow_infinity=False, min_value=-1e39, max_value=1e39)
    | st.floats(allow_nan=False, allow_infinity=False, width=16)
    | st.integers(-(2**20), 2**20).map(lambda n: n / 2**10 * 2.0**-24)
)
def test_nearest_is_one_rounding_to_nearest_even(fmt: Format, x: float) -> None:
    got = float(casts.nearest(x, fmt))
    assert got == exactly_rounded(x, fmt)
    assert np.signbit(got) == np.signbit(x)


@pytest.mark.parametrize("fmt", [BFLOAT16, FLOAT16], ids=lambda f: f.name)
def test_every_halfway_point_of_a_binade_goes_to_the_even_neighbour(fmt: Format) -> None:
    steps = np.arange(2 ** (fmt.precision - 1), dtype=np.float64)
    low = 1.0 + steps * 2 * fmt.u
    even = np.where(steps % 2 == 0, low, low + 2 * fmt.u)
    assert (casts.nearest(low + fmt.u, fmt) == even).all()


def test_overflow_nan_and_infinity() -> None:
    x = np.array([65519.9, 65520.0, -1e300, np.inf, np.nan, -0.0])
    got = casts.nearest(x, FLOAT16)
    assert got[0] == 65504.0
    assert got[1] == np.inf
    assert got[2] == -np.inf
    assert got[3] == np.inf
    assert np.isnan(got[4])
    assert np.signbit(got[5])


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_all_float32_exponents_round_like_aten_constructs_them(name: str) -> None:
    generator = np.random.default_rng(0)
    patterns = generator.integers(0, 2**32, 200_000, dtype=np.uint64).astype(np.uint32)
    x = patterns.view(np.float32).copy()
    fmt = {"bfloat16": BFLOAT16, "float16": FLOAT16}[name]
    with np.errstate(invalid="ignore"):  # signalling NaNs
        held = bits.values(torch.from_numpy(x).to(DTYPES[name]))
    assert casts.same_values(held, casts.nearest(x, fmt)).all()


def test_a_double_reaches_a_half_format_through_float32() -> None:
    tie = 1.0 + 2.0**-8 + 2.0**-30  # above the bf16 tie, on it once rounded to fp32
    assert casts.nearest(tie, BFLOAT16) == 1.0 + 2.0**-7
    assert casts.through_float32(np.array(tie), BFLOAT16) == 1.0


def test_same_values_sees_the_sign_of_zero() -> None:
    zero = np.array([0.0])
    assert not casts.same_values(zero, -zero).any()
    assert casts.same_values(np.array([np.nan]), np.array([-np.nan])).all()
    assert not casts.same_values(np.array([1]), np.array([2])).any()
