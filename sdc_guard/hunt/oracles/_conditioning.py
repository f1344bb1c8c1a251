"""How far a result may move where no bound is derived: an estimate, and never more than that.

The call is made in float64, then again on operands that are moved by one rounding of their own
format with signs drawn at random; what the result moves by is what a backward stable evaluation
may err by.  It says nothing of a particular algorithm, so it decides no ``corruption``.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.formats import format_of, is_covered_complex, is_covered_float
from sdc_guard.hunt.execution import Execution, execute
from sdc_guard.hunt.materialise import tensor_of
from sdc_guard.hunt.trial import Layout, Literal, Operand, Scalar, Trial

ROOM = 2.0**10
"""A difference is told when it is more than this many times the estimate."""
NUM_MOVES = 3
_WIDE = {"float32": "float64", "bfloat16": "float64", "float16": "float64", "float64": "float64",
         "complex64": "complex128", "complex128": "complex128"}


@dataclass(slots=True)
class Estimate:
    """Float64 results of a trial, and of moved operands."""

    plain: list[NDArray[np.generic] | None]
    moved: list[list[NDArray[np.generic] | None]]

    def spread(self, place: int) -> float:
        """The largest change of a result; infinite where one is not finite."""
        base = self.plain[place]
        assert base is not None
        changes = [np.abs(m[place] - base) for m in self.moved]  # type: ignore[operator]
        return float(np.max([np.max(np.nan_to_num(c, nan=np.inf), initial=0.0) for c in changes]))

    def limit(self, place: int, got: Tensor) -> float | None:
        """The difference that is told of a result; None where nothing can be said: results that
        are no floats, or not finite in float64, or near the end of the result's format."""
        if place >= len(self.plain) or not (
                is_covered_float(got.dtype) or is_covered_complex(got.dtype)):
            return None
        base = self.plain[place]
        if base is None or base.shape != tuple(got.shape) or base.dtype.kind not in "fc":
            return None
        fmt = format_of(got.dtype.to_real())
        size = float(np.max(np.abs(base), initial=0.0))
        spread = self.spread(place)
        if not np.isfinite(size + spread) or size > fmt.max / ROOM:
            return None
        return ROOM * (spread + fmt.u * size + fmt.tiny)


def estimate(trial: Trial) -> Estimate | None:
    """The estimate for a trial; None where it has no floating operand that may be moved, where the
    operands come near the ends of their format, or where float64 does not take the call."""
    operands = list(trial.operands())
    if trial.modes.autocast or not any(o.dtype in _WIDE and o.free for o in operands):
        return None
    with np.errstate(all="ignore"), torch.no_grad():
        for operand in operands:
            if operand.dtype in _WIDE and not _is_tame(operand):
                return None
        made = [widened(trial, seed) for seed in range(NUM_MOVES + 1)]
    runs = [execute(t, record=False) for t in made]
    if any(r.refusal for r in runs):
        return None
    numbers = [_numbers(r) for r in runs]
    return Estimate(numbers[0], numbers[1:])


def _is_tame(operand: Operand) -> bool:
    """No element so large, or so small, that a product of a few leaves the format."""
    fmt = format_of(getattr(torch, operand.dtype).to_real())
    size = np.abs(bits.values(bits.resolved(tensor_of(operand).detach())))
    size = size[size > 0]
    return bool(np.isfinite(size).all() and (size < 2.0 ** (fmt.emax // 4)).all()
                and (size > 2.0 ** (fmt.emin // 4)).all())


def widened(trial: Trial, seed: int = 0) -> Trial:
    """The trial in float64 on contiguous operands; for a seed above 0 free ones are moved by one
    rounding of the format that they come from.  ``dtype=`` arguments are widened with them."""
    rng = np.random.default_rng(seed)

    def wide(_: int, operand: Operand) -> Operand:
        if operand.dtype not in _WIDE:
            return operand
        dtype = getattr(torch, operand.dtype)
        values = bits.values(bits.resolved(tensor_of(operand).detach()))
        if seed and operand.free:
            signs = rng.integers(0, 2, values.shape) * 2.0 - 1.0
            values = values * (1 + format_of(dtype.to_real()).u * signs)
        return msgspec.structs.replace(
            operand, dtype=_WIDE[operand.dtype], layout=Layout(),
            values=Literal.of(np.ascontiguousarray(values).tobytes()))

    return with_scalars(trial.mapped(wide), _widened_scalar)


def _widened_scalar(item: Scalar) -> Scalar:
    if item.kind == "dtype" and item.text in _WIDE:
        return msgspec.structs.replace(item, text=_WIDE[item.text])
    return item


def with_scalars(trial: Trial, change: object) -> Trial:
    """The trial with each of its top-level scalar arguments replaced."""
    def changed(argument: object) -> object:
        return change(argument) if isinstance(argument, Scalar) else argument  # type: ignore

    return msgspec.structs.replace(
        trial, args=tuple(changed(a) for a in trial.args),
        kwargs={k: changed(v) for k, v in trial.kwargs.items()})


def _numbers(execution: Execution) -> list[NDArray[np.generic] | None]:
    return [None if t is None or not bits.has_numbers(t.dtype) or t.layout is not torch.strided
            else bits.values(bits.resolved(t.detach())) for t in execution.outcome()]
