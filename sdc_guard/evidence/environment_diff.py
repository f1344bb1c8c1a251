"""What of two environments can change a number and differs.  Needs no torch."""

from __future__ import annotations

import json
from typing import Any

UNKNOWN = "unknown"
_COMPARED = ("torch", "numpy", "cpu_capability", "cpu", "cuda", "parallel", "threads", "variables",
             "build", "gpus")
_GREW = ("cpu", "cuda", "build", "gpus")
"""Fields that hold more than they did: what an older bundle does not have is not compared."""
_OF_ONE_GPU = ("uuid", "pci", "state")
"""Which GPU it is, and how it was at that moment: no reason for another number."""


def environment_differences(then: dict[str, Any], here: dict[str, Any]) -> tuple[str, ...]:
    """The fields that can change a number and differ, as ``"field: value then, value here"``.

    Flags and intra-op threads are left out: a replay sets them as they were.
    """
    lines = []
    for field in _COMPARED:
        old, new = _comparable(field, then), _comparable(field, here)
        if field in ("build", "gpus") and UNKNOWN in (old, new):
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            both = {*old} & {*new} if field in _GREW else {*old, *new}
            keys = sorted(both - {"intra_op"})
            pairs = [(f"{field}.{key}", old.get(key), new.get(key)) for key in keys]
        else:
            pairs = [(field, old, new)]
        lines += [f"{name}: {a!r} then, {b!r} here" for name, a, b in pairs if a != b]
    return tuple(lines)


def _comparable(field: str, environment: dict[str, Any]) -> Any:
    value = environment.get(field, UNKNOWN)
    if field == "gpus" and isinstance(value, list):
        return [{key: item for key, item in gpu.items() if key not in _OF_ONE_GPU}
                for gpu in value if isinstance(gpu, dict)]
    return value


def flattened(environment: dict[str, Any]) -> dict[str, str]:
    """What can change a number, one text for each field, nested ones by dotted names.

    Fields of no meaning for numbers (host, affinity, platform, which GPU it is) are left out;
    unlike :func:`environment_differences` this keeps flags and threads.  GPUs are taken together.
    A variable that is not set, and a field that is empty, has no entry.
    """
    fields: dict[str, str] = {}
    for name in (*_COMPARED, "flags"):
        value = _comparable(name, environment) if name in environment else None
        if name == "gpus" and isinstance(value, list):
            value = _together(value)
        _flatten(name, value, fields)
    return fields


def _together(gpus: list[dict[str, Any]]) -> dict[str, str]:
    """Each field's distinct values: most often all GPUs of a machine are alike."""
    values: dict[str, set[str]] = {}
    for gpu in gpus:
        mine: dict[str, str] = {}
        for key, value in gpu.items():
            _flatten(key, value, mine)
        for name, text in mine.items():
            values.setdefault(name, set()).add(text)
    return {name: ", ".join(sorted(texts)) for name, texts in values.items()}


def _flatten(name: str, value: Any, fields: dict[str, str]) -> None:
    if isinstance(value, dict):
        for key in value:
            _flatten(f"{name}.{key}", value[key], fields)
    elif value is not None and value != []:
        fields[name] = value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def changed_fields(
    before: dict[str, str], after: dict[str, str], *, first: str, second: str
) -> tuple[str, ...]:
    """The differences of two flattened environments: ``"field: 'a' in FIRST, 'b' in SECOND"``."""
    return tuple(
        f"{name}: {_shown(before.get(name))} {first}, {_shown(after.get(name))} {second}"
        for name in sorted({*before, *after}) if before.get(name) != after.get(name))


def _shown(value: str | None) -> str:
    return "not set" if value is None else repr(value)
