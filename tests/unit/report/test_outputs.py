"""Every format of every report is written whole, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdc_guard.errors import UsageError
from sdc_guard.report.judging import judge
from sdc_guard.report.outputs import FORMATS, rendered, write_outputs
from tests.made_reports import SHAPES, made_report, many_report


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_of_every_report_is_sound_text(name: str, shape: str, tmp_path: Path) -> None:
    (path,) = write_outputs(judge(SHAPES[shape]()), {name: tmp_path / "new" / FORMATS[name].file})
    assert path.read_text(encoding="utf-8").endswith("\n")
    assert [p.name for p in path.parent.iterdir()] == [FORMATS[name].file]


def test_the_formats_have_names_of_their_own() -> None:
    assert len({format.file for format in FORMATS.values()}) == len(FORMATS)


def test_nothing_is_written_if_one_cannot_be_rendered(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="format 'pdf' is unknown; choose one of html, json"):
        write_outputs(made_report(), {"text": tmp_path / "a", "pdf": tmp_path / "b"})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        write_outputs(made_report(), {"text": tmp_path / "file" / "report.txt"})


@pytest.mark.slow
def test_thirty_thousand_findings_are_bounded_in_each_format_for_people_and_for_ci() -> None:
    report = judge(many_report(30_000))
    limits = {"html": 2_000_001, "junit": 8_000_000, "sarif": 10_000_000, "markdown": 1000 << 10,
              "comment": 64_000, "prom": 10_000, "text": 10_000}
    texts = {name: rendered(report, name) for name in limits}
    assert {n: len(t.encode()) for n, t in texts.items() if len(t.encode()) > limits[n]} == {}
    assert json.loads(texts["sarif"])["runs"][0]["properties"]["resultsLeftOut"] == 25_000
    assert "and 25000 more" in texts["junit"]
    for name in ("html", "markdown", "comment", "prom", "text"):
        assert "30000" in texts[name].replace(",", "").replace("\u202f", ""), name
