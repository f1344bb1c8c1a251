"""The tiny GPT as a target of faults: its parts one by one, and the same numbers each time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sdc_guard.inject.campaign import CallShape, record_calls
from sdc_guard.inject.target import Target
from tests.unit.inject.tiny_gpt import LENGTH, NUM_TOKENS, TinyGPT


def batch_of(number: int) -> tuple[Tensor, Tensor]:
    ids = (torch.arange(3 * LENGTH).reshape(3, LENGTH) * 7 + number) % NUM_TOKENS
    return ids, (ids + 3) % NUM_TOKENS


@dataclass
class Training:
    """A training that has made two steps."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batch: Callable[[int], Any] = batch_of
    step_number: int = 0
    autocast: bool = False

    def step(self) -> None:
        ids, targets = self.batch(self.step_number)
        self.step_number += 1
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            loss = self.model(ids, targets)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state(self) -> list[Tensor]:
        """Copies of the parameters."""
        return [p.detach().clone() for p in self.model.parameters()]

    def images(self) -> tuple[Any, ...]:
        return (copy.deepcopy(self.model.state_dict()), copy.deepcopy(self.optimizer.state_dict()),
                self.step_number, torch.get_rng_state())

    def put_back(self, images: tuple[Any, ...]) -> None:
        self.model.load_state_dict(images[0])
        self.optimizer.load_state_dict(copy.deepcopy(images[1]))
        self.step_number = images[2]
        torch.set_rng_state(images[3])
        self.optimizer.zero_grad()


def start(*, autocast: bool = False) -> tuple[Training, Target, tuple[Any, ...]]:
    """A training, it as a target, and images of its state."""
    torch.manual_seed(0)
    model = TinyGPT()
    training = Training(model, torch.optim.AdamW(model.parameters(), lr=1e-2), autocast=autocast)
    for _ in range(2):
        training.step()
    images = training.images()
    calls: list[CallShape] = record_calls(training.step)
    training.put_back(images)
    return training, Target(calls, model, training.optimizer, training), images
