"""What is wrong with a result, bit by bit."""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from sdc_guard.attribute.describe import pattern_of, worst_element
from sdc_guard.attribute.spread import spread_of
from sdc_guard.document.schema import WrongElement
from sdc_guard.records import Pattern, Spread, Worst
from sdc_guard.sweep.declared import Bits
from sdc_guard.sweep.exact import LAYOUTS, tensor_of

MAX_ELEMENTS = 16


def wrong_elements(got: Bits, expected: Bits) -> NDArray[np.bool_] | None:
    """Which elements differ in any bit; None if none does.  Another shape is wrong all over."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return np.ones(expected.shape, np.bool_)
    wrong = got != expected
    return wrong if wrong.any() else None


def digest_of(bits: Bits) -> str:
    """128 bits of SHA-256 over size of element, shape and bits."""
    head = f"{bits.itemsize} {'x'.join(map(str, bits.shape))}\n".encode()
    return hashlib.sha256(head + np.ascontiguousarray(bits).tobytes()).hexdigest()[:32]


def elements_of(got: Bits, expected: Bits, wrong: NDArray[np.bool_], dtype: str) -> tuple[
    WrongElement, ...
]:
    """The first wrong elements."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return ()
    found = []
    for flat in np.flatnonzero(wrong)[:MAX_ELEMENTS]:
        index = tuple(int(i) for i in np.unravel_index(int(flat), wrong.shape))
        was, right = int(got.reshape(-1)[flat]), int(expected.reshape(-1)[flat])
        digits = 2 * got.itemsize
        found.append(WrongElement(
            index=index, got=f"0x{was:0{digits}x}", expected=f"0x{right:0{digits}x}",
            got_hexfloat=hexfloat(was, dtype), expected_hexfloat=hexfloat(right, dtype),
            xor=f"0x{was ^ right:0{digits}x}", popcount=(was ^ right).bit_count()))
    return tuple(found)


def hexfloat(bits: int, dtype: str) -> str:
    """``0x1.8p+1`` for a floating format, ``nan`` and ``inf`` by name, empty for any other."""
    layout = LAYOUTS.get(dtype)
    if layout is None:
        return ""
    sign = -1.0 if bits >> (layout.num_bits - 1) else 1.0
    fraction_bits = layout.precision - 1
    fraction = bits & ((1 << fraction_bits) - 1)
    field = (bits >> fraction_bits) & ((1 << layout.exponent_bits) - 1)
    ones = (1 << layout.exponent_bits) - 1
    if layout.is_finite_only:
        if field == ones and fraction == (1 << fraction_bits) - 1:
            return "nan"
    elif field == ones:
        return "nan" if fraction else ("-inf" if sign < 0 else "inf")
    size = fraction | (1 << fraction_bits if field else 0)
    return (sign * math.ldexp(size, max(field, 1) - layout.bias - fraction_bits)).hex()


def described(
    got: Bits, expected: Bits, wrong: NDArray[np.bool_], dtype: str, output: int
) -> tuple[Worst | None, Pattern | None, Spread | None]:
    """The worst element, where the wrong ones lie, and what their bits have in common."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return None, None, None
    held, right = tensor_of(got, dtype), tensor_of(expected, dtype)
    worst = worst_element(held, output, wrong, right, None, "", "bits")
    return worst, pattern_of(wrong), spread_of(held, wrong, right)

