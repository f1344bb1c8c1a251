"""A trial to live tensors: every element, stride, offset and alias as the trial says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.errors import UsageError
from sdc_guard.hunt.fills import values_for
from sdc_guard.hunt.layouts import laid_out
from sdc_guard.hunt.targets import resolve
from sdc_guard.hunt.trial import (
    Alias,
    Argument,
    Items,
    Literal,
    Operand,
    Scalar,
    Trial,
    Within,
    dtype_of,
    num_elements,
    value_of,
)
from sdc_guard.hunt.within import values_within


@dataclass(slots=True)
class Made:
    """A trial's call, ready to be made; ``tensors`` are its operands in order."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    tensors: list[Tensor]


def materialise(trial: Trial) -> Made:
    """Fresh operands for one call.

    Raises:
        UsageError: if the trial does not fit together (an alias of an operand that comes later, a
            literal of the wrong size, an unknown name).
    """
    tensors: list[Tensor] = []

    def make(argument: Argument) -> Any:
        match argument:
            case Operand():
                tensors.append(tensor_of(argument, trial.device))
                return tensors[-1]
            case Alias():
                if argument.of >= len(tensors):
                    raise UsageError(f"an alias of operand {argument.of} stands before it")
                return tensors[argument.of]
            case Scalar():
                return value_of(argument)
            case Items():
                made = [make(item) for item in argument.items]
                return tuple(made) if argument.is_tuple else made

    args = tuple(make(a) for a in trial.args)
    kwargs = {name: make(value) for name, value in trial.kwargs.items()}
    return Made(resolve(trial.target), args, kwargs, tensors)


def tensor_of(operand: Operand, device: str = "cpu") -> Tensor:
    """The tensor of one operand."""
    dtype = dtype_of(operand.dtype)
    values = dense(operand, dtype).to(device)
    made = laid_out(values, operand.layout)
    return made.requires_grad_() if operand.requires_grad else made


def dense(operand: Operand, dtype: torch.dtype) -> Tensor:
    """The operand's values, contiguous, on the host.

    Raises:
        UsageError: if a literal has another number of bytes than the shape asks for.
    """
    if isinstance(operand.values, Literal):
        data = operand.values.bytes
        made = torch.empty(operand.shape, dtype=dtype)
        wanted = num_elements(operand.shape) * dtype.itemsize
        if len(data) != wanted:
            raise UsageError(f"a literal of {len(data)} bytes for shape {operand.shape} in {dtype},"
                             f" which needs {wanted}")
        if wanted:
            raw = bits.raw(made)
            raw[...] = np.frombuffer(data, dtype=raw.dtype).reshape(raw.shape)
        return made
    if isinstance(operand.values, Within):
        return values_within(operand.values, operand.shape, dtype)
    return values_for(operand.values, operand.shape, dtype)
