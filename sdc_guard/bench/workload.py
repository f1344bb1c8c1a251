"""What a benchmark runs: a training step, built by whoever calls (``cli`` takes the demo's GPT)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

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


@contextmanager
def intra_op_threads(num_threads: int) -> Iterator[None]:
    """Let torch use ``num_threads`` threads inside one op until the block ends."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
