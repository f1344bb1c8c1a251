"""Elements of tensors as rational numbers, and rational numbers rounded to a format.

Nothing here calls torch on numbers: elements are read from memory by address and decoded with
``struct``, and rounding is integer arithmetic.
"""

from __future__ import annotations

import math
import struct
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.formats import FLOAT32, Format, format_of, is_covered_float

Number = Fraction | float
"""A finite number, exactly; a float only for NaN and the infinities."""

_STRUCT: dict[torch.dtype, str] = {
    torch.float64: "<d", torch.float32: "<f", torch.float16: "<e", torch.int64: "<q",
    torch.int32: "<i", torch.int16: "<h", torch.int8: "<b", torch.uint8: "<B",
    torch.uint16: "<H", torch.uint32: "<I", torch.uint64: "<Q", torch.bool: "<?",
}


def is_readable(dtype: torch.dtype) -> bool:
    """True for dtypes whose elements :func:`number_at` can read."""
    return dtype in _STRUCT or dtype is torch.bfloat16


def decoded(data: bytes, dtype: torch.dtype) -> Number:
    """The number that little-endian bytes stand for."""
    if dtype is torch.bfloat16:
        data, dtype = b"\0\0" + data, torch.float32
    value: float = struct.unpack(_STRUCT[dtype], data)[0]
    return as_number(value)


def as_number(value: float) -> Number:
    """A Python number, exactly."""
    if isinstance(value, float) and not math.isfinite(value):
        return value
    return Fraction(value)


class Reader:
    """Elements of one tensor of a readable dtype, by index; strides are followed by NumPy."""

    def __init__(self, tensor: Tensor) -> None:
        self._kept = bits.on_host(tensor)
        self._raw: Any = bits.raw(self._kept)
        self.dtype, self.shape = tensor.dtype, tuple(tensor.shape)

    def __getitem__(self, index: tuple[int, ...]) -> Number:
        return decoded(self._raw[index].tobytes(), self.dtype)

    def broadcast(self, index: tuple[int, ...]) -> Number:
        """The element that stands at an index of the broadcast shape."""
        own = index[len(index) - len(self.shape):] if self.shape else ()
        return self[tuple(0 if n == 1 else i for i, n in zip(own, self.shape, strict=True))]

    def line(self, index: tuple[Any, ...]) -> list[Number]:
        """The elements at an index in which whole dimensions are ``slice(None)``, in C order."""
        part = np.asarray(self._raw[index])
        return [decoded(part[i].tobytes(), self.dtype) for i in np.ndindex(part.shape)]


def computing_format(dtype: torch.dtype) -> Format | None:
    """The format in which a pointwise kernel computes: fp32 for the half formats, else the result's
    own; None where the result is no real floating number."""
    if not is_covered_float(dtype):
        return None
    own = format_of(dtype)
    return FLOAT32 if own.precision < FLOAT32.precision else own


def rounded(value: Number, fmt: Format) -> Number:
    """The nearest number of a format, ties to even; an infinity where it overflows."""
    if not isinstance(value, Fraction) or not value:
        return value
    size = abs(value)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if size < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, fmt.emin) - fmt.precision + 1)
    nearest: Fraction = round(value / unit) * unit  # Fraction rounds half to even
    if abs(nearest) > Fraction(fmt.max):
        return math.inf if value > 0 else -math.inf
    return nearest


def wrapped(value: Number, dtype: torch.dtype) -> Number:
    """An integer in the range of an integer dtype, modulo 2 to its width."""
    if dtype.is_floating_point or dtype.is_complex or not isinstance(value, Fraction):
        return value
    if dtype is torch.bool:
        return Fraction(value != 0)
    info = torch.iinfo(dtype)
    low, width = int(info.min), 8 * dtype.itemsize
    return Fraction((int(value) - low) % 2**width + low)


def to_mpf(value: Number) -> Any:
    """The number in mpmath, exactly where its denominator is a power of two."""
    if not isinstance(value, Fraction):
        return mpmath.mpf(value)
    return mpmath.mpf(value.numerator) / value.denominator


def of_mpf(value: Any) -> Number:
    """A real mpmath number, exactly; NaN for a complex one (there is no real result)."""
    if isinstance(value, mpmath.mpc):
        if value.imag:
            return math.nan
        value = value.real
    if not mpmath.isfinite(value):
        return float(value)
    sign, man, exp, _ = value._mpf_
    return Fraction(-int(man) if sign else int(man)) * Fraction(2) ** int(exp)


def told(value: Number) -> str:
    """Its decimal digits: all of them where they are few, else 25."""
    if not isinstance(value, Fraction):
        return repr(value)
    if value.denominator == 1 and abs(value) < 10**40:
        return str(value.numerator)
    with mpmath.workdps(60):
        digits = mpmath.nstr(to_mpf(value), 25)
    is_all = Fraction(digits) == value
    return digits if is_all else f"{digits}..."
