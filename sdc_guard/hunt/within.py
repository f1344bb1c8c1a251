"""Values that keep to what a trace has seen of an operand, and are as adversarial as that allows.

A recipe of ``fills.KINDS`` gives the structure (cancelling, sorted, one outlier, ties); a power of
two, which changes no significand, brings its largest value to the largest that was seen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard.formats import Format, format_of, part_dtype
from sdc_guard.hunt.fills import filled
from sdc_guard.hunt.trial import Fill, Within, num_elements

F64 = NDArray[np.floating[Any]]
PLACES = 1
"""Second word of the seed of where zeros, NaN and infinities lie, apart from the values' own."""


def values_within(within: Within, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A contiguous host tensor of values that fit."""
    size = num_elements(shape)
    rng = np.random.default_rng([within.fill.seed % 2**32, PLACES])
    if dtype is torch.bool:
        return torch.from_numpy(rng.random(size) >= within.zeros).reshape(shape)
    if dtype.is_complex:
        parts = [_floats(within, _reseeded(within.fill, by), size, format_of(part_dtype(dtype)),
                         rng) for by in (0, 1)]
        real, imaginary = (torch.from_numpy(p).to(part_dtype(dtype)) for p in parts)
        return torch.complex(real, imaginary).reshape(shape)
    if not dtype.is_floating_point:
        return _integers(within, size, dtype, rng).reshape(shape)
    return torch.from_numpy(_floats(within, within.fill, size, format_of(dtype), rng)).to(
        dtype).reshape(shape)


def _reseeded(fill: Fill, by: int) -> Fill:
    return Fill(kind=fill.kind, exponent=fill.exponent, seed=fill.seed + by)


def _floats(within: Within, fill: Fill, size: int, fmt: Format, rng: np.random.Generator) -> F64:
    low, high = (float(min(max(v, -fmt.max), fmt.max)) for v in (within.low, within.high))
    largest = max(abs(low), abs(high))
    x = fitted(filled(fill, size, fmt), low, high, min(within.smallest, largest))
    if within.whole:
        x = np.clip(np.round(x), np.ceil(low), np.floor(high))
    if within.zeros > 0:
        x = np.where(rng.random(size) < within.zeros, 0.0, x)
    else:
        x = np.where(x == 0, within.smallest if high > 0 else -within.smallest, x)
    x = np.clip(x, low, high)
    for share, value in ((within.nans, np.nan), (within.pos_infs, np.inf),
                         (within.neg_infs, -np.inf)):
        if share > 0:
            x = np.where(rng.random(size) < share, value, x)
    return np.asarray(x, dtype=np.float64)


def fitted(x: F64, low: float, high: float, smallest: float) -> F64:
    """Finite numbers in ``low`` .. ``high`` with the significands of ``x``, as far as they fit: a
    common power of two brings the largest to the limit, one of its own each lifts what is below
    ``smallest``, and signs change where only the other one was seen."""
    largest = max(abs(low), abs(high))
    finite = np.isfinite(x)
    most = float(np.max(np.abs(x), where=finite, initial=0.0))
    x = np.where(finite, x, np.where(np.isnan(x), most, np.copysign(most, x)))
    if not most or not largest:
        return np.clip(x, low, high)
    shift = int(np.floor(np.log2(largest)) - np.floor(np.log2(most)))
    x = np.ldexp(x, shift - int(np.ldexp(most, shift) > largest))
    if smallest > 0:
        with np.errstate(divide="ignore"):
            steps = np.ceil(np.log2(smallest) - np.log2(np.abs(x)))
        lifted = np.ldexp(x, np.clip(np.nan_to_num(steps, posinf=0.0), 0, 4000).astype(np.int64))
        # The logarithm of the last number below a power of two is that of the power.
        lifted = np.where(np.abs(lifted) < smallest, 2 * lifted, lifted)
        x = np.where((x != 0) & (np.abs(x) < smallest), lifted, x)
    x = np.where((x < low) | (x > high), -x, x)
    return np.asarray(np.clip(x, low, high))


def _integers(
    within: Within, size: int, dtype: torch.dtype, rng: np.random.Generator
) -> Tensor:
    info = torch.iinfo(dtype)
    low, high = (min(max(int(v), info.min), info.max) for v in (within.low, within.high))
    if within.is_distinct and high - low + 1 >= size and high - low < 1 << 24:
        x = low + rng.permutation(high - low + 1)[:size]
    else:
        x = rng.integers(low, high, size, dtype=np.int64 if info.max < 2**63 else np.uint64,
                         endpoint=True)
        if within.zeros > 0:
            x[rng.random(size) < within.zeros] = min(max(0, low), high)
    if within.fillers > 0:
        x[rng.random(size) < within.fillers] = min(max(within.filler, info.min), info.max)
    if within.is_sorted:
        x = np.sort(x)
    return torch.from_numpy(np.ascontiguousarray(x)).to(dtype)
