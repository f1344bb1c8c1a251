"""Text from outside, made safe to write: sound UTF-8, no control characters, no illegal XML."""

from __future__ import annotations

import re

from sdc_guard.records import Finding

# What XML 1.0 calls a Char, negated: no escape lets any of these stand in a document.
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_CUT = " ... (cut)"


def sound(text: str) -> str:
    r"""The text with unpaired surrogates (of a path that is not UTF-8) shown as ``\udc80``."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def printable(text: str) -> str:
    r"""The text with everything that a terminal or a log would act on shown as ``\x1b``; line
    ends stay."""
    return "".join(c if c == "\n" or c.isprintable() else _shown(c) for c in text)


def module_name(module: str) -> str:
    """A finding's module, or words where none is known (a call outside of every ``forward``)."""
    return "(no module)" if module in ("", "?") else module


def one_line(text: str) -> str:
    """Printable, and on one line."""
    return " ".join(printable(text).split())


def xml_text(text: str) -> str:
    r"""The text with the characters that XML cannot hold shown as ``\x00``."""
    return _NO_XML.sub(lambda found: _shown(found.group()), text)


def shortened(text: str, max_chars: int) -> str:
    """The text's beginning, with a visible mark where it was cut."""
    if len(text) <= max_chars:
        return text
    return text[: max(max_chars - len(_CUT), 0)] + _CUT


def counted(number: int, noun: str, plural: str = "") -> str:
    """``1 call``, ``2,000 calls``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def _shown(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


SCRIPT_NOTE = "a script that needs torch alone: "
"""What stands before the path of a hunt's script in a finding's evidence."""


def called_as(finding: Finding) -> str:
    """The function that a hunt called by itself, "" for a call of somebody's program: that has a
    file and a line, or nothing, where the hunt has the function's name."""
    source = finding.source
    return source if not finding.module and "." in source and not set(source) & set(":/\\") else ""
