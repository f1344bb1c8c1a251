"""Change bits of one tensor element in memory, and say what that did.

CPU memory is reached through :func:`sdc_guard.bits.raw`, never through an aten kernel, so a flip
works below every dispatch mode and leaves version counters and autograd alone.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.errors import UsageError
from sdc_guard.formats import format_of, is_covered_float
from sdc_guard.records import Value


def num_bits(dtype: torch.dtype) -> int:
    """Bits of one element that can be flipped: 1 for bool (torch only defines the bytes 0 and 1),
    else the width of the dtype.

    Raises:
        UsageError: for a dtype that :func:`sdc_guard.bits.values` cannot widen (complex, float8).
    """
    if not bits.has_values(dtype):
        raise UsageError(f"no bit can be flipped in a tensor of {dtype}; known are real numbers "
                         "of 1, 2, 4 or 8 bytes: float, bfloat16, int, uint8 and bool")
    return 1 if dtype is torch.bool else dtype.itemsize * 8


def position(tensor: Tensor, flat_index: int, order: str = "logical") -> tuple[int, ...]:
    """Index tuple of an element.

    ``order="logical"`` counts elements as C order does over the shape, whatever the strides.
    ``order="storage"`` counts elements of memory from the tensor's first one.

    Raises:
        UsageError: if the tensor has no such element, or ``order`` is neither word.
    """
    if order == "logical":
        if not 0 <= flat_index < tensor.numel():
            raise UsageError(f"flat index {flat_index} lies outside a tensor of shape "
                             f"{tuple(tensor.shape)} with {tensor.numel()} elements")
        return tuple(int(i) for i in np.unravel_index(flat_index, tuple(tensor.shape)))
    if order != "storage":
        raise UsageError(f"order is {order!r}, must be 'logical' or 'storage'")
    where = np.argwhere(storage_offsets(tensor) == flat_index)
    if not len(where):
        raise UsageError(f"a tensor of shape {tuple(tensor.shape)} and strides {tensor.stride()} "
                         f"reaches no element {flat_index} places behind its first one")
    return tuple(int(i) for i in where[0])


def storage_offsets(tensor: Tensor) -> NDArray[np.int64]:
    """For each element (same shape), how many places of memory it lies behind the first one."""
    offsets = np.zeros((), dtype=np.int64)
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        offsets = np.add.outer(offsets, np.arange(size, dtype=np.int64) * stride)
    return np.asarray(offsets)


def flip_bit(
    tensor: Tensor, flat_index: int, bit: int, order: str = "logical"
) -> tuple[int, int]:
    """Invert one bit of one element; returns the element's bits before and after, unsigned.

    ``bit`` 0 is the least significant.  Elements that share memory (stride 0) change together.

    Raises:
        UsageError: if there is no such element or bit, or the dtype is not known.
    """
    limit = num_bits(tensor.dtype)
    if not 0 <= bit < limit:
        raise UsageError(f"bit is {bit}, must be in 0..{limit - 1} for {tensor.dtype}")
    index = position(tensor, flat_index, order)
    before = read_element(tensor, index)
    after = before ^ (1 << bit)
    write_element(tensor, index, after)
    return before, after


def _element(tensor: Tensor, index: tuple[int, ...]) -> Tensor:
    offset = sum(i * s for i, s in zip(index, tensor.stride(), strict=True))
    return tensor.detach().as_strided((), (), tensor.storage_offset() + offset)


def read_element(tensor: Tensor, index: tuple[int, ...]) -> int:
    """The bits of one element as an unsigned integer."""
    if tensor.device.type == "cpu":
        return int(bits.raw(tensor)[index])
    return int(bits.raw(bits.on_host(_element(tensor, index)))[()])


def write_element(tensor: Tensor, index: tuple[int, ...], pattern: int) -> None:
    """Store ``pattern``, an unsigned integer, as the bits of one element."""
    if tensor.device.type == "cpu":
        bits.raw(tensor)[index] = pattern
        return
    element = _element(tensor, index)
    image = bits.on_host(element)
    bits.raw(image)[()] = pattern
    element.copy_(image)


def number_of(dtype: torch.dtype, pattern: int) -> Any:
    """The number that an element of ``dtype`` with these bits stands for: float, int or bool."""
    image = torch.empty((), dtype=dtype, device="cpu")
    bits.raw(image)[()] = pattern
    return bits.values(image)[()].item()


def numbers_of(dtype: torch.dtype, patterns: NDArray[Any]) -> NDArray[Any]:
    """The numbers that elements of ``dtype`` with these bits stand for: shape as ``patterns``,
    float64 for floating dtypes, the dtype itself for integers and bool."""
    image = torch.empty(patterns.shape, dtype=dtype, device="cpu")
    bits.raw(image)[...] = patterns
    return bits.values(image)


def value_of(dtype: torch.dtype, pattern: int) -> Value:
    """The record that carries such an element by its bits."""
    return Value(
        dtype=str(dtype).removeprefix("torch."),
        bits=f"{pattern:#0{2 + 2 * dtype.itemsize}x}",
        repr=repr(number_of(dtype, pattern)),
    )


def size_ulps(dtype: torch.dtype, before: int, after: int) -> float | None:
    """``|after - before|`` in units in the last place of ``before`` (1 for integers and bool).

    Computed exactly, then rounded once to float64.  None where either is infinite or NaN, or the
    quotient is beyond float64: such a size has no number.
    """
    old, new = number_of(dtype, before), number_of(dtype, after)
    if not is_covered_float(dtype):
        return float(abs(int(new) - int(old)))
    if not (np.isfinite(old) and np.isfinite(new)):
        return None
    ulp = float(format_of(dtype).ulp(np.asarray(old)))
    try:
        return float(abs(Fraction(new) - Fraction(old)) / Fraction(ulp))
    except OverflowError:
        return None
