"""A user's NumPy reference and bound as the reference of an operator."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.blocks import Setting, from_reference
from sdc_guard.bounds.derived import Formats, Limits
from sdc_guard.errors import UsageError
from sdc_guard.formats import Format, format_of, is_covered_float
from sdc_guard.ops import HostCall, Reference

NumpyFunction = Callable[..., Any]


class BoundOfCall(Protocol):
    """A block, or what is derived from the reference: expected values and limits of a call."""

    @property
    def formula(self) -> str: ...

    def limits(self, setting: Setting) -> list[Limits]: ...


def adapted(
    reference: NumpyFunction, bound: Any
) -> Callable[[HostCall], tuple[Reference | None, ...]]:
    """The reference of an operator.

    Args:
        reference: see :func:`sdc_guard.checked`.
        bound: a function, a block of :mod:`sdc_guard.bounds`, or None for a derived one.

    Raises:
        UsageError: the bound is none of these.
    """
    if bound is None:
        bound = from_reference()
    if hasattr(bound, "limits"):
        return _of_call(reference, bound)
    if callable(bound) and not isinstance(bound, type):
        return _of_function(reference, bound)
    raise UsageError(
        f"bound={bound!r} is no function, no block of sdc_guard.bounds such as "
        "bounds.ulps(4), and not None, which derives one from the reference")


def _arguments(call: HostCall) -> tuple[list[Any], list[Formats]]:
    pairs = [_argument(call[name]) for name in call.call.form.argument_names]
    return [value for value, _ in pairs], [fmt for _, fmt in pairs]


def _argument(value: Any) -> tuple[Any, Formats]:
    """What the reference gets, and its format: arrays for tensors, lists of them for lists."""
    if isinstance(value, Tensor):
        floats = is_covered_float(value.dtype)
        return bits.values(value), format_of(value.dtype) if floats else None
    if isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value):
        pairs = [_argument(v) for v in value]
        return [v for v, _ in pairs], tuple(f for _, f in pairs)  # type: ignore[misc]
    return value, None


def _of_call(
    reference: NumpyFunction, bound: BoundOfCall
) -> Callable[[HostCall], tuple[Reference | None, ...]]:
    def evaluate(call: HostCall) -> tuple[Reference | None, ...]:
        arguments, formats = _arguments(call)
        results = [format_of(t.dtype) if is_covered_float(t.dtype) else None for t in call.held]
        device = call.held[0].device.type
        # A Triton kernel that runs on a CPU runs in the interpreter.
        interpreted = device == "cpu" and "triton.runtime.interpreter" in sys.modules
        limits = bound.limits(
            Setting(reference, arguments, formats, results, device, interpreted))
        return tuple(_reference(one, fmt, bound.formula)
                     for one, fmt in zip(limits, results, strict=True))

    return evaluate


def _reference(one: Limits, fmt: Format | None, formula: str) -> Reference | None:
    if fmt is None:
        # Whole numbers that no rounding on the way can turn into others; else nothing is said.
        hangs = np.any(one.unknown) or np.any(one.contract >= 0.5)
        return None if hangs else Reference(np.rint(one.expected), 0.0, 0.0, formula)
    return Reference(
        one.expected, one.proof, one.contract, formula,
        magnitude=np.where(one.unknown, np.inf, 0.0))


def _of_function(
    reference: NumpyFunction, bound: NumpyFunction
) -> Callable[[HostCall], tuple[Reference | None, ...]]:
    lines = (bound.__doc__ or "").strip().splitlines()
    formula = lines[0] if lines else "the bound given to checked()"

    def evaluate(call: HostCall) -> tuple[Reference | None, ...]:
        arguments, _ = _arguments(call)
        expected, limit = _several(reference(*arguments)), _several(bound(*arguments))
        if not len(expected) == len(limit) == len(call.held):
            raise UsageError(
                f"the reference returns {len(expected)} results and the bound {len(limit)}, the "
                f"operator {len(call.held)}")
        return tuple(Reference(e, b, b, formula) for e, b in zip(expected, limit, strict=True))

    return evaluate


def _several(returned: Any) -> list[NDArray[Any]]:
    found = returned if isinstance(returned, (tuple, list)) else (returned,)
    return [np.asarray(x) for x in found]

