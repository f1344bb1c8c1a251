"""JSON values from outside, made safe to write in UTF-8."""

from __future__ import annotations

from typing import Any

from sdc_guard.document.text import sound as sound


def sound_values(value: Any) -> Any:
    """A JSON value with every text in it made sound."""
    if isinstance(value, str):
        return sound(value)
    if isinstance(value, list):
        return [sound_values(item) for item in value]
    if isinstance(value, dict):
        return {sound(str(key)): sound_values(item) for key, item in value.items()}
    return value
