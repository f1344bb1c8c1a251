"""The function that a user would call for an operator."""

from __future__ import annotations

from typing import Any

import torch

from sdc_guard.calls import BoundCall
from sdc_guard.hunt.execution import REFUSALS, Recorder

_MODULES = ("torch", "torch.nn.functional", "torch.linalg", "torch.special", "torch.fft")


def public_name(call: BoundCall) -> str:
    """``torch.nanmedian`` for a call of ``aten.nanmedian.dim``, where that function, given the same
    arguments, runs this very overload first; else ``torch.ops.aten.nanmedian.dim``.

    The call is made once for each candidate, on images of what it overwrites.
    """
    form = call.form
    namespace, base, _ = (*form.name.split("."), "", "")[:3]
    if namespace == "aten":
        base = base.removesuffix("_") if form.overwrites and form.is_out else base
        for module in _MODULES:
            owner: Any = torch
            for part in module.split(".")[1:]:
                owner = getattr(owner, part)
            name = base.removeprefix(f"{module.rpartition('.')[2]}_")
            function = getattr(owner, name, None)
            if callable(function) and _runs(function, call):
                return f"{module}.{name}"
    return f"torch.ops.{form.name}"


def _runs(function: Any, call: BoundCall) -> bool:
    form, args = call.form, call.with_private_images().args
    n = form.num_positional
    while n and not isinstance(args[n - 1], torch.Tensor) and args[n - 1] == form.defaults[n - 1]:
        n -= 1
    named = {name: value for name, value, default in zip(
        form.argument_names[form.num_positional:], args[form.num_positional:],
        form.defaults[form.num_positional:], strict=True)
        if isinstance(value, torch.Tensor) or value != default}
    recorder = Recorder()
    try:
        with recorder:
            function(*args[:n], **named)
    except REFUSALS:
        return False
    return [o.call.form.name for o in recorder.observations] == [form.name]
