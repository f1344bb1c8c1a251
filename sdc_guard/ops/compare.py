"""Comparisons, logic and selection: every result is exact.

Operands of a comparison are first converted to their common dtype (a scalar beside an fp32 tensor
is rounded to fp32; beside a uint8 tensor -1 becomes 255, so that 255 equals it), then compared
exactly. Selected elements are an operand's bits. Place: equal bits wherever an element stands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard.bounds.casts import nearest
from sdc_guard.calls import BoundCall
from sdc_guard.formats import format_of, is_covered_float
from sdc_guard.ops._axes import broadcast_axes
from sdc_guard.ops._places import pointwise_symmetries
from sdc_guard.ops._pointwise import Array, operand_dtype, pointwise
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, INTEGERS, pointwise_samples
from sdc_guard.ops._symmetry import OUTERMOST, RERUN, Symmetry

aten = torch.ops.aten
_WRAPPING = {torch.uint8: np.uint8, torch.int8: np.int8, torch.int16: np.int16,
             torch.int32: np.int32}
"""Integers that keep the low bits of wider ones."""


def common(call: HostCall, *names: str) -> tuple[Array, ...]:
    """The named operands after ATen's conversion to their common dtype."""
    dtype = operand_dtype(call.call, *names)
    arrays = tuple(call.number(name) for name in names)
    if is_covered_float(dtype):
        return tuple(nearest(a, format_of(dtype)) for a in arrays)
    if dtype in _WRAPPING:
        return tuple(a.astype(_WRAPPING[dtype]) if a.dtype.kind in "iu" else a for a in arrays)
    return arrays


def _comparison(target: Any, compare: Callable[[Array, Array], Array], sign: str) -> None:
    def evaluate(call: HostCall) -> tuple[Array, Array, int]:
        a, b = common(call, "self", "other")
        truth = compare(a, b)
        return truth, truth, 0

    evaluate.__doc__ = f"``a {sign} b``."
    evaluate.__module__ = __name__
    pointwise(target, formula="exact", integers=True, domains={"out": "bool"},
              scalars={"other": 1}, in_place=False)(evaluate)


_comparison(aten.eq, np.equal, "==")
_comparison(aten.ne, np.not_equal, "!=")
_comparison(aten.lt, np.less, "<")
_comparison(aten.le, np.less_equal, "<=")
_comparison(aten.gt, np.greater, ">")
_comparison(aten.ge, np.greater_equal, ">=")


def _logical(target: Any, function: Callable[..., Array], *names: str) -> None:
    def evaluate(call: HostCall) -> tuple[Array, Array, int]:
        truth = function(*(call.number(n) != 0 for n in names))
        return truth, truth, 0

    evaluate.__doc__ = f"``{function.__name__}`` of the operands' truth."
    evaluate.__module__ = __name__
    pointwise(target, formula="exact", integers=True, domains={"out": "bool"},
              in_place=False)(evaluate)


_logical(aten.logical_and, np.logical_and, "self", "other")
_logical(aten.logical_or, np.logical_or, "self", "other")
_logical(aten.logical_xor, np.logical_xor, "self", "other")
_logical(aten.logical_not, np.logical_not, "self")


def _bitwise(target: Any, function: Callable[..., Array], *names: str) -> None:
    def evaluate(call: HostCall) -> tuple[Array, Array, int]:
        bits = function(*(call.number(n) for n in names))
        return bits, bits, 0

    evaluate.__doc__ = f"``{function.__name__}``."
    evaluate.__module__ = __name__
    pointwise(target, formula="exact", dtypes=INTEGERS)(evaluate)


_bitwise(aten.bitwise_and, np.bitwise_and, "self", "other")
_bitwise(aten.bitwise_or, np.bitwise_or, "self", "other")
_bitwise(aten.bitwise_xor, np.bitwise_xor, "self", "other")
_bitwise(aten.bitwise_not, np.invert, "self")


def _test(target: Any, function: Callable[[Array], Array], text: str) -> None:
    def evaluate(call: HostCall) -> tuple[Array, Array, int]:
        truth = function(call.number("self"))
        return truth, truth, 0

    evaluate.__doc__ = text
    evaluate.__module__ = __name__
    pointwise(target, formula="exact", integers=True, domains={"out": "bool"})(evaluate)


_test(aten.isnan, np.isnan, "True for NaN.")
_test(aten.isinf, np.isinf, "True for either infinity.")


def where(call: HostCall) -> tuple[Reference | None, ...]:
    """``a`` where the condition holds, else ``b``; nothing for the overload that lists indices."""
    if call.get("other") is None:
        return tuple(None for _ in call.held)
    a, b = common(call, "self", "other")
    return (Reference(np.where(call.number("condition") != 0, a, b), 0.0, 0.0, "exact"),)


def _where_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    if call.get("other") is None:
        return (RERUN,)
    return pointwise_symmetries(call, held, odd=("self", "other"))


checked(
    aten.where,
    family="pointwise",
    axes=broadcast_axes,
    symmetries=_where_symmetries,
    window=(OUTERMOST,),
    samples=pointwise_samples(aten.where, dtypes=(*FLOATS, torch.int64),
                              domains={"condition": "bool"}),
)(where)


@pointwise(aten.masked_fill, formula="exact", integers=True, domains={"mask": "bool"},
           zero_dim=("value",))
def masked_fill(call: HostCall) -> tuple[Array, Array, int]:
    """``value`` where the mask holds, else ``a``."""
    a, value = call.number("self"), call.number("value")
    dtype = call.held[0].dtype
    if is_covered_float(dtype):
        value = nearest(value, format_of(dtype))
    chosen = np.where(call.number("mask") != 0, value, a)
    return chosen.astype(a.dtype, copy=False), np.asarray(0.0), 0
