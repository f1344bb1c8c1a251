"""A script under other interpreters: which torch is wrong, which is right, which cannot run it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdc_guard.errors import UsageError
from sdc_guard.hunt.verify import table, verify


def _interpreter(folder: Path, name: str, versions: str, says: str, code: int) -> str:
    """An executable that answers as an interpreter with that torch would."""
    path = folder / name
    path.write_text(
        f'#!/bin/sh\nif [ "$1" = -c ]; then {versions}; exit; fi\necho "{says}"\nexit {code}\n',
        encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_each_interpreter_gets_its_own_word(tmp_path: Path) -> None:
    script = tmp_path / "finding.py"
    script.write_text("print()", encoding="utf-8")
    pythons = [
        _interpreter(tmp_path, "new", "echo 2.13.0 3.12.1", "torch 2.13.0: WRONG", 1),
        _interpreter(tmp_path, "old", "echo 2.8.0 3.11.2", "torch 2.8.0: RIGHT", 0),
        _interpreter(tmp_path, "bare", "echo no torch >&2; exit 1", "", 0),
        _interpreter(tmp_path, "odd", "echo 2.9.0 3.12.1", "Traceback", 1),
        str(tmp_path / "absent"),
        _interpreter(tmp_path, "silent", "true", "", 0),
    ]
    found = verify(script, pythons, timeout_s=300)
    assert [v.word for v in found] == ["wrong", "right", *4 * ["failed"]]
    assert [v.torch for v in found] == ["2.13.0", "2.8.0", "", "2.9.0", "", ""]
    shown = table(found)
    assert shown.splitlines()[1].split() == ["2.13.0", "3.12.1", "wrong", pythons[0]]
    assert "no torch" in shown
    assert "cannot run it" in shown


def test_an_interpreter_is_looked_for_where_the_user_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "findings").mkdir()
    script = tmp_path / "findings" / "finding.py"
    script.write_text("print()", encoding="utf-8")
    (tmp_path / "venv").mkdir()
    _interpreter(tmp_path / "venv", "python", "echo 2.13.0 3.12.1", "torch 2.13.0: WRONG", 1)
    monkeypatch.chdir(tmp_path)
    assert [v.word for v in verify(script, ["venv/python"])] == ["wrong"]


def test_a_script_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no script"):
        verify(tmp_path / "none.py", ["python"])


def test_no_interpreter_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "finding.py"
    script.write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="--python"):
        verify(script, [])
    with pytest.raises(UsageError, match="more than 0"):
        verify(script, ["python"], timeout_s=0)
