"""Basic arithmetic, elementwise: correctly rounded operations and short chains of them.

A chain such as ``addcdiv`` (``a + v * b / c``) is bounded by one rounding per operation on the
largest intermediate; compilers may contract a multiplication and an addition, which only drops
a rounding.  A scalar operand is rounded to the format that the kernel computes in, one more.

Negation was seen to keep every bit but the sign, and a roll of the last axis every bit, for all ops
of this file but ``add`` and ``sub`` of half formats with ``alpha``: their vector body computes
``alpha * b`` in fp32, their scalar tail rounds it to the half format.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard.bounds.gamma import rounding
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT32, is_covered_float
from sdc_guard.ops._pointwise import Array, compute_format, converted, operand, pointwise
from sdc_guard.ops._registry import HostCall

aten = torch.ops.aten


def _size(*terms: Array) -> Array:
    return np.asarray(np.maximum.reduce(np.broadcast_arrays(*(np.abs(t) for t in terms))))


def _is_scaled(call: BoundCall, *_: Any) -> bool:
    """True where ``alpha`` multiplies a half-precision operand."""
    result = call["self"] if isinstance(call.get("self"), Tensor) else call["other"]
    half = is_covered_float(result.dtype) and result.element_size() == 2
    return half and call.get("alpha", 1) != 1


def _half_terms(scaled: str) -> Callable[[HostCall], Array]:
    """Half formats: a scalar operand is rounded to them (seen), and the scalar tail rounds
    ``alpha`` and ``alpha b``."""

    def extra(call: HostCall) -> Array:
        error = np.asarray(0.0)
        out = call.out_format()
        if out.precision >= FLOAT32.precision:
            return error
        alpha = call.number("alpha", 1)
        for name in ("self", "other"):
            value = call[name]
            if not isinstance(value, Tensor) or value.dtype is not call.held[0].dtype:
                factor = alpha if name == scaled else np.asarray(1.0)
                error = error + rounding(call.number(name) * factor, out)
        if alpha != 1:
            error = error + 2 * rounding(operand(call, scaled) * alpha, out)
        return error

    return extra


def _sum(call: HostCall, a: Array, b: Array) -> tuple[Array, Array, int]:
    """``a + b``: one rounding of the sum; with a scalar or ``alpha`` two more of the terms."""
    total = a + b
    plain = call.get("alpha", 1) == 1 and all(
        isinstance(call.get(n), Tensor) and call[n].dtype is call.held[0].dtype
        for n in ("self", "other")
    )
    return (total, np.abs(total), 1) if plain else (total, _size(a, b, total), 3)


@pointwise(aten.add, formula="rounding of a + b, alpha b, a scalar", odd=("self", "other"),
           tail_sensitive=_is_scaled, extra=_half_terms("other"), integers=True)
def add(call: HostCall) -> tuple[Array, Array, int]:
    """``a + alpha b``."""
    return _sum(call, operand(call, "self"), operand(call, "other") * call.number("alpha", 1))


@pointwise(aten.sub, formula="rounding of a - b, alpha b, a scalar", odd=("self", "other"),
           tail_sensitive=_is_scaled, extra=_half_terms("other"), integers=True)
def sub(call: HostCall) -> tuple[Array, Array, int]:
    """``a - alpha b``."""
    a, b = operand(call, "self"), operand(call, "other") * call.number("alpha", 1)
    return _sum(call, a, np.negative(b))


@pointwise(aten.rsub, formula="rounding of b - a, alpha a, a scalar",
           odd=("self", "other"), tail_sensitive=_is_scaled, extra=_half_terms("self"),
           integers=True)
def rsub(call: HostCall) -> tuple[Array, Array, int]:
    """``b - alpha a``."""
    a, b = operand(call, "self") * call.number("alpha", 1), operand(call, "other")
    return _sum(call, b, np.negative(a))


@pointwise(aten.mul, formula="2 roundings: the product and a scalar's own", odd=("self",),
           integers=True)
def mul(call: HostCall) -> tuple[Array, Array, int]:
    """``a b``."""
    product = operand(call, "self") * operand(call, "other")
    return product, np.abs(product), 2


@pointwise(aten.neg, formula="exact", odd=("self",), integers=True)
def neg(call: HostCall) -> tuple[Array, Array, int]:
    """``-a``."""
    a = call.number("self")
    return -a, np.abs(a), 0


@pointwise(aten.abs, formula="exact", integers=True)
def abs_(call: HostCall) -> tuple[Array, Array, int]:
    """``|a|``."""
    a = np.abs(call.number("self"))
    return a, a, 0


@pointwise(aten.sign, formula="exact", odd=("self",), integers=True)
def sign(call: HostCall) -> tuple[Array, Array, int]:
    """-1, 0 or 1; 0 for NaN, as ATen computes ``(0 < a) - (a < 0)``."""
    a = call.number("self")
    if a.dtype.kind == "b":
        return a, a, 0
    return np.nan_to_num(np.sign(a)), np.abs(a), 0


def _unless_lost(call: HostCall, size: Array, *intermediates: Array) -> Array:
    """The size; infinite where an intermediate overflows before another factor makes it small."""
    if not is_covered_float(call.held[0].dtype):
        return size
    most = compute_format(call.out_format()).max
    lost = [~(np.abs(x) < most) & np.isfinite(size) for x in intermediates]
    return np.where(np.logical_or.reduce(np.broadcast_arrays(*lost)), np.inf, size)


def _underflow(call: HostCall, *factors: Array) -> Array:
    """An intermediate that underflows is off by eta, times the factor that still comes."""
    if not is_covered_float(call.held[0].dtype):
        return np.asarray(0.0)
    compute = compute_format(call.out_format())
    return np.asarray(compute.eta * sum(np.abs(f) for f in factors))


@pointwise(aten.addcmul, formula="4 roundings of max(|a|, |v b c|, |result|), underflow",
           odd=("self", "tensor1"),
           extra=lambda call: _underflow(call, operand(call, "tensor1"), operand(call, "tensor2"),
                                         call.number("value")))
def addcmul(call: HostCall) -> tuple[Array, Array, int]:
    """``a + v b c``."""
    a = operand(call, "self")
    v, b, c = call.number("value"), operand(call, "tensor1"), operand(call, "tensor2")
    term = v * b * c
    return a + term, _unless_lost(call, _size(a, term, a + term), v * b, b * c), 4


@pointwise(aten.addcdiv, formula="4 roundings of max(|a|, |v b / c|, |result|), underflow",
           odd=("self", "tensor1"),
           extra=lambda call: _underflow(call, 1.0 / operand(call, "tensor2"),
                                         call.number("value")))
def addcdiv(call: HostCall) -> tuple[Array, Array, int]:
    """``a + v b / c``."""
    a = operand(call, "self")
    v, b, c = call.number("value"), operand(call, "tensor1"), operand(call, "tensor2")
    term = v * b / c
    return a + term, _unless_lost(call, _size(a, term, a + term), v * b, b / c), 4


@pointwise(aten.lerp, formula="5 roundings of the largest of |a|, |b|, |b - a|, |w (b - a)|",
           odd=("self", "end"))
def lerp(call: HostCall) -> tuple[Array, Array, int]:
    """``a + w (b - a)``, or ``b - (1 - w)(b - a)`` for ``w >= 1/2``."""
    a, b, w = operand(call, "self"), operand(call, "end"), call.number("weight")
    step = b - a
    return a + w * step, _size(a, b, step, w * step, (1 - w) * step), 5


@pointwise(aten.sqrt, formula="1 ulp: ATen's CPU kernel is not always correctly rounded",
           domain="positive")
def sqrt(call: HostCall) -> tuple[Array, Array, int]:
    """Square root."""
    root = np.sqrt(operand(call, "self"))
    return root, np.abs(root), 2


@pointwise(aten.reciprocal, formula="2 roundings", odd=("self",))
def reciprocal(call: HostCall) -> tuple[Array, Array, int]:
    """``1 / a``."""
    inverse = 1.0 / operand(call, "self")
    return inverse, np.abs(inverse), 2


def _stored_operand(call: HostCall, name: str) -> Array:
    """An operand; a number (of the list forms) rounded to the result's dtype."""
    if isinstance(call[name], Tensor):
        return operand(call, name)
    return converted(call, name, call.held[0].dtype)


