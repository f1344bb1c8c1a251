"""Numbers and their bits by integer arithmetic alone, so that expected values owe nothing to torch
or to a floating-point unit.

A number is ``mantissa * 2^exponent`` with an integer mantissa below 2^62 in size; it is rounded to
nearest, ties to even, as IEEE 754 (section 4.3.1) defines for every format here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits as raw_bits
from sdc_guard.errors import UsageError
from sdc_guard.sweep.declared import Bits

MAX_MANTISSA = 2**62
UNSIGNED: dict[int, type[np.unsignedinteger[Any]]] = {
    1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass(frozen=True, slots=True)
class Layout:
    """``precision`` significant bits (the hidden one included) and ``exponent_bits``.
    ``is_finite_only``: the topmost exponent holds numbers, and all ones NaN (float8_e4m3fn)."""

    precision: int
    exponent_bits: int
    is_finite_only: bool = False

    @property
    def num_bits(self) -> int:
        return self.precision + self.exponent_bits

    @property
    def bias(self) -> int:
        return (1 << (self.exponent_bits - 1)) - 1


LAYOUTS: dict[str, Layout] = {
    "float64": Layout(53, 11),
    "float32": Layout(24, 8),
    "bfloat16": Layout(8, 8),
    "float16": Layout(11, 5),
    "float8_e5m2": Layout(3, 5),
    "float8_e4m3fn": Layout(4, 4, is_finite_only=True),
}
_INTEGERS = {name: getattr(torch, name).itemsize for name in
             ("int8", "int16", "int32", "int64", "uint8")}


def encode(
    mantissa: NDArray[np.int64], dtype: str, exponent: int | NDArray[np.int64] = 0
) -> Bits:
    """Bits of ``mantissa * 2^exponent`` in a floating format, rounded to nearest even; beyond the
    largest number an infinity.  0 is +0.

    Raises:
        UsageError: an unknown format, a mantissa of 2^62 or more, or a value beyond a format
            without infinities.
    """
    layout = LAYOUTS.get(dtype)
    if layout is None:
        raise UsageError(f"format {dtype!r} is unknown; choose one of {', '.join(LAYOUTS)}")
    values = np.ascontiguousarray(mantissa, dtype=np.int64)
    sign = (values < 0).astype(np.uint64)
    size = np.where(values < 0, -values, values).astype(np.uint64)
    if values.size and int(size.max()) >= MAX_MANTISSA:
        raise UsageError(f"mantissa {int(size.max())} is not below 2^62")
    length = bit_length(size)
    # The exponent of the lowest kept bit: p bits are kept, fewer where the number is subnormal.
    lowest = np.maximum(length + np.asarray(exponent, np.int64) - layout.precision,
                        2 - layout.bias - layout.precision)
    shift = np.asarray(lowest - np.asarray(exponent, np.int64), np.int64)
    kept = _shifted_to_even(size, shift)
    # p ones that are rounded up carry into the next binade, where the lowest kept bit is one up:
    # adding the fields, not joining them, does that.
    field = np.where(
        kept >> np.uint64(layout.precision - 1) == 0, np.int64(0),
        lowest + layout.precision - 1 + layout.bias - 1).astype(np.uint64)
    code = (field << np.uint64(layout.precision - 1)) + kept
    top = ((1 << layout.exponent_bits) - 1) << (layout.precision - 1)
    if layout.is_finite_only:
        if values.size and int(code.max()) >= (1 << (layout.num_bits - 1)) - 1:
            raise UsageError(f"a value is beyond the largest {dtype}, which has no infinity")
    else:
        code = np.minimum(code, np.uint64(top))
    code |= sign << np.uint64(layout.num_bits - 1)
    return code.astype(UNSIGNED[layout.num_bits // 8])


def encode_integers(values: NDArray[np.int64], dtype: str) -> Bits:
    """Bits of integers in a floating or an integer format (modulo its size)."""
    if dtype in LAYOUTS:
        return encode(values, dtype)
    if dtype not in _INTEGERS:
        raise UsageError(f"format {dtype!r} is unknown; choose one of "
                         f"{', '.join((*LAYOUTS, *_INTEGERS))}")
    return values.astype(np.int64).view(np.uint64).astype(UNSIGNED[_INTEGERS[dtype]])


def bit_length(size: NDArray[np.uint64]) -> NDArray[np.int64]:
    """``int.bit_length`` of each element."""
    rest, length = size.copy(), np.zeros(size.shape, np.int64)
    for step in (32, 16, 8, 4, 2, 1):
        is_long = rest >= np.uint64(1 << step)
        length += np.where(is_long, step, 0)
        rest = np.where(is_long, rest >> np.uint64(step), rest)
    return length + (rest > 0)


def _shifted_to_even(size: NDArray[np.uint64], shift: NDArray[np.int64]) -> NDArray[np.uint64]:
    """``size / 2^shift``, ties to even; a negative shift is exact."""
    right = np.clip(shift, 0, 63).astype(np.uint64)
    left = np.clip(-shift, 0, 63).astype(np.uint64)
    quotient = size >> right
    rest = size - (quotient << right)
    half = np.where(right > 0, np.uint64(1) << (np.maximum(right, 1) - np.uint64(1)),
                    np.uint64(0))
    up = (right > 0) & ((rest > half) | ((rest == half) & ((quotient & np.uint64(1)) == 1)))
    return np.asarray((quotient + up.astype(np.uint64)) << left, np.uint64)


def tensor_of(bits: Bits, dtype: str, device: str = "cpu") -> Tensor:
    """A tensor of its own memory with these bits; ``dtype`` is torch's name without ``torch.``."""
    signed = np.array(bits, order="C").view(f"i{bits.itemsize}")
    return torch.from_numpy(signed).view(getattr(torch, dtype)).to(device)


def bits_of(result: Tensor | NDArray[Any]) -> Bits:
    """A copy of a result's bits, in C order, on the host.  A complex number is two elements, in a
    last dimension."""
    if isinstance(result, Tensor):
        if result.is_complex():
            result = torch.view_as_real(result.detach().resolve_conj())
        host = raw_bits.on_host(result.detach())
        return np.array(raw_bits.raw(host), order="C")
    if result.dtype.kind == "c":
        parts = np.ascontiguousarray(result).view(result.real.dtype)
        result = parts.reshape(*result.shape, 2)
    return np.array(result, order="C").view(UNSIGNED[result.dtype.itemsize])
