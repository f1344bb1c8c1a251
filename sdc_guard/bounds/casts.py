"""Conversions between number formats, emulated exactly.

A conversion to a floating format is one rounding to nearest, ties to even (IEEE 754-2019, section
4.3.1), subnormals and overflow to infinity included.  :func:`nearest` does it for any format whose
numbers are float64 numbers, without the casts of any tensor library: a float64 divided by the
spacing of the target format at its size is exact, rounding it to an integer with ties to even is
the one rounding, and the multiplication back is exact again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc_guard.formats import FLOAT32, FLOAT64, Format

F64 = NDArray[np.float64]


def nearest(values: NDArray[Any] | float, fmt: Format) -> F64:
    """``values`` (taken as float64) rounded once to ``fmt``; NaN stays NaN, signs of zero stay."""
    with np.errstate(all="ignore"):
        x = np.asarray(values, dtype=np.float64)
        if fmt.precision == FLOAT64.precision:
            return x
        if fmt is FLOAT32:
            return x.astype(np.float32).astype(np.float64)
        spacing = fmt.ulp(x)
        rounded = np.rint(x / spacing) * spacing
        rounded = np.where(np.abs(rounded) > fmt.max, np.copysign(np.inf, x), rounded)
        return np.where(np.isfinite(x), rounded, x)


def through_float32(values: NDArray[Any], fmt: Format) -> F64:
    """``values`` rounded to fp32 and then to ``fmt``, the way ATen constructs a half number from a
    double or an integer (``c10::Half(float)``, ``c10::BFloat16(float)``): two roundings, which
    differ from one in rare ties."""
    with np.errstate(all="ignore"):
        return nearest(np.asarray(values).astype(np.float32), fmt)


def same_values(got: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.bool_]:
    """True where two arrays hold the same number with the same sign of zero, or both a NaN."""
    if got.dtype.kind != "f":
        return np.asarray(got == expected)
    equal = (got == expected) & (np.signbit(got) == np.signbit(expected))
    return np.asarray(equal | (np.isnan(got) & np.isnan(expected)))
