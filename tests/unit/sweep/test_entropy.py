"""What the kinds of data are: their bits, their range, and that the seed alone decides them."""

from __future__ import annotations

import numpy as np
import pytest

from sdc_guard.sweep.entropy import KINDS, NUM_SPARSE
from sdc_guard.sweep.exact import LAYOUTS
from tests.unit.sweep.exact_values import fraction_of

DTYPES = ("float64", "float32", "bfloat16", "float16")
SHAPE = (64, 96)


def _drawn(kind: str, dtype: str, seed: int = 1) -> np.ndarray:
    return KINDS[kind](np.random.default_rng(seed), SHAPE, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_finite_bits_of_the_right_size_from_the_seed_alone(kind: str, dtype: str) -> None:
    layout, bits = LAYOUTS[dtype], _drawn(kind, dtype)
    assert bits.shape == SHAPE
    assert bits.itemsize * 8 == layout.num_bits
    field = bits >> bits.dtype.type(layout.precision - 1)
    ones = bits.dtype.type((1 << layout.exponent_bits) - 1)
    assert ((field & ones) != ones).all()
    np.testing.assert_array_equal(bits, _drawn(kind, dtype))
    if kind != "checkerboard":
        assert (bits != _drawn(kind, dtype, seed=2)).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_mantissa_bit_is_0_here_and_1_there(kind: str, dtype: str) -> None:
    bits = _drawn(kind, dtype)
    mask = (1 << (LAYOUTS[dtype].precision - 1)) - 1
    assert int(np.bitwise_or.reduce(bits, axis=None)) & mask == mask
    assert int(np.bitwise_and.reduce(bits, axis=None)) & mask == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_ranges(dtype: str) -> None:
    layout = LAYOUTS[dtype]

    def values(kind: str) -> list[float]:
        return [float(fraction_of(int(b), dtype)) for b in _drawn(kind, dtype).reshape(-1)]

    assert max(map(abs, values("unit"))) <= 1
    normal = values("normal")
    assert abs(sum(normal) / len(normal)) < 0.1
    assert 0.9 < sum(x * x for x in normal) / len(normal) < 1.1
    share = sum(x != 0 for x in values("sparse")) / len(normal)
    assert 0.5 / NUM_SPARSE < share < 2 / NUM_SPARSE
    tiny = _drawn("denormal", dtype) & np.uint64((1 << (layout.num_bits - 1)) - 1)
    is_subnormal = (tiny > 0) & (tiny < 1 << (layout.precision - 1))
    assert 0.4 < is_subnormal.mean() < 0.6


def test_checkerboards_toggle_every_bit_between_neighbours() -> None:
    bits = _drawn("checkerboard", "float32").reshape(-1)
    assert ((bits[1:] ^ bits[:-1]) == 0xFFFFFFFF).all()


def test_one_bit_walks() -> None:
    bits = _drawn("walking", "float32").reshape(-1)
    fraction = bits & 0x7FFFFF
    assert all(int(f).bit_count() == 1 for f in fraction)
    assert sorted({int(f).bit_length() for f in fraction}) == list(range(1, 24))
