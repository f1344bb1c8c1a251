"""Bits by integer arithmetic, against rounding of exact rationals."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdc_guard.errors import UsageError
from sdc_guard.sweep.anatomy import hexfloat
from sdc_guard.sweep.exact import (
    LAYOUTS,
    bit_length,
    bits_of,
    encode,
    encode_integers,
    tensor_of,
)


def numbers_of(dtype: str) -> list[tuple[Fraction, int]]:
    """Every finite number of a small format that is not negative, with its bits, by value."""
    layout = LAYOUTS[dtype]
    found = []
    for code in range(1 << (layout.num_bits - 1)):
        text = hexfloat(code, dtype)
        if text not in ("nan", "inf"):
            found.append((Fraction(float.fromhex(text)), code))
    return found


def rounded(value: Fraction, dtype: str) -> int:
    """Bits of the nearest number, ties to even, by search among all."""
    table = numbers_of(dtype)
    best = min(table, key=lambda item: (abs(item[0] - abs(value)), item[1] & 1))
    sign = 1 << (LAYOUTS[dtype].num_bits - 1) if value < 0 else 0
    return best[1] | sign


@pytest.mark.parametrize("dtype", ["float8_e5m2", "float8_e4m3fn"])
@settings(max_examples=60, deadline=None)
@given(mantissa=st.integers(-(2**20), 2**20), exponent=st.integers(-36, -13))
def test_small_formats_round_as_a_search_among_all_their_numbers(
    dtype: str, mantissa: int, exponent: int
) -> None:
    value = Fraction(mantissa) * Fraction(2) ** exponent
    got = encode(np.array([mantissa]), dtype, exponent)
    assert int(got[0]) == rounded(value, dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@settings(max_examples=80, deadline=None)
@given(mantissa=st.integers(-(2**61), 2**61), exponent=st.integers(-1200, 900))
def test_rounding_is_to_nearest_even(dtype: str, mantissa: int, exponent: int) -> None:
    """Neither neighbour is nearer, and of two equally near ones the even one is taken."""
    layout = LAYOUTS[dtype]
    code = int(encode(np.array([abs(mantissa)]), dtype, exponent)[0])
    value = Fraction(abs(mantissa)) * Fraction(2) ** exponent
    top = ((1 << layout.exponent_bits) - 1) << (layout.precision - 1)
    largest = Fraction(float.fromhex(hexfloat(top - 1, dtype)))
    if code == top:
        half_ulp = Fraction(2) ** (layout.bias - layout.precision)
        assert value >= largest + half_ulp
        return
    got = Fraction(float.fromhex(hexfloat(code, dtype)))
    for neighbour in {max(code - 1, 0), min(code + 1, top - 1)} - {code}:
        other = Fraction(float.fromhex(hexfloat(neighbour, dtype)))
        assert abs(got - value) < abs(other - value) or (
            abs(got - value) == abs(other - value) and code % 2 == 0)


def test_signs_zeros_and_subnormals() -> None:
    assert encode(np.array([0, -1, 1]), "float32").tolist() == [0, 0xBF800000, 0x3F800000]
    assert encode(np.array([1]), "float32", -149).tolist() == [1]
    assert encode(np.array([1]), "float32", -151).tolist() == [0]
    assert encode(np.array([3]), "float32", -150).tolist() == [2]
    assert encode(np.array([2**24 + 1, 2**24 + 3]), "float32").tolist() == [0x4B800000, 0x4B800002]


def test_what_a_format_cannot_hold_is_refused() -> None:
    with pytest.raises(UsageError, match="2\\^62"):
        encode(np.array([2**62]), "float64")
    with pytest.raises(UsageError, match="float8_e4m3fn"):
        encode(np.array([4096]), "float8_e4m3fn")
    with pytest.raises(UsageError, match="float33"):
        encode(np.array([1]), "float33")
    with pytest.raises(UsageError, match="complex64"):
        encode_integers(np.array([1]), "complex64")


@pytest.mark.parametrize("dtype", [*LAYOUTS, "int8", "int16", "int32", "int64", "uint8"])
def test_tensors_have_the_bits_that_were_asked_for(dtype: str) -> None:
    bits = encode_integers(np.array([[1, 2, -3], [0, 100, 7]]), dtype)
    tensor = tensor_of(bits, dtype)
    assert tensor.dtype is getattr(torch, dtype)
    assert np.array_equal(bits_of(tensor), bits)
    # A column-major tensor gives the same elements in the same places.
    assert np.array_equal(bits_of(tensor_of(bits.T.copy(), dtype).t()), bits)


def test_complex_numbers_are_two_elements() -> None:
    got = bits_of(torch.tensor([1 + 2j], dtype=torch.complex64))
    assert got.tolist() == [[0x3F800000, 0x40000000]]
    assert bits_of(np.array([1 + 2j], np.complex64)).tolist() == got.tolist()


@given(st.integers(0, 2**64 - 1))
def test_bit_length(value: int) -> None:
    assert bit_length(np.array([value], np.uint64)).tolist() == [value.bit_length()]


@given(st.floats(allow_nan=False))
def test_hexfloats_are_those_of_python(value: float) -> None:
    bits = int(np.float64(value).view(np.uint64))
    expected = value.hex() if math.isfinite(value) else str(value)
    assert hexfloat(bits, "float64") == expected
