"""What the value of a setting may be, given as text (environment, command line) or as TOML.

Each ``parse_*`` takes either, and raises ``ValueError`` for anything else; :func:`text_of` writes a
value so that it parses back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

NONE = "none"
_SIZE = re.compile(r"(\d+)\s*(|[kmg]i?b|b)", re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3,
          "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}

Parse = Callable[[object], object]


def parse_switch(value: object) -> bool:
    """``on``/``off``, ``1``/``0``, ``true``/``false``, ``yes``/``no``."""
    word = str(value).lower() if isinstance(value, (str, bool, int)) else ""
    if word in ("1", "on", "true", "yes"):
        return True
    if word in ("0", "off", "false", "no"):
        return False
    raise ValueError


def parse_budget(value: object) -> float | str:
    """``"all"``, or a share of the run time from 0 to below 1."""
    if value == "all":
        return "all"
    number = _number(value)
    if not 0.0 <= number < 1.0:
        raise ValueError
    return number


def parse_percentage(value: object) -> float:
    """A number from 0 to 100, with or without ``%``."""
    number = _number(value.removesuffix("%") if isinstance(value, str) else value)
    if not 0.0 <= number <= 100.0:
        raise ValueError
    return number


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError
    return float(value)


def parse_whole(value: object) -> int:
    """An integer of 0 or more."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError
    number = int(value)
    if number < 0:
        raise ValueError
    return number


def parse_exit_code(value: object) -> int:
    """An exit code from 0 to 255; ``none`` is 0: the script's own code stays."""
    number = 0 if value == NONE else parse_whole(value)
    if number > 255:
        raise ValueError
    return number


def parse_bytes(value: object) -> int:
    """A number of bytes, or a text such as ``256MB`` or ``2GiB``."""
    if isinstance(value, str) and (found := _SIZE.fullmatch(value.strip())):
        return int(found[1]) * _UNITS[found[2].lower()]
    return parse_whole(value)


def parse_path(value: object) -> Path:
    """A path that is not empty and that the system can take."""
    if not isinstance(value, (str, Path)) or not str(value) or "\0" in str(value):
        raise ValueError
    return Path(value)


def or_none(parse: Parse) -> Parse:
    """What ``parse`` takes, or ``none`` for None."""

    def parse_it(value: object) -> object:
        return None if value is None or value == NONE else parse(value)

    return parse_it


def one_of(*words: str) -> Parse:
    """One of some words."""

    def parse_it(value: object) -> str:
        if value not in words:
            raise ValueError
        return str(value)

    return parse_it


def several(known: Callable[[str], bool]) -> Parse:
    """Words that ``known`` takes, at least one: a list, or a text with commas between them."""

    def parse_it(value: object) -> tuple[str, ...]:
        if isinstance(value, str):
            value = [word.strip() for word in value.split(",")]
        if not isinstance(value, (list, tuple)) or not value:
            raise ValueError
        if not all(isinstance(word, str) and known(word) for word in value):
            raise ValueError
        return tuple(value)

    return parse_it


def some(known: Callable[[str], bool]) -> Parse:
    """As :func:`several`; an empty list, or ``none``, too."""

    def parse_it(value: object) -> object:
        return () if value in (NONE, "", [], ()) else several(known)(value)

    return parse_it


def pairs(check: Callable[[dict[str, str]], object]) -> Parse:
    """A table of texts that ``check`` takes, or a text such as ``precision=fail,not tested=fail``.
    ``none`` is an empty one."""

    def parse_it(value: object) -> dict[str, str]:
        if value in ("", NONE):
            return {}
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",")]
        if isinstance(value, Sequence):
            cut = [str(part).partition("=") for part in value]
            if not all(mark for _, mark, _ in cut):
                raise ValueError
            value = {key.strip(): word.strip() for key, _, word in cut}
        if not isinstance(value, Mapping):
            raise ValueError
        table = {str(key): str(word) for key, word in value.items()}
        check(table)
        return table

    return parse_it


def text_of(value: object) -> str:
    """The value as a text that parses back to it."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or NONE
    if isinstance(value, dict):
        return ",".join(f"{key}={word}" for key, word in value.items()) or NONE
    return str(value)
