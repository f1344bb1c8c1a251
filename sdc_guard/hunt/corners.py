"""Corners of arguments that are no tensors: dimensions, ``keepdim``, ``correction``, orders."""

from __future__ import annotations

import inspect
import math
from functools import cache

import torch

from sdc_guard.calls import OpForm, form_of
from sdc_guard.hunt.targets import is_overload, resolve
from sdc_guard.hunt.trial import Items, Scalar, scalar

_FLAGS = frozenset({"keepdim", "keepdims", "unbiased", "descending", "stable", "sorted", "upper",
                    "accumulate", "largest", "count_include_pad", "reverse", "right"})
_NUMBERS: dict[str, tuple[int | float, ...]] = {
    "correction": (0, 1, 2), "ord": (2, 0, 1, 3, 0.5, -1, math.inf, -math.inf),
    "p": (2, 0, 1, 3, 0.5, math.inf), "alpha": (1, 0, -1, 2, 0.5, 3), "beta": (1, 0, -1, 0.5, 2),
    "ddof": (0, 1), "threshold": (20, 2, 0.5, 1e-3, 0, -2), "value": (1, 0.5, -2, 1e-3, 0),
    "negative_slope": (0.01, 0.5, 2, 1e-3, 0), "lambd": (0.5, 2, 1e-3, 0), "delta": (1, 0.5, 2),
    "eps": (1e-5, 1e-3, 0.5, 2), "scale": (1, 0.5, 2, 1e-3, -1), "weight": (0.5, 0.25, 2, -1, 0, 1),
    "margin": (0, 1, 0.5, 2, 1e-3), "diagonal": (0, 1, -1, 2, -2, 7, -7, 1 << 31, -(1 << 31)),
    "shifts": (0, 1, -1, 2, -3, 64, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 31) + 1, -(1 << 31),
               -(1 << 31) - 2, (1 << 32) + 3),
    "exponent": (2, 0, 1, 3, 4, 5, 0.5, -1, -0.5), "decimals": (0, 1, 2, -1),
    "ignore_index": (-100, 0, 1, 2, -1), "label_smoothing": (0, 0.5, 1e-3, 1),
}
_DTYPES = ("float64", "float32")
_FACTORS = frozenset({"alpha", "beta", "value"})
_LISTED = frozenset({"shifts"})
"""Numbers that may also stand in a list, of which one is replaced."""
_BOUND_BY_FORM: dict[str, frozenset[str]] = {
    "scale": frozenset({"elu", "scaled_dot_product_attention"}),
    "weight": frozenset({"lerp"}),
    "value": frozenset({"addcmul", "addcdiv", "masked_fill", "fill", "index_fill", "threshold"}),
}
"""Names that mean a free number in these functions only."""
DIMS = frozenset({"dim", "dims", "axis", "dim0", "dim1"})
FROM_THE_BACK = 64
"""Corners from this number on count dimensions from the back."""


@cache
def names_of(target: str) -> tuple[str, ...]:
    """Names of the positional arguments of a target; empty where they cannot be known."""
    if is_overload(target):
        return form_of(resolve(target)).argument_names
    try:
        return tuple(inspect.signature(resolve(target)).parameters)
    except (TypeError, ValueError):
        form = _form_of_builtin(target)
        return () if form is None else form.argument_names[: form.num_positional]


@cache
def _form_of_builtin(target: str) -> OpForm | None:
    """Of a function that is written in C++: the longest overload of its operator."""
    parts = [p for p in target.split(".") if p not in ("torch", "Tensor", "nn", "functional")]
    packet = getattr(torch.ops.aten, "_".join(parts), None)
    if packet is None:
        return None
    forms = [form_of(getattr(packet, name)) for name in packet.overloads()]
    plain = [f for f in forms if not f.is_out and "Dimname" not in f.name and "name" not in
             f.name.rpartition(".")[2]]
    return max(plain, key=lambda f: f.num_positional, default=None)


def has_corners(name: str, value: Scalar | Items) -> bool:
    """True if :func:`corner` knows another value for an argument of that name."""
    if isinstance(value, Items):
        return (name in DIMS or name in _LISTED) and all(
            isinstance(i, Scalar) and i.kind == "int" for i in value.items)
    if name in DIMS:
        return value.kind == "int"
    if name in _FLAGS:
        return value.kind == "bool"
    if name == "dtype":
        return value.kind == "none" or value.text in _DTYPES
    return name in _NUMBERS and value.kind in ("int", "float")


@cache
def left_out(target: str) -> tuple[tuple[str, Scalar], ...]:
    """Arguments that a call may leave out and that have corners, with their defaults."""
    function = resolve(target)
    found: list[tuple[str, object]] = []
    form = form_of(function) if is_overload(target) else None
    if form is None:
        try:
            parameters = inspect.signature(function).parameters.values()
            found = [(p.name, p.default) for p in parameters if p.default is not p.empty]
        except (TypeError, ValueError):
            form = _form_of_builtin(target)
    if form is not None:
        found = list(zip(form.argument_names, form.defaults, strict=True))
    known = [(n, scalar(v)) for n, v in found
             if isinstance(v, (bool, int, float)) or (n == "dtype" and v is None)]
    return tuple((n, v) for n, v in known if n not in DIMS and has_corners(n, v)
                 and fits_form(n, target))


@cache
def may_be_none(target: str, name: str) -> bool:
    """True if a dimension of that name may be left out, which means all of them."""
    form = form_of(resolve(target)) if is_overload(target) else _form_of_builtin(target)
    if form is None or name not in form.argument_names:
        return False
    argument = form.op._schema.arguments[form.argument_names.index(name)]
    return bool(argument.has_default_value()) and argument.default_value is None


def fits_form(name: str, target: str) -> bool:
    """True if an argument of that name is a free number of the target."""
    base = target.split(".")[1] if is_overload(target) else target.rpartition(".")[2]
    forms = _BOUND_BY_FORM.get(name)
    return forms is None or base.removesuffix("_") in forms


def corner(
    name: str, value: Scalar | Items, which: int, rank: int, is_whole: bool = False
) -> Scalar | Items:
    """Another legal value, by number: dimensions inside a tensor of ``rank`` dimensions, from the
    front or from the back, in any order; 0 is the plainest.  ``is_whole``: the call computes with
    integers, for which factors must be integers too."""
    if isinstance(value, Items) and name in _LISTED:
        items = list(value.items)
        if items:
            items[which % len(items)] = scalar(_NUMBERS[name][which % len(_NUMBERS[name])])
        return Items(items=tuple(items), is_tuple=value.is_tuple)
    if isinstance(value, Items):
        picked = [d for d in range(rank) if which >> d & 1] or list(range(min(1, rank)))
        if which & 32:
            picked = picked[::-1]
        if which & FROM_THE_BACK:
            picked = [d - rank for d in picked]
        return Items(items=tuple(scalar(d) for d in picked), is_tuple=value.is_tuple)
    if name in DIMS:
        dim = which % max(1, rank)
        return scalar(dim - rank if which & FROM_THE_BACK and rank else dim)
    if name in _FLAGS:
        return scalar(bool(which & 1))
    if name == "dtype":
        return Scalar(kind="dtype", text=_DTYPES[which % len(_DTYPES)])
    choices = _NUMBERS[name]
    number = choices[which % len(choices)]
    if is_whole and name in _FACTORS:
        number = int(number)
    return scalar(int(number) if value.kind == "int" and math.isfinite(number)
                  and number == int(number) else float(number))
