"""``wrap`` and ``unwrap``: a guard around a model, and nothing left behind.

The model's class, ``state_dict``, hooks and attributes stay as they are: the guard sits on the
thread's mode stack, and ``model.sdc_guard`` is a property of ``nn.Module`` that looks the model up
in a weak table (None for a module that is not wrapped, a copy among them).  So ``copy.deepcopy``,
``pickle`` and ``torch.save`` of the model see the model alone.
"""

from __future__ import annotations

import atexit
import sys
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from torch import nn
from torch.optim import Optimizer

from sdc_guard.errors import UsageError
from sdc_guard.guard import Guard, active_guard
from sdc_guard.policy import OnFinding

Model = TypeVar("Model", bound=nn.Module)

_guards: WeakKeyDictionary[nn.Module, Guard] = WeakKeyDictionary()
_giving_way: WeakSet[Guard] = WeakSet()


def give_way(guard: Guard) -> None:
    """Let a :func:`wrap` on this guard's thread end it, where it would be an error else: the guard
    of ``sdc-guard run`` must not stop a script that guards itself."""
    _giving_way.add(guard)


def _guard_of(model: nn.Module) -> Guard | None:
    """The model's guard; None for every other module, because Dynamo reads each attribute that
    ``dir`` lists and may not meet an exception."""
    return _guards.get(model)


def _at_exit() -> None:
    """The process ends while models are wrapped: write the summaries, and the exception that ended
    it, if one did."""
    for guard in list(_guards.values()):
        error = getattr(sys, "last_value", None)
        if isinstance(error, BaseException):
            guard.note_exception(error)
        guard.detach()


def wrap(
    model: Model,
    optimizer: Optimizer | list[Optimizer] | tuple[Optimizer, ...] | None = None,
    *,
    budget: float | str = 0.02,
    on_finding: OnFinding = "record",
    out: str | Path | None = None,
    **options: Any,
) -> Model:
    """Guard a model's training from now on, on this thread: forward, backward and optimizer step.

    Returns the same object.  The arguments are those of :class:`Guard`; ``optimizer`` may be left
    out, since every optimizer that owns a parameter of the model is recognised when it steps.

    Raises:
        UsageError: if the model is wrapped already, another guard is active on this thread, or an
            argument is out of its range.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"wrap() takes a torch.nn.Module, not {type(model).__name__}")
    if model in _guards:
        raise UsageError("this model is wrapped already; call sdc_guard.unwrap(model) first")
    outer = active_guard()
    if outer is not None and outer in _giving_way:
        outer.note_gap("the program guards a model itself: what follows is in its own log")
        outer.detach()
    elif outer is not None:
        raise UsageError("another guard is active on this thread; unwrap its model first, or wrap "
                         "a module that holds both models")
    guard = Guard(model=model, optimizer=optimizer, budget=budget, on_finding=on_finding, out=out,
                  **options)
    if not _guards:
        nn.Module.sdc_guard = property(_guard_of)  # type: ignore[attr-defined]
        atexit.register(_at_exit)
    _guards[model] = guard
    guard.attach()
    return model


def unwrap(model: Model) -> Model:
    """Stop guarding; the thread, the optimizers and ``nn.Module`` are as before ``wrap``.

    Raises:
        UsageError: if the model is not wrapped.
    """
    guard = _guards.pop(model, None)
    if guard is None:
        raise UsageError("this model is not wrapped")
    guard.detach()
    if not _guards:
        del nn.Module.sdc_guard  # type: ignore[attr-defined]
        atexit.unregister(_at_exit)
    return model
