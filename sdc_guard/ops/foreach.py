"""``_foreach_*``: the elementwise ops on lists, as ``torch.optim`` calls them.

The reference of a list element is that of the elementwise op (``_foreach_add`` is ``add`` of each
element): same formula, same bound; only the names of the operands differ.  Symmetries: see
:mod:`sdc_guard.ops._lists`; they and negation were seen to keep every bit in 4 formats, with 1 and
2 threads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall, OpForm, form_of
from sdc_guard.ops._lists import is_list, list_axes, list_length, list_samples, list_symmetries
from sdc_guard.ops._registry import (
    HostCall,
    Reference,
    checked,
    lookup,
    lookup_complex,
    packet_name,
)
from sdc_guard.ops._symmetry import Symmetry

aten = torch.ops.aten

TAILED = frozenset({"aten._foreach_pow", "aten._foreach_rsqrt"})
"""Ops whose vector body and scalar tail differ, see :mod:`sdc_guard.ops.elementary`."""

ALIASES = {
    "other": ("other", "scalar", "scalars"),
    "value": ("value", "scalars"),
    "weight": ("weight", "weights"),
    "end": ("tensors1",),
    "min": ("other", "scalar", "scalars"),
    "max": ("other", "scalar", "scalars"),
}
"""What an operand of the elementwise op may be called in the list op."""


def element_argument(call: BoundCall, name: str, j: int, default: Any) -> Any:
    """The operand ``name`` of list element j."""
    for candidate in ALIASES.get(name, (name,)):
        if candidate not in call.form.argument_names:
            continue
        value = call[candidate]
        if is_list(value):
            return value[j]
        if candidate == "scalars" and isinstance(value, Tensor):
            return bits.values(value).ravel()[j].item()
        return value
    return default


def element_call(call: BoundCall, form: OpForm, j: int) -> BoundCall:
    """List element j as a call of the elementwise op.  It is only read, never made: a Python number
    may stand where the overload has a tensor."""
    names = zip(form.argument_names, form.defaults, strict=True)
    return BoundCall(form, tuple(element_argument(call, n, j, d) for n, d in names))


def _register(target: Any, elementwise: Any, *odd: str) -> None:
    form, packet = form_of(elementwise), packet_name(target)

    def reference(call: HostCall) -> tuple[Reference | None, ...]:
        found: list[Reference | None] = []
        for j in range(list_length(call.call)):
            part = element_call(call.call, form, j)
            tensors = (call.held[j], *(t for _, t in part.tensors()))
            find = lookup_complex if any(t.is_complex() for t in tensors) else lookup
            spec = find(form.packet)
            results: tuple[Reference | None, ...] = (None,)
            if spec is not None and spec.reference is not None:
                results = spec.reference(HostCall(part, (call.held[j],)))
            found.extend(results)
        return tuple(found)

    def symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
        half = any(t.element_size() == 2 for t in held)
        tails = packet in TAILED or (half and call.get("alpha", 1) != 1)
        return list_symmetries(call, held, odd, tails)

    reference.__doc__ = f"``{form.packet}`` of each list element."
    reference.__module__ = __name__
    checked(target, family="foreach", axes=list_axes, symmetries=symmetries,
            samples=list_samples(target))(reference)


_register(aten._foreach_add, aten.add.Tensor, "self", "other")
_register(aten._foreach_sub, aten.sub.Tensor, "self", "other")
_register(aten._foreach_mul, aten.mul.Tensor, "self")
_register(aten._foreach_div, aten.div.Tensor, "self")
_register(aten._foreach_neg, aten.neg.default, "self")
_register(aten._foreach_abs, aten.abs.default)
_register(aten._foreach_sign, aten.sign.default, "self")
_register(aten._foreach_sqrt, aten.sqrt.default)
_register(aten._foreach_rsqrt, aten.rsqrt.default)
_register(aten._foreach_reciprocal, aten.reciprocal.default, "self")
_register(aten._foreach_exp, aten.exp.default)
_register(aten._foreach_pow, aten.pow.Tensor_Tensor)
_register(aten._foreach_lerp, aten.lerp.Tensor, "self", "tensors1")
_register(aten._foreach_addcmul, aten.addcmul.default, "self", "tensor1")
_register(aten._foreach_addcdiv, aten.addcdiv.default, "self", "tensor1")
_register(aten._foreach_maximum, aten.maximum.default)
_register(aten._foreach_minimum, aten.minimum.default)
_register(aten._foreach_clamp_min, aten.clamp_min.Tensor)
_register(aten._foreach_clamp_max, aten.clamp_max.Tensor)
_register(aten._foreach_copy, aten.copy.default, "src")
_register(aten._foreach_zero, aten.zero.default)
