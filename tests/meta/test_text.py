"""No text that belongs to one machine, and no promise in place of work."""

from __future__ import annotations

import re

import pytest

from tests.meta.tree import place, text_files

# Written with character classes, so that this file does not match itself.
FORBIDDEN = {
    "a path of one machine": re.compile(r"(?<![\w.])/(?:[r]oot|[h]ome|[w]ork|[U]sers)/\w"),
    "the steering folder": re.compile(r"\.\./[s]hared"),
    "a package registry's host": re.compile(
        r"[p]ypi\.org|[p]ythonhosted|[n]pmjs|[d]ownload\.pytorch|deb\.[d]ebian"
    ),
    "a promise": re.compile(r"\b(?:[T]ODO|[F]IXME|[X]XX|[H]ACK)\b"),
    "a merge mark": re.compile(r"^(?:<{7}|>{7}) ", re.MULTILINE),
}


def matches(where: str, text: str) -> list[str]:
    """One line per forbidden match, with its place."""
    return [
        f"{where}:{text.count(chr(10), 0, found.start()) + 1}: {what}: {found.group()!r}"
        for what, pattern in FORBIDDEN.items()
        for found in pattern.finditer(text)
    ]


def test_no_forbidden_text() -> None:
    found = [
        line for path in text_files() for line in matches(place(path), path.read_text("utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("open('/ro" + "ot/data')", "a path of one machine"),
        ("see .." + "/shared/DESIGN.md", "the steering folder"),
        ("pip install -i p" + "ypi.org/simple", "a package registry's host"),
        ("# TO" + "DO later", "a promise"),
        ("<" * 7 + " HEAD", "a merge mark"),
    ],
)
def test_planted_text_is_found(text: str, what: str) -> None:
    assert [line for line in matches("planted", "first\n" + text) if f"planted:2: {what}" in line]
