"""``sdc-guard doctor``: passes here, and fails where a part that checking needs is broken."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import sdc_guard.check.selftest
from sdc_guard.cli.main import main
from sdc_guard.doctor import examination, numerics, places
from sdc_guard.doctor.line import FAIL, PASS, WARN, Line
from tests.meta.tree import ROOT

Lines = dict[str, list[dict[str, str]]]


def run(*arguments: str) -> tuple[int, Lines]:
    result = CliRunner().invoke(main, ["doctor", "--json", *arguments])
    document: dict[str, Any] = json.loads(result.stdout)
    assert document["exit_code"] == result.exit_code
    by_name: Lines = {}
    for line in document["lines"]:
        by_name.setdefault(line["name"], []).append(line)
    return result.exit_code, by_name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Lines]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("doctor"))
        return run()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Leave out what takes seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(numerics, "lines", lambda: [Line(PASS, "determinism", "not tried")])


def test_this_machine_has_no_failure(whole: tuple[int, Lines]) -> None:
    exit_code, lines = whole
    assert exit_code == 0
    assert {"python", "torch", "pytest", "name", "settings", "cores", "threads", "memory",
            "evidence", "disk", "logs", "switches", "determinism", "operators",
            "witness"} <= set(lines)
    assert {w["text"].split()[0] for w in lines["witness"]} >= {"replay", "reference"}
    assert not [w for group in lines.values() for w in group if w["level"] == FAIL]


def test_every_line_has_its_section(whole: tuple[int, Lines]) -> None:
    page = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
    sections = set(re.findall(r"^## (\w+)$", page, flags=re.MULTILINE))
    source = "".join(path.read_text(encoding="utf-8")
                     for path in (ROOT / "sdc_guard" / "doctor").glob("*.py"))
    named = set(re.findall(r"Line\(\s*(?:PASS|WARN|FAIL|level),\s*\"(\w+)\"", source))
    assert len(named) > 15
    assert named | set(whole[1]) == sections


def test_the_text_has_a_fix_and_a_section_under_each_warning(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [Line(PASS, "python", "3"), Line(WARN, "torch", "9", "wait"),
            Line(FAIL, "evidence", "no", "give another")]
    monkeypatch.setattr(examination, "examine", lambda out: iter(made))
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 3
    assert result.stdout.splitlines() == [
        "PASS  python       3",
        "WARN  torch        9",
        "                   -> wait (docs/doctor.md#torch)",
        "FAIL  evidence     no",
        "                   -> give another (docs/doctor.md#evidence)",
    ]


@pytest.mark.usefixtures("quick")
def test_a_dead_witness_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdc_guard.check.selftest, "dead_witnesses", lambda: frozenset({"replay"}))
    exit_code, lines = run()
    assert exit_code == 3
    failed = [w for w in lines["witness"] if w["level"] == FAIL]
    assert [w["text"].split()[0] for w in failed] == ["replay"]
    assert failed[0]["fix"]


@pytest.mark.usefixtures("quick")
def test_a_machine_that_does_not_repeat_itself_is_a_divergence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(numerics, "lines", lambda: [Line(FAIL, "determinism", "x", "y")])
    assert run()[0] == 1


@pytest.mark.usefixtures("quick")
def test_a_part_that_breaks_fails_and_the_rest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode() -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(places, "devices", explode)
    exit_code, lines = run()
    assert exit_code == 3
    assert "planted" in lines["examination"][0]["text"]
    assert "witness" in lines


@pytest.mark.usefixtures("quick")
def test_a_folder_that_takes_no_files_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    exit_code, lines = run("--out", str(tmp_path / "file" / "below"))
    assert (exit_code, lines["evidence"][0]["level"]) == (3, FAIL)
