"""Images of a training run, so that each trial starts from the same numbers."""

from __future__ import annotations

import copy
from typing import Any

import torch

from sdc_guard import bits
from sdc_guard.bench.workload import TrainingStep


class TrainingState:
    """Images of parameters, buffers, optimizer state and the optimizer's settings (the learning
    rate, which a schedule changes) at one moment.

    What a schedule counts by itself is not in it: it lies in an object of the user's.
    """

    def __init__(self, training: TrainingStep) -> None:
        optimizer = training.optimizer
        self._parameters = [(p, bits.snapshot(p)) for p in training.model.parameters()]
        self._buffers = [
            (module, name, buffer, _image(buffer))
            for module in training.model.modules() for name, buffer in module._buffers.items()]
        self._states = {key: (state, _items(state)) for key, state in optimizer.state.items()}
        self._groups = [_items(_settings(group)) for group in optimizer.param_groups]

    def put_back(self, training: TrainingStep) -> None:
        """Write the images back, bit for bit, and drop gradients, and what was made since."""
        optimizer: Any = training.optimizer
        for parameter, image in self._parameters:
            bits.restore(parameter, image)
            parameter.grad = None
        for module, name, buffer, image in self._buffers:
            module._buffers[name] = _as_it_was(buffer, image)
        for key in [key for key in optimizer.state if key not in self._states]:
            del optimizer.state[key]
        for key, (state, items) in self._states.items():
            state.clear()
            state.update((name, _as_it_was(value, image)) for name, value, image in items)
            optimizer.state[key] = state
        for group, items in zip(optimizer.param_groups, self._groups, strict=True):
            group.update((name, _as_it_was(value, image)) for name, value, image in items)


_Items = list[tuple[str, Any, Any]]
"""Name, value and image of the value."""


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _items(held: dict[str, Any]) -> _Items:
    return [(name, value, _image(value)) for name, value in held.items()]


def _image(value: Any) -> Any:
    return bits.snapshot(value) if isinstance(value, torch.Tensor) else copy.deepcopy(value)


def _as_it_was(value: Any, image: Any) -> Any:
    """A tensor itself with its old bits; of anything else a copy, since a step may change it."""
    if isinstance(value, torch.Tensor):
        bits.restore(value, image)
        return value
    return copy.deepcopy(image)
