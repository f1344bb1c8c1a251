"""How far changed elements are off, in units of the contract bound of the operator."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard.calls import BoundCall, resolved
from sdc_guard.formats import is_covered_float
from sdc_guard.inject.flip import numbers_of
from sdc_guard.ops import HostCall, lookup

MAX_ELEMENTS = 1 << 22
"""Beyond this many elements in the operands and results no reference is evaluated."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Size:
    """``worst``: place among the changed elements of the largest error, or of the first that is or
    was not finite; ``bounds``: that error in units of the bound, None without one."""

    worst: int
    bounds: float | None
    num_not_finite: int


def limits_of(
    call: BoundCall, held: Sequence[Tensor | None], output: int, where: NDArray[np.intp]
) -> NDArray[np.float64] | None:
    """Contract bound of the elements ``where`` (flat, C order) of one result, for the right results
    ``held``; None where the operator has none, or its reference fails."""
    spec = lookup(call.form.packet)
    tensors = [*(t for _, t in call.tensors()), *(t for t in held if t is not None)]
    target = held[output]
    if (spec is None or target is None or any(t.is_complex() for t in tensors)
            or sum(t.numel() for t in tensors) > MAX_ELEMENTS):
        return None
    results: Any = tuple(held)
    try:
        with np.errstate(all="ignore"):
            expected = () if spec.reference is None else spec.reference(
                HostCall(resolved(call), results))
            found = expected[output] if output < len(expected) else None
            if found is not None:
                contract = np.broadcast_to(found.contract, tuple(target.shape))
                return np.asarray(contract.reshape(-1)[where], dtype=np.float64)
            if spec.proves is not None and spec.proves(call, results):
                return np.zeros(len(where))
    except Exception:
        # A measure of the fault only: the fault itself must go on whatever operands it meets.
        _log.debug("no bound of %s: its reference failed", call.form.name, exc_info=True)
    return None


def size_of(
    dtype: torch.dtype,
    before: NDArray[Any],
    after: NDArray[Any],
    limits: NDArray[np.float64] | None,
) -> Size:
    """Size of the largest of some errors; ``before`` and ``after`` hold the elements' bits."""
    old = numbers_of(dtype, before).astype(np.float64)
    new = numbers_of(dtype, after).astype(np.float64)
    finite = np.isfinite(old) & np.isfinite(new)
    if not finite.all():
        return Size(int(np.argmin(finite)), None, int((~finite).sum()))
    largest = sys.float_info.max
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        error = np.minimum(np.abs(new - old), largest)
        if not is_covered_float(dtype):  # 64-bit integers may differ by less than a float can tell
            error = np.maximum(error, 1.0)
        if limits is None or not np.isfinite(limits).all():
            return Size(int(np.argmax(error)), None, 0)
        ratio = np.where(error == 0, 0.0, np.minimum(error / limits, largest))
    worst = int(np.argmax(ratio))
    return Size(worst, float(ratio[worst]), 0)
