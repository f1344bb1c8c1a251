"""What a conversion between dtypes must give, element by element, without any torch kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.casts import nearest, through_float32
from sdc_guard.formats import FLOAT32, FLOAT64, format_of, is_covered_float
from sdc_guard.ops._registry import Reference

Array = NDArray[Any]
FORMULA = "exact: one rounding to nearest even"

_INTEGER: dict[torch.dtype, Any] = {
    torch.int64: np.int64,
    torch.int32: np.int32,
    torch.int16: np.int16,
    torch.int8: np.int8,
    torch.uint8: np.uint8,
}


def cast(values: Array, dtype: torch.dtype, held: Array) -> tuple[Array, Array] | None:
    """``values`` converted to ``dtype`` and how far the result may be off; None for dtypes that we
    do not know.

    The limit is 0 but where a double or an integer becomes a half number: ATen goes through fp32,
    other code does not, and either is right.  A number outside the range of an integer dtype has
    no defined conversion; there ``held``, what was got, is taken.
    """
    with np.errstate(all="ignore"):
        if is_covered_float(dtype):
            fmt = format_of(dtype)
            if values.dtype.kind == "f" or fmt is FLOAT64:
                direct = nearest(values, fmt)
            else:
                direct = values.astype(np.float32).astype(np.float64)
            if fmt.precision >= FLOAT32.precision:
                return direct, np.asarray(0.0)
            other = through_float32(values, fmt)
            direct = nearest(values, fmt) if values.dtype.kind == "f" else other
            return direct, np.nan_to_num(np.abs(direct - other), nan=0.0)
        if dtype is torch.bool:
            return values != 0, np.asarray(0.0)
        target = _INTEGER.get(dtype)
        if target is None:
            return None
        if values.dtype.kind != "f":
            return values.astype(target), np.asarray(0.0)
        info = np.iinfo(target)
        inside = (values > info.min - 1.0) & (values < info.max + 1.0)
        inside &= np.abs(values) < 2.0**63
        return np.where(inside, np.where(inside, values, 0).astype(target), held), np.asarray(0.0)


def cast_reference(values: Array, held: Tensor) -> Reference | None:
    """The reference of a result whose elements are ``values`` (of the result's shape) converted to
    its dtype."""
    if not bits.has_values(held.dtype):
        return None
    found = cast(values, held.dtype, bits.values(held))
    if found is None:
        return None
    expected, limit = found
    return Reference(expected, limit, limit, FORMULA)


def moved_bits(held: Tensor, source: Tensor) -> NDArray[np.bool_] | None:
    """Elements of ``held`` that are not bit for bit those of ``source``, which has its shape and
    dtype; None if all are."""
    if bits.bits_equal(held, source):
        return None
    return bits.wrong_mask(held, source)
