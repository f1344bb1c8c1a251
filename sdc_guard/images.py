"""Images of training state: bits of parameters, optimizer state and module buffers at one moment.

Restoring keeps the identity of every tensor, so that references held elsewhere stay good.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from sdc_guard import bits


def local(tensor: Tensor) -> Tensor:
    """The memory of this rank: a DTensor's local shard, any other tensor itself."""
    shard = getattr(tensor, "_local_tensor", None)
    return shard.detach() if isinstance(shard, Tensor) else tensor.detach()


def _size_bytes(tensor: Tensor) -> int:
    shard = local(tensor)
    return bits.span(shard) * shard.element_size()


def _restore(tensor: Tensor, image: Tensor) -> None:
    """Write an image back; memory between the elements may belong to others and stays."""
    target = local(tensor)
    if bits.is_dense(target):
        bits.restore(target, image)
    elif target.device.type == "cpu":
        bits.raw(target)[...] = bits.raw(image)
    else:
        target.copy_(image)


@dataclass(slots=True)
class _StateImage:
    """A mirror of nested dicts and lists with tensors; see :func:`_mirror`."""

    value: Any
    image: Any


def _mirror(value: Any) -> _StateImage:
    if isinstance(value, Tensor):
        return _StateImage(value, bits.snapshot(local(value)))
    if isinstance(value, dict):
        return _StateImage(value, {k: _mirror(v) for k, v in value.items()})
    if isinstance(value, list):
        return _StateImage(value, [_mirror(v) for v in value])
    return _StateImage(value, None)


def _unmirror(state: _StateImage) -> Any:
    if isinstance(state.value, Tensor):
        _restore(state.value, state.image)
    elif isinstance(state.image, dict):
        restored = {k: _unmirror(v) for k, v in state.image.items()}
        state.value.clear()
        state.value.update(restored)
    elif isinstance(state.image, list):
        state.value[:] = [_unmirror(v) for v in state.image]
    return state.value


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from _tensors_in(item)


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """All parameters of all groups, in order."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def size_bytes(optimizer: Optimizer) -> int:
    """Bytes of parameters and state: what an :class:`OptimizerImage` takes."""
    total = sum(_size_bytes(p) for p in parameters_of(optimizer))
    return total + sum(_size_bytes(t) for s in optimizer.state.values() for t in _tensors_in(s))


class OptimizerImage:
    """Parameters, state and group options of an optimizer before a step."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._parameters = [_mirror(p) for p in parameters_of(optimizer)]
        self._optimizer = optimizer
        self.num_bytes = size_bytes(optimizer)
        self._state = {p: _mirror(s) for p, s in optimizer.state.items()}
        self._options = [
            {k: _mirror(v) for k, v in group.items() if k != "params"}
            for group in optimizer.param_groups
        ]

    def restore(self) -> None:
        """Every bit of parameters, state and options as it was."""
        for image in self._parameters:
            _unmirror(image)
        state = self._optimizer.state
        for parameter in list(state):
            if parameter not in self._state:
                del state[parameter]
        for parameter, image in self._state.items():
            state[parameter] = _unmirror(image)
        for group, options in zip(self._optimizer.param_groups, self._options, strict=True):
            group.update({k: _unmirror(v) for k, v in options.items()})


class BufferImages:
    """The buffers of a module and of its children before a step."""

    def __init__(self, model: nn.Module) -> None:
        self._saved = [
            (module, {n: None if b is None else _mirror(b) for n, b in module._buffers.items()})
            for module in model.modules() if module._buffers
        ]

    @staticmethod
    def size_bytes(model: nn.Module) -> int:
        """Bytes that the images take."""
        return sum(_size_bytes(b) for b in model.buffers())

    def restore(self) -> None:
        """Every bit back, and the very tensor where a module has put another one in its place."""
        for module, images in self._saved:
            for name, image in images.items():
                module._buffers[name] = None if image is None else _unmirror(image)
