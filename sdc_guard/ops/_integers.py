"""Integer results: sums of products modulo 2^b, and the division that C++ makes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.formats import FLOAT64
from sdc_guard.ops._registry import Reference

Array = NDArray[Any]

EXACT = 2**FLOAT64.precision
"""Below this size sums of integers are exact in float64."""


def is_integer(dtype: torch.dtype) -> bool:
    """An integer format with values that NumPy reads; not bool."""
    return (bits.has_values(dtype) and dtype is not torch.bool
            and not dtype.is_floating_point and not dtype.is_complex)


def summable(num_terms: int, *factors: Array) -> list[Array]:
    """The factors of sums of ``num_terms`` products: in float64, for BLAS, where every partial sum
    in any order is exact there; else in int64, whose sums wrap, so that their low bits are those
    of the kernel's whatever its width."""
    largest = max(num_terms, 1) * math.prod(
        max(abs(int(f.min(initial=0))), abs(int(f.max(initial=0))), 1) for f in factors)
    kind = np.float64 if largest < EXACT else np.int64
    return [f.astype(kind) for f in factors]


def whole(value: Array) -> Array:
    """What sums of :func:`summable` factors gave, in int64."""
    return value.astype(np.int64)


def truncated_quotient(a: Array, b: Array) -> Array:
    """``a / b`` of C++ integers: rounded towards 0."""
    quotient = a // b
    return np.asarray(quotient + ((quotient < 0) & (quotient * b != a)))


def exact(value: Array, held: Tensor, formula: str = "exact integers") -> Reference:
    """The value modulo 2^b for a result of b bits."""
    stored = value.astype(bits.values(held).dtype).reshape(tuple(held.shape))
    return Reference(stored, 0.0, 0.0, formula)
