"""Images of a training run, so that each trial starts from the same numbers."""

from __future__ import annotations

import copy
from typing import Any

import torch

from sdc_guard import bits
from sdc_guard.bench.workload import TrainingStep


class TrainingState:
    """Images of parameters, buffers and optimizer state at one moment."""

    def __init__(self, training: TrainingStep) -> None:
        self._images = [(t, bits.snapshot(t)) for t in _tensors(training)]
        self._numbers = copy.deepcopy(_numbers(training))

    def put_back(self, training: TrainingStep) -> None:
        """Write the images back, bit for bit, and drop gradients."""
        for tensor, image in self._images:
            bits.restore(tensor, image)
        for state, numbers in zip(training.optimizer.state.values(), self._numbers, strict=True):
            state.update(numbers)
        for parameter in training.model.parameters():
            parameter.grad = None


def _tensors(training: TrainingStep) -> list[torch.Tensor]:
    states = training.optimizer.state.values()
    return [*training.model.parameters(), *training.model.buffers(),
            *(v for state in states for v in state.values() if isinstance(v, torch.Tensor))]


def _numbers(training: TrainingStep) -> list[dict[str, Any]]:
    return [{k: v for k, v in state.items() if not isinstance(v, torch.Tensor)}
            for state in training.optimizer.state.values()]
