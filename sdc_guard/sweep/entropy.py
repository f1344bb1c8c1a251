"""Kinds of data that toggle a unit's bits in different ways, drawn as integers and encoded by
integers: no floating-point unit has a part in them, so all units start from the same bits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sdc_guard.sweep.declared import Bits
from sdc_guard.sweep.exact import LAYOUTS, UNSIGNED, Layout, encode

Draw = Callable[[np.random.Generator, tuple[int, ...], str], Bits]

WIDE = {"float64": 120, "float32": 24, "bfloat16": 24, "float16": 4}
"""Binades above and below 1 of ``wide``: products and their sums stay finite."""
NUM_ADDED = 12
NUM_SPARSE = 16


def normal(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Bits:
    """Sums of twelve uniform numbers in [-1/2, 1/2): mean 0, variance 1, nearly normal."""
    scale = 32
    parts = random.integers(-(1 << (scale - 1)), 1 << (scale - 1), (NUM_ADDED, *shape),
                            dtype=np.int64)
    # Their lowest bits would be 0 in float64.
    low = random.integers(0, 1 << 20, shape, dtype=np.int64)
    return encode((parts.sum(axis=0) << 20) + low, dtype, -scale - 20)


def unit(
    random: np.random.Generator, shape: tuple[int, ...], dtype: str, power: int = 0
) -> Bits:
    """Uniform in [-1, 1), times ``2^power``."""
    return encode(random.integers(-(1 << 60), 1 << 60, shape, dtype=np.int64), dtype, power - 60)


def wide(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Bits:
    """Full mantissas over many binades."""
    precision, reach = LAYOUTS[dtype].precision, WIDE[dtype]
    mantissa = random.integers(1 << (precision - 1), 1 << precision, shape, dtype=np.int64)
    sign = 1 - 2 * random.integers(0, 2, shape, dtype=np.int64)
    exponent = random.integers(-reach, reach + 1, shape, dtype=np.int64) - precision + 1
    return encode(sign * mantissa, dtype, exponent)


def denormal(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Bits:
    """Half subnormal numbers, half in [-1, 1)."""
    layout = LAYOUTS[dtype]
    size = random.integers(1, 1 << (layout.precision - 1), shape, dtype=np.uint64)
    sign = random.integers(0, 2, shape, dtype=np.uint64) << np.uint64(layout.num_bits - 1)
    tiny = (size | sign).astype(UNSIGNED[layout.num_bits // 8])
    return np.where(random.integers(0, 2, shape) == 0, tiny, unit(random, shape, dtype))


def sparse(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Bits:
    """One number in sixteen is not 0: long idle, then all bits at once."""
    data = normal(random, shape, dtype)
    return np.where(random.integers(0, NUM_SPARSE, shape) == 0, data, data.dtype.type(0))


def checkerboard(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Bits:
    """0x55... and 0xAA... in turn, with a random start: each bit toggles from element to
    element."""
    kind = UNSIGNED[LAYOUTS[dtype].num_bits // 8]
    five = kind(int(np.iinfo(kind).max) // 3)
    turn = (np.arange(int(np.prod(shape))) + int(random.integers(2))).reshape(shape) % 2
    return np.where(turn == 0, five, ~five).astype(kind)


def walking(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Bits:
    """1.0 or -1.0 with one more bit of the mantissa, which walks, with a random start."""
    layout: Layout = LAYOUTS[dtype]
    kind = UNSIGNED[layout.num_bits // 8]
    step = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(random.integers(1 << 16))
    fraction_bits = np.uint64(layout.precision - 1)
    one = np.uint64(layout.bias << (layout.precision - 1))
    bits = one | (np.uint64(1) << (step % fraction_bits))
    bits |= ((step // fraction_bits) % np.uint64(2)) << np.uint64(layout.num_bits - 1)
    return bits.astype(kind).reshape(shape)


KINDS: dict[str, Draw] = {
    "normal": normal, "unit": unit, "wide": wide, "denormal": denormal, "sparse": sparse,
    "checkerboard": checkerboard, "walking": walking}
