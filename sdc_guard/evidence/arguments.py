"""Operator calls as JSON: the operator's name, and each argument as a tagged value.

What has no form here (generators, symbolic sizes, script objects) makes the call not storable.
:func:`sdc_guard.evidence.standalone.rebuild.decode` reads the same tags back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sdc_guard.calls import BoundCall
from sdc_guard.evidence.tensors_on_disk import NotStorableError
from sdc_guard.plain_json import value_of_float

_CONSTANTS = {torch.dtype: "dtype", torch.layout: "layout", torch.memory_format: "memory_format"}
_WITHHELD = ("float", "complex", "str")


def op_name(call: BoundCall) -> str:
    """``aten::mm.default``: namespace, name and overload of the operator."""
    op = call.form.op
    return f"{op._schema.name}.{op._schema.overload_name or 'default'}"


def encode(value: Any, index_of: dict[int, int]) -> dict[str, Any]:
    """One argument; ``index_of`` gives a tensor's number by its ``id``.

    Raises:
        NotStorableError: for a kind of argument that has no form.
    """
    if isinstance(value, Tensor):
        return {"kind": "tensor", "index": index_of[id(value)]}
    if value is None:
        return {"kind": "none"}
    kind = type(value)
    if kind in (bool, int, str):
        return {"kind": kind.__name__, "value": value}
    if kind is float:
        number = value_of_float(value)
        return {"kind": "float", "bits": number.bits, "repr": number.repr}
    if kind is complex:
        return {"kind": "complex", "real": value_of_float(value.real).bits,
                "imag": value_of_float(value.imag).bits, "repr": repr(value)}
    if kind is torch.device:
        return {"kind": "device", "name": str(value)}
    if kind in _CONSTANTS:
        return {"kind": _CONSTANTS[kind], "name": str(value).removeprefix("torch.")}
    if isinstance(value, (list, tuple)):
        return {"kind": "list" if isinstance(value, list) else "tuple",
                "items": [encode(item, index_of) for item in value]}
    name = f"{kind.__module__}.{kind.__qualname__}"
    raise NotStorableError(f"an argument of type {name} has no JSON form")


def encode_arguments(call: BoundCall, index_of: dict[int, int]) -> list[dict[str, Any]]:
    """All arguments by name, in schema order.

    Raises:
        NotStorableError: see :func:`encode`.
    """
    return [
        {"name": name, "value": encode(value, index_of)}
        for name, value in zip(call.form.argument_names, call.args, strict=True)
    ]


def _described(value: dict[str, Any], keep_ints: bool) -> dict[str, Any]:
    if value["kind"] in ("list", "tuple"):
        return {**value, "items": [_described(item, keep_ints) for item in value["items"]]}
    withheld = value["kind"] in _WITHHELD or (value["kind"] in ("int", "bool") and not keep_ints)
    return {"kind": value["kind"]} if withheld else value


def without_user_data(call: BoundCall, encoded: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Encoded arguments without what may come from the user's data.

    Texts and floats are left out, integers stay only where the schema asks for integers (sizes,
    dimensions, flags) and not for a scalar operand.
    """
    types = [str(a.type) for a in call.form.op._schema.arguments]
    return [
        {"name": a["name"],
         "value": _described(a["value"], not ("number" in kind or "Tensor" in kind))}
        for a, kind in zip(encoded, types, strict=True)
    ]
