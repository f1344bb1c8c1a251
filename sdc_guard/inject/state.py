"""Faults of training state: one bit of a parameter, a gradient or an optimizer's state.

The state keeps the wrong bit when the fault is left, as memory does; the optimizer's hook is taken
out again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from sdc_guard import bits
from sdc_guard.inject.base import describe_change
from sdc_guard.inject.flip import flip_bit, num_bits
from sdc_guard.inject.trigger import Inert
from sdc_guard.inject.truth import InjectedFault

Tensors = Callable[[], Sequence[Tensor | None]]


class StateFault:
    """Inverts one bit of one element of one tensor, once in its life.

    ``tensors()`` lists what may be struck at that moment; the tensor, the element and the bit are
    the fractions ``places``, each in [0, 1), of what there is to choose from.  A tensor that is
    missing (a gradient of None) counts as ``masked``; while there are no tensors the fault waits.

    It strikes on entry or, with ``before_step``, when that optimizer's step begins.
    """

    op = None

    def __init__(
        self,
        name: str,
        tensors: Tensors,
        places: tuple[float, float, float],
        before_step: Optimizer | None = None,
    ) -> None:
        self.model = name
        self.injected: list[InjectedFault] = []
        self.masked = 0
        self.places = places
        self._tensors = tensors
        self._before_step = before_step
        self._lock = threading.Lock()
        self._contexts = ExitStack()

    def __repr__(self) -> str:
        return f"StateFault({self.model!r}, places={self.places})"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            if self._before_step is None:
                self._strike()
            else:
                hook = self._before_step.register_step_pre_hook(lambda *_: self._strike())
                stack.callback(hook.remove)
            stack.enter_context(Inert())
            self._contexts = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._contexts.__exit__(kind, error, trace)

    def _strike(self) -> None:
        with self._lock:
            if self.injected or self.masked:
                return
            tensors = self._tensors()
            if not tensors:
                return
            number = int(self.places[0] * len(tensors))
            tensor = tensors[number]
            if tensor is None or not tensor.numel() or tensor.layout is not torch.strided:
                self.masked += 1
                return
            if tensor.is_complex():
                tensor = torch.view_as_real(tensor.detach())
            if not bits.has_values(tensor.dtype):
                self.masked += 1
                return
            flat_index = int(self.places[1] * tensor.numel())
            bit = int(self.places[2] * num_bits(tensor.dtype))
            before, after = flip_bit(tensor, flat_index, bit)
            unsigned = f"u{tensor.element_size()}"
            self.injected.append(describe_change(
                model=self.model, dtype=tensor.dtype, shape=tuple(tensor.shape),
                where=np.array([flat_index]), before=np.array([before], dtype=unsigned),
                after=np.array([after], dtype=unsigned), output=number, bit=bit))


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """All parameters of all groups, in order."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def gradients_of(optimizer: Optimizer) -> list[Tensor | None]:
    """The gradient of each parameter that can have one."""
    return [p.grad for p in parameters_of(optimizer) if p.requires_grad]


def state_of(optimizer: Optimizer) -> list[Tensor]:
    """The tensors of an optimizer's state, parameter by parameter; empty before its first step."""
    found: list[Tensor] = []
    for parameter in parameters_of(optimizer):
        state: dict[str, Any] = optimizer.state.get(parameter, {})
        found += [v for v in state.values() if isinstance(v, Tensor)]
    return found
