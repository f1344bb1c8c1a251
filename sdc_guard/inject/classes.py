"""Classes of operators, for tables."""

from __future__ import annotations

from typing import Any

from sdc_guard.calls import form_of
from sdc_guard.inject.phases import OPTIMIZER
from sdc_guard.ops import GENERATOR, lookup

OTHER = "recurrent and other"
RANDOM = "random draw"
"""Ops that draw random numbers: whether one draw is wrong nobody can tell."""
CLASSES = ("product", "convolution", "attention", "softmax and loss", "norm", "reduction",
           "pointwise", "copy and layout", "indexing", "optimizer", RANDOM, OTHER)
NO_OP = "none"
"""Class of faults that strike no operator."""

_CLASS_OF_FAMILY = {
    "product": "product",
    "convolution": "convolution",
    "attention": "attention",
    "softmax": "softmax and loss",
    "loss": "softmax and loss",
    "norm": "norm",
    "reduction": "reduction",
    "scan": "reduction",
    "pool": "reduction",
    "pooling": "reduction",
    "pointwise": "pointwise",
    "foreach": "pointwise",
    "copy": "copy and layout",
    "fill": "copy and layout",
    "padding": "copy and layout",
    "upsample": "copy and layout",
    "embedding": "indexing",
    "indexing": "indexing",
    "sampling": "indexing",
    "selection": "indexing",
    "optimizer": "optimizer",
}
_DRAWN = frozenset({GENERATOR, "random"})


def op_class(op: Any, phase: str = "") -> str:
    """The one of :data:`CLASSES` that an operator overload belongs to, by the family under which it
    is checked; :data:`NO_OP` for None.

    What draws random numbers, fused dropout included, is of class ``random draw``.  Pointwise
    arithmetic in the phase ``optimizer`` (:mod:`sdc_guard.inject.phases`) is of class
    ``optimizer``.
    """
    if op is None:
        return NO_OP
    form = form_of(op)
    spec = lookup(form.packet)
    if form.seeded and (spec is None or spec.family in _DRAWN):
        return RANDOM
    found = OTHER if spec is None else _CLASS_OF_FAMILY.get(spec.family, OTHER)
    return "optimizer" if found == "pointwise" and phase == OPTIMIZER else found
