"""What a campaign strikes, and what a fault model is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from torch import nn
from torch.optim import Optimizer

from sdc_guard.inject.campaign import CallShape
from sdc_guard.inject.truth import InjectedFault

KINDS = ("transient", "repeated", "deterministic", "state", "data", "checker")
"""``transient``: strikes once.  ``repeated``: tied to a place, in each execution.
``deterministic``: a bug of a kernel.  ``state``: parameters, gradients, optimizer state.
``data``: batches.  ``checker``: what a detector recomputes, never the user's own numbers."""


class BatchSource(Protocol):
    """Where a training step takes its batches from: ``batch(n)`` is the batch of step ``n``, the
    same numbers each time; ``step_number`` is the number of the next step."""

    batch: Callable[[int], Any]
    step_number: int


@dataclass(frozen=True)
class Target:
    """A training that faults are drawn for.  ``calls``: what one of its steps calls, from
    :func:`sdc_guard.inject.record_calls`."""

    calls: Sequence[CallShape]
    model: nn.Module
    optimizer: Optimizer
    batches: BatchSource


class AnyFault(Protocol):
    """A context manager that changes numbers while it is entered.

    ``op``: the operator overload that it strikes, None where it strikes none.  ``injected``: what
    it changed so far; ``masked``: how often it was due and changed no bit.
    """

    @property
    def op(self) -> Any: ...

    @property
    def injected(self) -> list[InjectedFault]: ...

    @property
    def masked(self) -> int: ...

    def __enter__(self) -> Any: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


Draw = Callable[[Target, np.random.Generator], AnyFault]


@dataclass(frozen=True)
class FaultModel:
    """One model: ``kind`` is one of :data:`KINDS`, ``description`` one line, ``draw`` makes a fresh
    fault for a target."""

    name: str
    kind: str
    description: str
    draw: Draw
