"""Which recorded call, result or operand a fault strikes.

A training step makes hundreds of the optimizer's calls and few of most others.  So half of the
faults are uniform over the calls, and half are uniform over pairs of operator and phase, then over
the calls of the pair: each operator is met often, and what is called often is met more often.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from sdc_guard import bits
from sdc_guard.errors import UsageError
from sdc_guard.inject.campaign import CallShape, OperandShape, OutputShape, makes_numbers
from sdc_guard.inject.misread import always_draws
from sdc_guard.inject.override import refusal

Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class Chosen(Generic[Part]):
    """A call and one of its results or operands."""

    call: CallShape
    place: int
    part: Part
    device: str


_REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}


@cache
def _reachable(op: Any, device: str) -> bool:
    return makes_numbers(op) and not refusal(op, device)


def _device(call: CallShape) -> str | None:
    """The dispatcher's name of the device on which the call can be struck."""
    device = next((o.device.upper() for o in call.outputs if o is not None), "")
    return device if device in ("CPU", "CUDA") and _reachable(call.op, device) else None


def _as_real(out: OutputShape) -> OutputShape:
    """A complex result as the real numbers that it is made of."""
    if out.dtype not in _REAL:
        return out
    return OutputShape((*out.shape, 2), _REAL[out.dtype], 2 * out.numel, out.device)


def results(
    calls: Sequence[CallShape], fits: Callable[[OutputShape], bool] = lambda out: True
) -> list[list[Chosen[OutputShape]]]:
    """Per call, the results that a fault can change and that ``fits`` admits; calls without one are
    left out."""
    found = []
    for call in calls:
        device = _device(call)
        if device is None:
            continue
        parts = [Chosen(call, i, _as_real(out), device) for i, out in enumerate(call.outputs)
                 if out is not None and out.numel and out.device.upper() == device
                 and bits.has_numbers(out.dtype) and fits(_as_real(out))]
        if parts:
            found.append(parts)
    return found


def operands(
    calls: Sequence[CallShape],
    fits: Callable[[CallShape, OperandShape], bool] = lambda call, operand: True,
) -> list[list[Chosen[OperandShape]]]:
    """Per call, the floating operands that it could read wrongly and that ``fits`` admits.  A wrong
    index could end the process, so integers are left out, as are calls that draw numbers."""
    found = []
    for call in calls:
        device = _device(call)
        if device is None or always_draws(call.op):
            continue
        parts = [Chosen(call, i, part, device) for i, part in enumerate(call.operands)
                 if part.numel and part.dtype.is_floating_point and bits.has_values(part.dtype)
                 and fits(call, part)]
        if parts:
            found.append(parts)
    return found


def choose(
    candidates: Sequence[Sequence[Chosen[Part]]], generator: np.random.Generator
) -> Chosen[Part]:
    """One of them, by the mixture that the module describes; uniform among a call's parts.

    Raises:
        UsageError: if there is none.
    """
    if not candidates:
        raise UsageError("none of the recorded calls can be struck by this fault model; record a "
                         "whole training step, or leave the model out for this workload")
    if generator.integers(2):
        groups: dict[tuple[str, str], list[Sequence[Chosen[Part]]]] = {}
        for parts in candidates:
            call = parts[0].call
            groups.setdefault((str(call.op), call.phase), []).append(parts)
        names = sorted(groups)
        candidates = groups[names[int(generator.integers(len(names)))]]
    parts = candidates[int(generator.integers(len(candidates)))]
    return parts[int(generator.integers(len(parts)))]
