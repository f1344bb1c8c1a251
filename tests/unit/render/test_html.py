"""Pages: complete, escaped, without scripts or anything from a network, written whole."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest

from sdc_guard.render.html import render_page, write_page


def test_a_misspelt_variable_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="report"):
        render_page("demo.html.j2")


def test_a_page_replaces_the_old_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "page.html"
    write_page(path, "one")
    write_page(path, "two\u00e9")
    assert path.read_text(encoding="utf-8") == "two\u00e9"
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]


def test_a_failed_write_leaves_the_old_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "page.html"
    write_page(path, "old")

    def full(*args: object, **options: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_page(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
