"""Images of what a call will overwrite, taken before it runs."""

from __future__ import annotations

from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall, flatten


class TooLarge(Exception):
    """The images would take more than the memory budget."""


def imaged(call: BoundCall, memory_budget_bytes: int) -> BoundCall:
    """The call on images of the overwritten operands and of every operand that shares memory with
    them.

    Raises:
        TooLarge: where the overwritten operands take more than the budget.
    """
    form = call.form
    if len(form.overwrites) == 1 and isinstance(call.args[form.overwrites[0]], Tensor):
        return _imaged_alone(call, memory_budget_bytes)
    num_bytes = sum(
        bits.span(t) * t.element_size()
        for i in form.overwrites
        for t in flatten(call.args[i])
        if t is not None
    )
    if num_bytes > memory_budget_bytes:
        raise TooLarge
    return call.with_private_images()


def _imaged_alone(call: BoundCall, memory_budget_bytes: int) -> BoundCall:
    """The common call that overwrites one tensor, fast."""
    (position,) = call.form.overwrites
    target = call.args[position]
    low, high = bits.address_range(target)
    if high - low > memory_budget_bytes:
        raise TooLarge
    for i, other in enumerate(call.args):
        if isinstance(other, Tensor):
            if (i != position and other.data_ptr() < high
                    and bits.address_range(other)[1] > low):
                return call.with_private_images()
        elif isinstance(other, (list, tuple)) and other and isinstance(other[0], Tensor):
            return call.with_private_images()
    args = list(call.args)
    args[position] = bits.snapshot(target)
    return BoundCall(call.form, tuple(args))
