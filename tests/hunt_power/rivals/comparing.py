"""One call with the mutant and with the right kernel, compared with torch's default tolerances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.catalogue.child import tensors_of
from tests.hunt_power.mutant import Planted

REFUSALS = (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError)


def outcome_of(function: Callable[..., Any], args: Any, kwargs: Any) -> list[Tensor] | None:
    """Results, and gradients with respect to every operand that requires one; None for a call that
    is refused."""
    try:
        results = tensors_of(function(*args, **kwargs))
        leaves = [t for t in tensors_of([args, kwargs]) if t.requires_grad]
        outputs = [t for t in results if t.requires_grad and t.layout is torch.strided]
        if leaves and outputs:
            gradients = torch.autograd.grad(
                outputs, leaves, [torch.ones_like(t) for t in outputs], allow_unused=True)
            results += [g for g in gradients if g is not None]
    except REFUSALS:
        return None
    return [t.detach().clone() for t in results]


def difference(state: Planted, make: Callable[[], tuple[Callable[..., Any], Any, Any]]) -> str:
    """What ``torch.testing.assert_close`` says of the call that ``make`` makes afresh, with the
    mutant against without; empty for nothing."""
    wrong = outcome_of(*make())
    with state.off():
        right = outcome_of(*make())
    if wrong is None or right is None:
        return "" if wrong is right else "only one of them is refused"
    try:
        torch.testing.assert_close(wrong, right, equal_nan=True)
    except AssertionError as error:
        return str(error)[:300]
    return ""
