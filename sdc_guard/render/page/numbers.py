"""Numbers by their bits: which bit means what in a dtype, and the number as a hexadecimal float."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache

from sdc_guard.records import Value

_BITS = re.compile(r"0x([0-9a-fA-F]{1,32})\Z")


@dataclass(frozen=True)
class Layout:
    """The bits of a number, from the highest: sign, exponent, mantissa.

    ``finite_only`` formats have no infinity; ``nan_is_minus_zero`` ones have a single NaN.
    """

    dtype: str
    sign: int
    exponent: int
    mantissa: int
    bias: int = 0
    finite_only: bool = False
    nan_is_minus_zero: bool = False

    @property
    def bits(self) -> int:
        return self.sign + self.exponent + self.mantissa

    @property
    def is_float(self) -> bool:
        return self.exponent > 0

    def band(self, bit: int) -> str:
        """``sign``, ``exponent``, ``mantissa`` or ``value``: what bit number ``bit`` (from the
        lowest) belongs to."""
        if bit < self.mantissa:
            return "mantissa" if self.is_float else "value"
        return "exponent" if bit < self.mantissa + self.exponent else "sign"

    @property
    def bands(self) -> tuple[tuple[str, int, int], ...]:
        """(name, lowest bit, number of bits), from the highest band."""
        low = "mantissa" if self.is_float else "value"
        bands = (("sign", self.bits - 1, self.sign), ("exponent", self.mantissa, self.exponent),
                 (low, 0, self.mantissa))
        return tuple(band for band in bands if band[2])


_LAYOUTS = {
    layout.dtype: layout
    for layout in (
        Layout("float64", 1, 11, 52, 1023),
        Layout("float32", 1, 8, 23, 127),
        Layout("float16", 1, 5, 10, 15),
        Layout("bfloat16", 1, 8, 7, 127),
        Layout("float8_e4m3fn", 1, 4, 3, 7, finite_only=True),
        Layout("float8_e4m3fnuz", 1, 4, 3, 8, finite_only=True, nan_is_minus_zero=True),
        Layout("float8_e5m2", 1, 5, 2, 15),
        Layout("float8_e5m2fnuz", 1, 5, 2, 16, finite_only=True, nan_is_minus_zero=True),
        Layout("float8_e8m0fnu", 0, 8, 0, 127, finite_only=True),
        *(Layout(f"int{bits}", 1, 0, bits - 1) for bits in (8, 16, 32, 64)),
        *(Layout(f"uint{bits}", 0, 0, bits) for bits in (8, 16, 32, 64)),
        Layout("bool", 0, 0, 8),
    )
}
_PARTS = {"complex32": "float16", "complex64": "float32", "complex128": "float64"}


@cache
def layout_of(dtype: str) -> Layout | None:
    """The layout of a dtype (of either part of a complex one); None for one that is not known."""
    name = dtype.removeprefix("torch.")
    return _LAYOUTS.get(_PARTS.get(name, name))


def pattern_of(bits: str) -> int | None:
    """The number that a ``0x...`` text stands for."""
    match = _BITS.match(bits)
    return int(match.group(1), 16) if match else None


def hexfloat(value: Value) -> str:
    """``0x1.9p+4``; "" where the value is no floating-point number or its bits cannot be read."""
    layout, pattern = layout_of(value.dtype), pattern_of(value.bits)
    if layout is None or not layout.is_float or pattern is None or pattern >> layout.bits:
        return ""
    number = _decoded(layout, pattern)
    if not math.isnan(number):
        return number.hex()
    payload = pattern & ((1 << layout.mantissa) - 1)
    return f"nan, payload 0x{payload:x}"


def _decoded(layout: Layout, pattern: int) -> float:
    mantissa = pattern & ((1 << layout.mantissa) - 1)
    exponent = pattern >> layout.mantissa & ((1 << layout.exponent) - 1)
    sign = -1.0 if layout.sign and pattern >> (layout.bits - 1) else 1.0
    top = (1 << layout.exponent) - 1
    if layout.nan_is_minus_zero:
        if sign < 0 and exponent == mantissa == 0:
            return math.nan
    elif layout.finite_only:
        if exponent == top and mantissa == (1 << layout.mantissa) - 1:
            return math.nan
    elif exponent == top:
        return math.nan if mantissa else sign * math.inf
    if layout.mantissa and exponent == 0:
        return sign * math.ldexp(mantissa, 1 - layout.bias - layout.mantissa)
    significand = (1 << layout.mantissa) + mantissa
    return sign * math.ldexp(significand, exponent - layout.bias - layout.mantissa)


def band_words(mask: int, layout: Layout | None) -> str:
    """``sign, 2 exponent, 3 mantissa``: the bits of a mask by band."""
    if layout is None:
        return f"{mask.bit_count()} bits"
    parts = []
    for name, low, width in layout.bands:
        count = (mask >> low & ((1 << width) - 1)).bit_count()
        if count:
            parts.append(name if width == 1 else f"{count} {name}")
    return ", ".join(parts) or "none"


@dataclass(frozen=True)
class BitCell:
    """One bit of a number as it is drawn: its digit, its band, and whether it differs."""

    digit: str
    band: str
    differs: bool
    is_edge: bool


def bit_cells(value: Value, mask: int) -> list[BitCell]:
    """The bits of a value from the highest, or none where its dtype or bits are not known."""
    layout, pattern = layout_of(value.dtype), pattern_of(value.bits)
    if layout is None or pattern is None or pattern >> layout.bits:
        return []
    edges = {low for _, low, _ in layout.bands}
    return [BitCell(str(pattern >> bit & 1), layout.band(bit), bool(mask >> bit & 1), bit in edges)
            for bit in reversed(range(layout.bits))]
