"""Text from outside: what a terminal, a log or XML would act on is shown instead."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdc_guard.document.files import write_whole
from sdc_guard.document.text import counted, one_line, printable, shortened, sound, xml_text

ANY_TEXT = st.text(st.characters())


@given(ANY_TEXT)
def test_any_text_becomes_sound_printable_and_fit_for_xml(text: str) -> None:
    sound(text).encode("utf-8")
    assert all(c == "\n" or c.isprintable() for c in printable(text))
    assert "\n" not in one_line(text)
    assert one_line(one_line(text)) == one_line(text)
    element = ElementTree.Element("a", name=xml_text(text))
    element.text = xml_text(text)
    ElementTree.fromstring(ElementTree.tostring(element, encoding="utf-8"))


@pytest.mark.parametrize(("text", "expected"), [
    ("a\x1b[31m", "a\\x1b[31m"), ("\x00", "\\x00"), ("a\u2028b", "a\\u2028b"),
    ("\udc80", "\\udc80"), ("\u202e", "\\u202e"), ("\U000e0001", "\\U000e0001"),
    ("ü 雪\n", "ü 雪\n")])
def test_what_is_acted_on_is_shown(text: str, expected: str) -> None:
    assert printable(text) == expected


def test_a_cut_is_visible_and_keeps_to_its_length() -> None:
    assert shortened("x" * 50, 20) == "x" * 10 + " ... (cut)"
    assert shortened("x" * 20, 20) == "x" * 20


def test_counts_in_words() -> None:
    assert [counted(n, "run") for n in (0, 1, 2000)] == ["0 runs", "1 run", "2,000 runs"]


def test_a_write_that_fails_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "file"
    write_whole(path, "ü\udc80")
    assert path.read_bytes() == "ü\\udc80".encode()

    def full(*args: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, b"more")
    assert [p.name for p in path.parent.iterdir()] == ["file"]