@pointwise(aten.maximum, formula="exact", integers=True)
def maximum(call: HostCall) -> tuple[Array, Array, int]:
    """The larger of two values, NaN if one is."""
    largest = np.maximum(operand(call, "self"), _stored_operand(call, "other"))
    return largest, np.abs(largest), 0


@pointwise(aten.minimum, formula="exact", integers=True)
def minimum(call: HostCall) -> tuple[Array, Array, int]:
    """The smaller of two values, NaN if one is."""
    smallest = np.minimum(operand(call, "self"), _stored_operand(call, "other"))
    return smallest, np.abs(smallest), 0


def _rounded_quotient(call: HostCall, mode: str) -> tuple[Array, Array, int]:
    """``floor`` or ``trunc`` of the quotient.  A quotient within its own rounding of an integer may
    fall to either side, which is 1; the bound is 3 roundings of ``|q|`` and that step.  Kernels of
    half formats round the quotient to them first (seen: ``trunc`` of two bf16 tensors)."""
    a, b = operand(call, "self"), operand(call, "other")
    if not is_covered_float(call.held[0].dtype):
        exact = np.floor_divide(a, b)
        if mode == "trunc":
            exact = exact + ((np.remainder(a, b) != 0) & ((a < 0) != (b < 0)))
        return exact, np.abs(exact), 0
    quotient = a / b
    compute = compute_format(call.out_format())
    room = 4 * rounding(quotient, compute)
    if compute is not call.out_format():
        room = room + 2 * rounding(quotient, call.out_format())
    near = np.abs(quotient - np.rint(quotient)) <= room
    size = np.abs(quotient) + np.where(near, 1.0 / compute.u, 0.0)
    return np.floor(quotient) if mode == "floor" else np.trunc(quotient), size, 3


@pointwise(aten.div, formula="3 roundings of |q|: a scalar, its inverse, the product",
           odd=lambda call: () if call.get("rounding_mode") == "floor" else ("self",))
def div(call: HostCall) -> tuple[Array, Array, int]:
    """``a / b``, or its floor or its integer part."""
    mode = call.get("rounding_mode")
    if mode is not None:
        return _rounded_quotient(call, mode)
    quotient = np.true_divide(operand(call, "self"), operand(call, "other"))
    return quotient, np.abs(quotient), 3
