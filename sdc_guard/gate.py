"""The gate before and after each optimizer step.

Before a step: ranks agree whether any of them found the step corrupt; then all skip, or all raise, or
none.  Skipping hides every ``.grad``, which makes a step of any ``torch.optim`` optimizer a no-op,
and restores module buffers from the start of the step.  A step that takes a closure recomputes
its gradients, so it runs and is undone.  After a step: a fault that was found inside the step itself is
undone from a snapshot of parameters and optimizer state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from sdc_guard import bits, ranks


def local(tensor: Tensor) -> Tensor:
    """The memory of this rank: a DTensor's local shard, any other tensor itself."""
    shard = getattr(tensor, "_local_tensor", None)
    return shard.detach() if isinstance(shard, Tensor) else tensor.detach()


@dataclass(slots=True)
class Images:
    """Bits of tensors at one moment.  Restoring keeps the identity of every tensor."""

    saved: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @classmethod
    def of(cls, tensors: Iterable[Tensor]) -> Images:
        return cls([(t, bits.snapshot(local(t))) for t in tensors])

    def restore(self) -> None:
        for tensor, image in self.saved:
            bits.restore(local(tensor), image)


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
        bits.restore(local(state.value), state.image)
    elif isinstance(state.image, dict):
        restored = {k: _unmirror(v) for k, v in state.image.items()}
        state.value.clear()
        state.value.update(restored)
    elif isinstance(state.image, list):
        state.value[:] = [_unmirror(v) for v in state.image]
    return state.value


class OptimizerImage:
    """Parameters, state and group options of an optimizer before a step."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._parameters = Images.of(parameters_of(optimizer))
        self._optimizer = optimizer
        self._state = {p: _mirror(s) for p, s in optimizer.state.items()}
        self._options = [
            {k: _mirror(v) for k, v in group.items() if k != "params"}
            for group in optimizer.param_groups
        ]

    def restore(self) -> None:
        self._parameters.restore()
        state = self._optimizer.state
        for parameter in list(state):
            if parameter not in self._state:
                del state[parameter]
        for parameter, image in self._state.items():
            state[parameter] = _unmirror(image)
        for group, options in zip(self._optimizer.param_groups, self._options, strict=True):
            group.update({k: _unmirror(v) for k, v in options.items()})


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def size_bytes(optimizer: Optimizer) -> int:
    """Bytes of parameters and state: what an :class:`OptimizerImage` takes."""
    total = sum(local(p).numel() * p.element_size() for p in parameters_of(optimizer))
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, Tensor):
                total += local(value).numel() * value.element_size()
    return total


@dataclass(slots=True)
class GateCalls:
    """What the gate asks of the guard.

    ``is_corrupt``: was a corrupt result found since the step began?  ``protects``: does the policy keep
    corrupt steps out?  ``wants_inside``: shall ops inside the optimizer be looked at this time?
    ``entering`` and ``leaving``: the optimizer runs, watched or not.
    ``rejected``: told of a step that is not applied, ``inside`` or before; raises if so decided.
    ``step_done``: told at the end of every step.  ``not_undoable``: told when no snapshot fits.
    """

    is_corrupt: Callable[[], bool]
    protects: Callable[[], bool]
    wants_inside: Callable[[], bool]
    entering: Callable[[bool], None]
    leaving: Callable[[], None]
    rejected: Callable[[str], None]
    step_done: Callable[[Optimizer], None]
    not_undoable: Callable[[int], None]
    on_error: Callable[[str, BaseException], None]


class Gate:
    """Global optimizer hooks for the optimizers that own the model's parameters."""

    def __init__(
        self, calls: GateCalls, model: nn.Module | None, optimizers: tuple[Optimizer, ...],
        memory_budget_bytes: int,
    ) -> None:
        self._calls = calls
        self._model = model
        self._optimizers = optimizers
        self._memory_budget_bytes = memory_budget_bytes
        self._buffers: Images | None = None
        self._hidden: list[tuple[Tensor, Tensor]] = []
        self._image: OptimizerImage | None = None
        self._owned: set[int] = set()
        self._rejecting = False
        self._inside = False
        self._handles: list[Any] = []

    def open(self) -> None:
        self._handles = [
            register_optimizer_step_pre_hook(self._before),
            register_optimizer_step_post_hook(self._after),
        ]
        if self._model is not None:
            self._owned = {id(p) for p in self._model.parameters()}

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._buffers = self._image = None

    def begin_step(self) -> None:
        """Keep the module buffers as they are before the step's first forward."""
        if self._model is not None and self._calls.protects():
            buffers = list(self._model.buffers())
            total = sum(local(b).numel() * b.element_size() for b in buffers)
            if total <= self._memory_budget_bytes:
                self._buffers = Images.of(buffers)
            else:
                self._buffers = None
                self._calls.not_undoable(total)

    def restore_buffers(self) -> None:
        """Module buffers (BatchNorm's running statistics) back to the start of the step."""
        if self._buffers is not None:
            self._buffers.restore()

    def _ours(self, optimizer: Optimizer) -> bool:
        if self._optimizers:
            return any(o is optimizer for o in self._optimizers)
        if self._model is None:
            return True
        return any(id(p) in self._owned for p in parameters_of(optimizer))

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self._ours(optimizer):
            return
        if self._inside:
            self._leave()
        protects = self._calls.protects()
        corrupt, watched = self._calls.is_corrupt(), self._calls.wants_inside()
        if protects:
            corrupt, watched = ranks.agree((corrupt, watched))
        takes_closure = any(callable(a) for a in (*args[1:], *kwargs.values()))
        self._rejecting = corrupt and protects
        if self._rejecting:
            self.restore_buffers()
            self._calls.rejected("before")
        if protects and (takes_closure or (watched and not self._rejecting)):
            self._take_image(optimizer)
        if self._rejecting and not takes_closure:
            self._hidden = [(p, p.grad) for p in parameters_of(optimizer) if p.grad is not None]
            for parameter, _ in self._hidden:
                parameter.grad = None
        self._inside = True
        self._calls.entering(watched or takes_closure)

    def _leave(self) -> None:
        self._inside = False
        self._calls.leaving()

    def _take_image(self, optimizer: Optimizer) -> None:
        try:
            total = size_bytes(optimizer)
            if total <= self._memory_budget_bytes:
                self._image = OptimizerImage(optimizer)
            else:
                self._calls.not_undoable(total)
        except Exception as error:
            self._image = None
            self._calls.on_error("while keeping an image of the optimizer", error)

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self._ours(optimizer):
            return
        self._leave()
        for parameter, grad in self._hidden:
            parameter.grad = grad
        self._hidden = []
        image, self._image = self._image, None
        try:
            if self._calls.protects():
                (corrupt,) = ranks.agree((self._calls.is_corrupt() or self._rejecting,))
                if corrupt and image is not None:
                    image.restore()
                if corrupt and not self._rejecting:
                    self.restore_buffers()
                    self._calls.rejected("inside")
        finally:
            self._rejecting = False
            self._calls.step_done(optimizer)


