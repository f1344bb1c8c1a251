"""Casts by integers agree with NumPy's floats, and refuse what no standard decides."""

from __future__ import annotations

import numpy as np
import pytest

from sdc_guard.errors import UsageError
from sdc_guard.sweep.exact import encode
from sdc_guard.sweep.exact_casts import cast, decode, truncated

HALVES = np.arange(1 << 16, dtype=np.uint16)
NUMBERS = HALVES[(HALVES & 0x7FFF) <= 0x7C00]


@pytest.mark.parametrize(("target", "kind"), [("float32", np.float32), ("float64", np.float64)])
def test_every_half_becomes_what_numpy_makes_of_it(target: str, kind: type) -> None:
    right = NUMBERS.view(np.float16).astype(kind)
    assert np.array_equal(cast(NUMBERS, "float16", target), right.view(f"u{right.itemsize}"))


def test_narrowing_rounds_to_even_at_ties_and_overflows_to_infinity() -> None:
    one = 0x3F800000
    cases = {one: 0x3F80, one + 0x8000: 0x3F80, one + 0x8001: 0x3F81, one + 0x18000: 0x3F82,
             0x7F7FFFFF: 0x7F80, 0x00000001: 0, 0x80000000: 0x8000, 0xFF800000: 0xFF80}
    got = cast(np.array(list(cases), np.uint32), "float32", "bfloat16")
    assert got.tolist() == list(cases.values())


def test_narrowing_agrees_with_numpy_over_drawn_numbers() -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 32, 20_000, dtype=np.uint32)
    bits = bits[(bits & 0x7FFFFFFF) <= 0x7F800000]
    with np.errstate(over="ignore"):
        right = bits.view(np.float32).astype(np.float16).view(np.uint16)
    assert np.array_equal(cast(bits, "float32", "float16"), right)


def test_a_number_taken_apart_is_encoded_again() -> None:
    parts = decode(NUMBERS, "float16")
    finite = ~parts.is_infinite & ~parts.is_negative
    again = encode(parts.size[finite], "float16", parts.exponent[finite])
    assert np.array_equal(again, NUMBERS[finite])
    assert decode(np.array([0x7F, 0xFF, 0x7E], np.uint8), "float8_e4m3fn").is_nan.tolist() == [
        True, True, False]


def test_to_integers_is_towards_zero() -> None:
    bits = np.array([1.99, -1.99, 0.5, -0.0, 1e9, 3 * 2.0**40], np.float32).view(np.uint32)
    assert truncated(bits, "float32").tolist() == [1, -1, 0, 0, 1_000_000_000, 3 * 2**40]


def test_what_is_not_defined_is_refused() -> None:
    with pytest.raises(UsageError, match="1 of the float16 patterns are NaNs"):
        cast(np.array([0x7E00], np.uint16), "float16", "float32")
    with pytest.raises(UsageError, match="2\\^62 or more"):
        truncated(np.array([0x7F800000], np.uint32), "float32")
    with pytest.raises(UsageError, match="no infinity"):
        cast(np.array([0x7C00], np.uint16), "float16", "float8_e4m3fn")
    with pytest.raises(UsageError, match="'float12' is unknown"):
        decode(HALVES, "float12")
