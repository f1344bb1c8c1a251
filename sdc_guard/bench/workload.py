"""What a benchmark runs: a training step, whole (:class:`TrainingStep`) or in its parts
(:class:`Workload`), so that every detector can be put around the part that it watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class TrainingStep(Protocol):
    """A model, its optimizer, and one step of a user's loop on the next batch."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def optimizer(self) -> torch.optim.Optimizer: ...

    def step(self) -> Tensor: ...


Build = Callable[[], TrainingStep]
"""Makes a fresh training step; the same numbers each time."""

Batch = Any
"""What one step of training consumes: a tensor, or a tuple or dict of tensors."""


@dataclass
class Workload:
    """A model in training whose parts can be called one by one.

    ``batch(n)`` is the batch of step ``n``, the same numbers each time; ``loss(model, batch)`` is a
    scalar with a gradient.  ``autocast`` is the dtype of an autocast around the loss on the
    parameters' device, None for none.  ``step_number`` is the number of the next step, and may be
    set.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batch: Callable[[int], Batch]
    loss: Callable[[nn.Module, Batch], Tensor]
    autocast: torch.dtype | None = None
    step_number: int = 0

    @property
    def device(self) -> torch.device:
        """Where the first parameter lies."""
        return next(self.model.parameters()).device

    def autocasting(self) -> torch.autocast:
        """The context in which the loss is computed."""
        dtype = self.autocast or torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.autocast is not None)

    def next_batch(self) -> Batch:
        """The batch of the next step; counts the step."""
        batch = self.batch(self.step_number)
        self.step_number += 1
        return batch

    def forward_backward(self, batch: Batch) -> Tensor:
        """Loss and gradients, added to what the parameters hold; returns the detached loss."""
        with self.autocasting():
            loss = self.loss(self.model, batch)
        loss.backward()
        return loss.detach()

    def update(self) -> None:
        """The optimizer's step; gradients are dropped after it."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    def step(self) -> Tensor:
        """One whole step of training; returns the detached loss."""
        loss = self.forward_backward(self.next_batch())
        self.update()
        return loss


@contextmanager
def intra_op_threads(num_threads: int) -> Iterator[None]:
    """Let torch use ``num_threads`` threads inside one op until the block ends."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
