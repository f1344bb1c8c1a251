"""Casts between formats by integer arithmetic: what each bit pattern must become.

Rounding is to nearest, ties to even; beyond the largest number an infinity; the sign of zero is
kept (IEEE 754, section 5.4.2).  To integers it is cut towards zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdc_guard.errors import UsageError
from sdc_guard.sweep.declared import Bits
from sdc_guard.sweep.exact import LAYOUTS, encode


@dataclass(frozen=True)
class Parts:
    """Numbers taken apart: ``size * 2^exponent`` with a sign, each of one shape.  NaNs and
    infinities have size 0."""

    size: NDArray[np.int64]
    exponent: NDArray[np.int64]
    is_negative: NDArray[np.bool_]
    is_infinite: NDArray[np.bool_]
    is_nan: NDArray[np.bool_]


def decode(bits: Bits, dtype: str) -> Parts:
    """The numbers behind bit patterns.

    Raises:
        UsageError: an unknown format.
    """
    layout = LAYOUTS.get(dtype)
    if layout is None:
        raise UsageError(f"format {dtype!r} is unknown; choose one of {', '.join(LAYOUTS)}")
    wide = bits.astype(np.uint64)
    fraction_bits = layout.precision - 1
    fraction = (wide & np.uint64((1 << fraction_bits) - 1)).astype(np.int64)
    top = (1 << layout.exponent_bits) - 1
    field = ((wide >> np.uint64(fraction_bits)) & np.uint64(top)).astype(np.int64)
    if layout.is_finite_only:
        is_nan = (field == top) & (fraction == (1 << fraction_bits) - 1)
        is_infinite = np.zeros(bits.shape, np.bool_)
    else:
        is_nan, is_infinite = (field == top) & (fraction != 0), (field == top) & (fraction == 0)
    size = np.where(field > 0, fraction + (1 << fraction_bits), fraction)
    return Parts(
        size=np.where(is_nan | is_infinite, 0, size),
        exponent=np.maximum(field, 1) - layout.bias - fraction_bits,
        is_negative=(wide >> np.uint64(layout.num_bits - 1)) != 0,
        is_infinite=is_infinite, is_nan=is_nan)


def cast(bits: Bits, source: str, target: str) -> Bits:
    """Bits of the same numbers in another floating format, rounded once.

    Raises:
        UsageError: a NaN, whose payload no standard decides, or what ``encode`` refuses.
    """
    parts, layout = decode(bits, source), LAYOUTS[target]
    if parts.is_nan.any():
        raise UsageError(f"{int(parts.is_nan.sum())} of the {source} patterns are NaNs: which "
                         "payload a cast leaves is not defined")
    code = encode(parts.size, target, parts.exponent).astype(np.uint64)
    infinity = ((1 << layout.exponent_bits) - 1) << (layout.precision - 1)
    if parts.is_infinite.any() and layout.is_finite_only:
        raise UsageError(f"{target} has no infinity")
    code = np.where(parts.is_infinite, np.uint64(infinity), code)
    code |= parts.is_negative.astype(np.uint64) << np.uint64(layout.num_bits - 1)
    return code.astype(encode(parts.size[:0], target).dtype)


def truncated(bits: Bits, source: str) -> NDArray[np.int64]:
    """The numbers cut towards zero.

    Raises:
        UsageError: for one that is not finite, or is 2^62 or more.
    """
    parts = decode(bits, source)
    length = np.where(parts.size > 0, parts.exponent + LAYOUTS[source].precision, 0)
    if parts.is_nan.any() or parts.is_infinite.any() or int(length.max(initial=0)) > 62:
        raise UsageError(f"a {source} pattern is a NaN, an infinity, or 2^62 or more: 64-bit "
                         "integers do not hold it")
    left = parts.size << np.clip(parts.exponent, 0, 62)
    whole = np.where(parts.exponent >= 0, left, parts.size >> np.clip(-parts.exponent, 0, 62))
    return np.where(parts.is_negative, -whole, whole)
