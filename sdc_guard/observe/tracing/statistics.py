"""What numbers a tensor holds, in a few figures; no aten kernel computes any of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.observe.tracing.records import Statistics

MAX_ELEMENTS = 1 << 20
"""Of a larger tensor evenly spaced slices are looked at."""
MAX_DISTINCT = 1 << 16
"""Elements beyond which nobody asks whether all are distinct."""


def statistics_of(tensor: Tensor) -> Statistics | None:
    """The figures of one operand; None for a dtype without numbers and for a tensor without memory.
    """
    if not bits.has_numbers(tensor.dtype) or (tensor.numel() and not bits.address(tensor)):
        return None
    seen = _thinned(tensor.detach())
    if bits.is_lazy(seen):
        seen = bits.resolved(seen)
    if seen.device.type != "cpu":
        seen = seen.contiguous()
    found = bits.values(seen)
    if found.dtype.kind == "c":
        found = np.ascontiguousarray(found).view(np.float64)
    if found.dtype.kind == "f":
        return _of_floats(found.reshape(-1))
    return _of_integers(found.reshape(-1), is_whole=seen.numel() == tensor.numel())


def _thinned(tensor: Tensor) -> Tensor:
    """A view of at most :data:`MAX_ELEMENTS` elements, from end to end of each dimension."""
    while tensor.numel() > MAX_ELEMENTS:
        dim = max(range(tensor.dim()), key=lambda d: tensor.shape[d])
        step = min(-(-tensor.numel() // MAX_ELEMENTS), tensor.shape[dim])
        tensor = tensor[(slice(None),) * dim + (slice(None, None, step),)]
    return tensor


def _of_floats(x: NDArray[Any]) -> Statistics:
    finite = x[np.isfinite(x)]
    magnitudes = np.abs(finite[finite != 0])
    return Statistics(
        elements=x.size,
        zeros=finite.size - magnitudes.size,
        nans=int(np.count_nonzero(np.isnan(x))),
        pos_infs=int(np.count_nonzero(x == np.inf)),
        neg_infs=int(np.count_nonzero(x == -np.inf)),
        low=float(finite.min()) if finite.size else None,
        high=float(finite.max()) if finite.size else None,
        smallest=float(magnitudes.min()) if magnitudes.size else 0,
        largest=float(magnitudes.max()) if magnitudes.size else 0,
        whole=bool(np.all(finite == np.trunc(finite))))


def _of_integers(x: NDArray[Any], *, is_whole: bool) -> Statistics:
    """``is_whole``: no element was left out."""
    if not x.size:
        return Statistics()
    low, high = int(x.min()), int(x.max())
    not_negative = x[x >= 0] if low < 0 else x
    nonzero = x[x != 0]
    smallest = 0
    if nonzero.size:
        above, below = nonzero[nonzero > 0], nonzero[nonzero < 0]
        smallest = min([int(part.min()) for part in (above,) if part.size]
                       + [-int(part.max()) for part in (below,) if part.size])
    is_few = is_whole and 1 < x.size <= MAX_DISTINCT and x.dtype.kind != "b"
    return Statistics(
        elements=x.size, zeros=x.size - nonzero.size, low=low, high=high, smallest=smallest,
        largest=max(abs(low), abs(high)), negatives=x.size - not_negative.size,
        least_index=int(not_negative.min()) if not_negative.size else None,
        is_sorted=is_whole and x.size > 1 and bool(np.all(x[1:] >= x[:-1])),
        is_distinct=is_few and np.unique(x).size == x.size)
