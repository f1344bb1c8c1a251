"""Records as JSON that every reader accepts: no bare NaN or infinity, numbers by their bits.

A float that is not finite is written as a :class:`~sdc_guard.records.Value`; reading a record turns
it back wherever the record's type asks for a float.
"""

from __future__ import annotations

import enum
import json
import math
import struct
import types
import typing
from typing import Any, TypeVar

import msgspec

from sdc_guard.records import Value

_R = TypeVar("_R")

MAX_DEPTH = 64
"""Of JSON from outside: lists and objects inside one another.  Ours are less than ten deep."""
MAX_INTEGER_BITS = 96
MAX_INTEGER = (1 << MAX_INTEGER_BITS) - 1
"""Of JSON from outside, either sign.  A fleet that is swept for days counts more than 2^64
floating-point operations; no number of ours is larger than this, and what is cannot always be put
into a float or another format."""


def value_of_float(number: float) -> Value:
    """A Python float by its bits."""
    bits = int.from_bytes(struct.pack("<d", number), "little")
    return Value(dtype="float64", bits=f"0x{bits:016x}", repr=repr(number))


def float_of_bits(bits: str) -> float:
    """The Python float of a 16-digit bit pattern, NaN payload kept."""
    return float(struct.unpack("<d", int(bits, 16).to_bytes(8, "little"))[0])


def plain(value: Any) -> Any:
    """``value`` in terms of dict, list, str, int, bool, None and finite floats.

    Records become dicts, enums their values, other objects their ``repr``.
    """
    if value is None or isinstance(value, (bool, str)):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        number = float(value)
        return number if math.isfinite(number) else plain(value_of_float(number))
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return repr(value)


def dumps(value: Any) -> bytes:
    """One line of UTF-8 JSON."""
    return json.dumps(plain(value), allow_nan=False, separators=(",", ":")).encode(
        "utf-8", "backslashreplace"
    )


def loads(data: bytes | str) -> Any:
    """The value of JSON from outside.

    Raises:
        ValueError: if it is not JSON, is nested deeper than :data:`MAX_DEPTH`, or holds an integer
            beyond :data:`MAX_INTEGER`.
    """
    try:
        value = json.loads(data)
    except RecursionError as error:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels") from error
    _require_plain(value, MAX_DEPTH)
    return value


def _require_plain(value: Any, levels: int) -> None:
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise ValueError(f"it holds an integer of {value.bit_length()} bits, limit "
                         f"{MAX_INTEGER_BITS}")
    if not isinstance(value, (list, dict)):
        return
    if not levels:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
    for item in value.values() if isinstance(value, dict) else value:
        _require_plain(item, levels - 1)


def _revived(value: Any, kind: Any) -> Any:
    """Turn numbers by their bits back into floats wherever ``kind`` asks for a float."""
    choices = typing.get_args(kind)
    if isinstance(value, list):
        return [_revived(item, choices[0] if choices else None) for item in value]
    if not isinstance(value, dict):
        return value
    if isinstance(kind, types.UnionType):
        kind = next(c for c in choices if c is not types.NoneType)
    if kind is float:
        return float_of_bits(value["bits"])
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
        return {key: _revived(item, fields.get(key)) for key, item in value.items()}
    if typing.get_origin(kind) is dict:
        return {key: _revived(item, typing.get_args(kind)[1]) for key, item in value.items()}
    return value


def read_record(data: bytes, kind: type[_R]) -> _R:
    """The record that :func:`dumps` wrote.

    Raises:
        msgspec.ValidationError, ValueError: if the bytes are not such a record.
    """
    return record_of(loads(data), kind)


def record_of(value: Any, kind: type[_R]) -> _R:
    """The record that :func:`plain` took apart.

    Raises:
        msgspec.ValidationError, ValueError: if the value is not such a record.
    """
    return msgspec.convert(_revived(value, kind), kind)
