"""The gate before and after each optimizer step.

Before a step: ranks agree whether any of them found the step corrupt; then all skip, or all
raise, or none.  Skipping hides every ``.grad``, which makes a step of any ``torch.optim`` optimizer
a no-op, and restores module buffers from the start of the step.  A step that takes a closure
recomputes its gradients, so it runs and is undone.  After a step: a fault that was found inside the
step itself is undone from images of parameters and optimizer state; ranks undo it together or not
at all.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from sdc_guard import ranks
from sdc_guard.images import BufferImages, OptimizerImage, parameters_of, size_bytes

_STEP_FILE = Optimizer.profile_hook_step.__code__.co_filename


@dataclass(slots=True)
class GateCalls:
    """What the gate asks of the guard.

    ``is_active_here``: does the guard watch this thread?  ``is_corrupt``: was a corrupt result
    found since the step began?  ``protects``: does the policy keep corrupt steps out?
    ``wants_inside``: shall ops inside the optimizer be looked at this time?  ``step_begins``: told
    first, and whether the step takes a closure, hence computes forward and backward itself.
    ``entering`` and ``leaving``: the optimizer runs, watched or not.  ``rejected``: told of a
    corrupt step: kept out ``before`` it ran, undone after a fault ``inside``, or ``applied``
    because it could not be undone; raises if so decided.  ``step_done``: told at the end of every
    step, ``given_up`` where that end was an exception.  ``not_undoable``: told when no image
    fits.
    """

    is_active_here: Callable[[], bool]
    is_corrupt: Callable[[], bool]
    protects: Callable[[], bool]
    wants_inside: Callable[[], bool]
    step_begins: Callable[[Optimizer, bool], None]
    entering: Callable[[bool], None]
    leaving: Callable[[], None]
    rejected: Callable[[str], None]
    step_done: Callable[[Optimizer], None]
    given_up: Callable[[Optimizer], None]
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
        self._buffers: BufferImages | None = None
        self._hidden: list[tuple[Tensor, Tensor]] = []
        self._images: list[OptimizerImage] | None = None
        self._owned: set[int] = set()
        self._rejecting = False
        self._keeping_out = False
        self._stepping: Optimizer | None = None
        self._thread = 0
        self._handles: list[Any] = []

    def open(self) -> None:
        self._handles = [
            register_optimizer_step_pre_hook(self._before),
            register_optimizer_step_post_hook(self._after),
        ]
        self._learn_parameters()

    def close(self) -> None:
        """Remove the hooks; an optimizer step that an exception ended gets its gradients back."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._give_up_step(goes_on=False)

    def begin_step(self) -> None:
        """Keep the module buffers as they are before the step's first forward."""
        self._buffers = None
        if self._model is None or not self._calls.protects():
            return
        try:
            with torch._C._DisableTorchDispatch():
                total = BufferImages.size_bytes(self._model)
                if total <= self._memory_budget_bytes:
                    self._buffers = BufferImages(self._model)
                else:
                    self._calls.not_undoable(total)
        except Exception as error:
            self._calls.on_error("while keeping an image of the module buffers", error)

    def owns_buffer(self, tensor: object) -> bool:
        """True if ``tensor`` is a buffer of the model."""
        return self._model is not None and any(
            tensor is b for m in self._model.modules() for b in m._buffers.values())

    def restore_buffers(self) -> None:
        """Module buffers (BatchNorm's running statistics) back to the start of the step."""
        if self._buffers is not None:
            with torch._C._DisableTorchDispatch():
                self._buffers.restore()

    def _learn_parameters(self) -> None:
        if self._model is not None:
            self._owned = {id(p) for p in self._model.parameters()}

    def _ours(self, optimizer: Optimizer) -> bool:
        if self._optimizers:
            return any(o is optimizer for o in self._optimizers)
        if self._model is None:
            return self._calls.is_active_here()
        if self._has_our_parameters(optimizer):
            return True
        self._learn_parameters()  # FSDP and adapters put new parameters into a wrapped model
        return self._has_our_parameters(optimizer)

    def _has_our_parameters(self, optimizer: Optimizer) -> bool:
        return any(id(p) in self._owned for p in parameters_of(optimizer))

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._stepping is not None and self._stepping is not optimizer \
                and _is_running(self._stepping):
            self._join(optimizer)
            return
        if not self._ours(optimizer):
            return
        self._give_up_step()
        takes_closure = any(callable(a) for a in (*args[1:], *kwargs.values()))
        self._calls.step_begins(optimizer, takes_closure)
        protects = self._calls.protects()
        corrupt, watched = self._calls.is_corrupt(), self._calls.wants_inside()
        if protects:
            corrupt, watched = ranks.agree((corrupt, watched))
        self._rejecting = corrupt and protects
        self._keeping_out = self._rejecting and not takes_closure
        if self._keeping_out:
            self.restore_buffers()
            self._calls.rejected("before")
            self._hide_gradients(optimizer)
        elif protects and (takes_closure or watched):
            self._images = []
            self._take_image(optimizer)
        self._stepping, self._thread = optimizer, threading.get_ident()
        self._calls.entering(watched or takes_closure)

    def _join(self, optimizer: Optimizer) -> None:
        """An optimizer steps inside of the step of one that wraps it: one step, kept out or undone
        together."""
        if self._keeping_out:
            self._hide_gradients(optimizer)
        elif self._images is not None:
            self._take_image(optimizer)

    def _give_up_step(self, goes_on: bool = True) -> None:
        """Forget a step whose end never came, since it raised."""
        if self._stepping is not None:
            optimizer, self._stepping = self._stepping, None
            self._images = None
            self._rejecting = self._keeping_out = False
            self._show_gradients()
            self._calls.leaving()
            if goes_on:
                self._calls.given_up(optimizer)

    def settle(self) -> None:
        """Notice that a step has ended in an exception, which no hook tells.  Other threads may
        compute while this one steps."""
        if self._stepping is not None and self._thread == threading.get_ident() \
                and not _is_running(self._stepping):
            self._give_up_step()

    def _hide_gradients(self, optimizer: Optimizer) -> None:
        for parameter in parameters_of(optimizer):
            if parameter.grad is not None:
                self._hidden.append((parameter, parameter.grad))
                parameter.grad = None

    def _show_gradients(self) -> None:
        for parameter, grad in self._hidden:
            if parameter.grad is None:  # else the loop has computed another one since
                parameter.grad = grad
        self._hidden = []

    def _take_image(self, optimizer: Optimizer) -> None:
        """Add an image of the optimizer to those of this step; give all up if it does not fit."""
        assert self._images is not None
        try:
            with torch._C._DisableTorchDispatch():
                total = size_bytes(optimizer) + sum(i.num_bytes for i in self._images)
                if total <= self._memory_budget_bytes:
                    self._images.append(OptimizerImage(optimizer))
                    return
            self._calls.not_undoable(total)
        except Exception as error:
            self._calls.on_error("while keeping an image of the optimizer", error)
        self._images = None

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if optimizer is not self._stepping:
            return
        self._stepping = None
        self._calls.leaving()
        self._show_gradients()
        images, self._images = self._images, None
        rejecting, self._rejecting = self._rejecting, False
        kept_out, self._keeping_out = self._keeping_out, False
        try:
            if self._calls.protects() and not kept_out:
                corrupt, lost = ranks.agree((rejecting or self._calls.is_corrupt(), images is None))
                if corrupt:
                    self._undo(None if lost else images)
        finally:
            self._calls.step_done(optimizer)

    def _undo(self, images: list[OptimizerImage] | None) -> None:
        if images is None:
            self._calls.rejected("applied")
            return
        with torch._C._DisableTorchDispatch():
            for image in reversed(images):
                image.restore()
        self.restore_buffers()
        self._calls.rejected("inside")


def _is_running(optimizer: Optimizer) -> bool:
    """True if a step of this optimizer is on the Python stack, and did not end in an exception."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "wrapper" and code.co_filename == _STEP_FILE \
                and frame.f_locals.get("self") is optimizer:
            return True
        frame = frame.f_back
    return False
