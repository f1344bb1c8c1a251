"""Text from outside as a page shows it: each character visible, long texts cut where one sees
it."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from markupsafe import Markup

from sdc_guard.document.text import counted as counted

MAX_CHARS = 2000
"""Of one text on the page; what is longer is cut, and says so."""

_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"})
_PLAIN = re.compile(r"[\n\t\x20-\x7e]*\Z")


def shown(text: str, max_chars: int = MAX_CHARS) -> str:
    r"""The text with controls, unpaired surrogates and characters that reorder or hide others
    written as ``\x1b`` or ``\u202e``.  Line feeds and tabs stay."""
    rest = len(text) - max_chars
    if rest > 0:
        text = text[:max_chars]
    if not _PLAIN.match(text):
        text = "".join(map(_shown_character, text))
    return f"{text} … ({rest} more characters)" if rest > 0 else text


def _shown_character(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in _HIDDEN_CATEGORIES:
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def finalized(value: Any, max_chars: int = MAX_CHARS) -> Any:
    """What a template writes for a value: markup as it is, every other text :func:`shown`."""
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return shown(value, max_chars) if is_text else value


def listed(items: list[str], limit: int) -> str:
    """``a, b, c and 4 more``."""
    rest = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {rest:,} more" if rest > 0 else "")


def duration(seconds: float) -> str:
    """``850 ms``, ``12.3 s``, ``4 min 05 s``, ``3 h 20 min``."""
    if not 0 <= seconds < 1e9:
        return "an unknown time"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def percent(part: float, whole: float) -> str:
    """``92.5 %``; never 100 % while something is left, never 0 % while there is something."""
    if not whole:
        return "none"
    share = part / whole
    if whole - part > 0 and share >= 0.9995:
        return "99.9\u00a0%"
    if part > 0 and share < 0.0005:
        return "<0.1\u00a0%"
    return f"{share:.1%}".replace(".0%", "%").replace("%", "\u00a0%")


def short_op(op: str) -> str:
    """``sum.dim_IntList`` for ``aten.sum.dim_IntList``, ``mm`` for ``aten.mm.default``."""
    return op.removeprefix("aten.").removesuffix(".default")
