"""``sdc_guard.checked``: put a custom operator or a kernel launcher under the guard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from sdc_guard.errors import UsageError
from sdc_guard.ops import HostCall, OpSpec, Reference, packet_name
from sdc_guard.ops._axes import spelled
from sdc_guard.ops._registry import register
from sdc_guard.ops._symmetry import RERUN, Symmetry, split

NumpyFunction = Callable[..., Any]


def checked(
    *,
    reference: NumpyFunction,
    operands: tuple[str, ...],
    bound: NumpyFunction,
    outputs: tuple[str, ...] = (),
    symmetries: tuple[Symmetry, ...] | None = None,
    name: str = "",
) -> Callable[[Any], Any]:
    """Decorate a ``torch.library.custom_op``, an operator packet, or a plain function that launches
    a kernel, so that the guard checks its calls.

    Args:
        reference: takes the operands as float64 NumPy arrays (other arguments unchanged) and
        returns
            the expected result, or a tuple of them.
        operands: the named axes of each tensor operand, such as ``("m k", "k n")``.
        bound: takes the same arguments and returns the limit on ``|got - expected|``, per element,
            with its derivation in its docstring; or a tuple.
        outputs: the named axes of each result; an axis that is in operands and results may be
        moved.
        symmetries: bit-exact relations; by default ``split`` along each axis of the first result.
        name: ``namespace::name`` for a plain function; by default ``sdc_guard_user::<function>``.

    A plain function must annotate its parameters and return type as
    :func:`torch.library.custom_op` asks; it becomes a custom operator without autograd of its own.

    Raises:
        UsageError: if the target is no operator and cannot become one.
        DuplicateOp: if the operator is checked already.
    """

    def decorate(target: Any) -> Any:
        operator = target
        try:
            packet = packet_name(target)
        except UsageError:
            operator = _as_operator(target, name)
            packet = packet_name(operator)
        moved = (
            symmetries
            if symmetries is not None
            else (*(split(x, known=False) for x in dict.fromkeys(" ".join(outputs).split())), RERUN)
        )
        register(
            OpSpec(
                packet=packet,
                family="user",
                axes=spelled(operands, outputs),
                symmetries=moved,
                reference=_adapted(reference, bound),
                doc=(bound.__doc__ or reference.__doc__ or "").strip(),
            ),
            getattr(target, "__module__", "user code"),
        )
        return operator

    return decorate


def _as_operator(function: Any, name: str) -> Any:
    if not callable(function):
        raise UsageError(f"checked() decorates an operator or a function, not {function!r}")
    full_name = name or f"sdc_guard_user::{function.__name__}"
    try:
        return torch.library.custom_op(full_name, function, mutates_args=())
    except (ValueError, RuntimeError, TypeError) as error:
        raise UsageError(f"{full_name} cannot become an operator: {error}") from error


def _adapted(
    reference: NumpyFunction, bound: NumpyFunction
) -> Callable[[HostCall], tuple[Reference | None, ...]]:
    def evaluate(call: HostCall) -> tuple[Reference | None, ...]:
        names = call.call.form.argument_names
        arguments = [call.array(n) if isinstance(call[n], torch.Tensor) else call[n] for n in names]
        expected, limit = reference(*arguments), bound(*arguments)
        if not isinstance(expected, tuple):
            expected, limit = (expected,), (limit,)
        return tuple(
            Reference(
                np.asarray(e),
                np.asarray(b),
                np.asarray(b),
                (bound.__doc__ or "user bound").strip().splitlines()[0],
            )
            for e, b in zip(expected, limit, strict=True)
        )

    return evaluate
