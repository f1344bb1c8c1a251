"""The state of a training step, kept so that the step can be run again from it."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdc_guard import bits
from sdc_guard.bench.detectors.stacking import unseen
from sdc_guard.bench.workload import Workload


class RandomState:
    """Python's, NumPy's and torch's random streams, that of the workload's device included."""

    def __init__(self, device: torch.device) -> None:
        self._device = device if device.type == "cuda" else None
        self._python = random.getstate()
        self._numpy = np.random.get_state()
        self._torch = torch.get_rng_state()
        self._cuda = None if self._device is None else torch.cuda.get_rng_state(self._device)

    def put_back(self) -> None:
        """Make it so again."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        if self._cuda is not None and self._device is not None:
            torch.cuda.set_rng_state(self._cuda, self._device)

    def differs_from(self, other: RandomState) -> bool:
        """True if one of torch's streams is elsewhere."""
        if not bits.bits_equal(self._torch, other._torch):
            return True
        return (self._cuda is not None and other._cuda is not None
                and not bits.bits_equal(self._cuda, other._cuda))


class BeforePass:
    """What a forward and backward pass changes: random streams, buffers and gradients.

    Copies are raw (:func:`sdc_guard.bits.snapshot`), and no dispatch mode sees them made.
    """

    def __init__(self, workload: Workload) -> None:
        with unseen():
            self._random = RandomState(workload.device)
            self._buffers = [
                (module, name, buffer, None if buffer is None else bits.snapshot(buffer))
                for module in workload.model.modules() for name, buffer in module._buffers.items()]
            self._gradients = [
                (p, p.grad, None if p.grad is None else bits.snapshot(p.grad))
                for p in workload.model.parameters()]

    def put_back(self) -> None:
        """Make it so again."""
        with unseen():
            self._random.put_back()
            for module, name, buffer, image in self._buffers:
                module._buffers[name] = buffer
                if buffer is not None and image is not None:
                    bits.restore(buffer, image)
            for parameter, gradient, image in self._gradients:
                parameter.grad = gradient
                if gradient is not None and image is not None:
                    bits.restore(gradient, image)


class BeforeStep:
    """What a whole step changes: :class:`BeforePass`, parameters, and the optimizer's state."""

    def __init__(self, workload: Workload) -> None:
        self._before_pass = BeforePass(workload)
        self._optimizer = workload.optimizer
        with unseen():
            self._parameters: list[tuple[Tensor, Tensor]] = [
                (p, bits.snapshot(p)) for p in workload.model.parameters()]
            self._states = {
                parameter: (state, [(key, value, _image(value)) for key, value in state.items()])
                for parameter, state in workload.optimizer.state.items()}
            self._groups = [
                [(key, value, _image(value)) for key, value in group.items() if key != "params"]
                for group in workload.optimizer.param_groups]

    def put_back(self) -> None:
        """Make it so again; state that the optimizer has made since is dropped."""
        self._before_pass.put_back()
        optimizer: Any = self._optimizer
        with unseen():
            for tensor, image in self._parameters:
                bits.restore(tensor, image)
            for parameter in list(optimizer.state):
                if parameter not in self._states:
                    del optimizer.state[parameter]
            for parameter, (state, items) in self._states.items():
                state.clear()
                _put_items_back(state, items)
                optimizer.state[parameter] = state
            for group, items in zip(optimizer.param_groups, self._groups, strict=True):
                _put_items_back(group, items)


def _image(value: Any) -> Any:
    return bits.snapshot(value) if isinstance(value, Tensor) else copy.deepcopy(value)


def _put_items_back(held: dict[str, Any], items: list[tuple[str, Any, Any]]) -> None:
    for key, value, image in items:
        if isinstance(value, Tensor):
            bits.restore(value, image)
            held[key] = value
        else:
            held[key] = copy.deepcopy(image)


def gradients(model: nn.Module) -> list[tuple[str, Tensor]]:
    """The parameters' names and gradients, those without one left out."""
    return [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
