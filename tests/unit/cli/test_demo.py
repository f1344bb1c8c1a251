"""``sdc-guard demo``: what goes where, which options reach the runs, what the exit code says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import sdc_guard.demo.story
from sdc_guard.cli.main import main
from sdc_guard.demo.report import UNGUARDED, DemoReport
from sdc_guard.demo.story import FULL, QUICK, Settings
from sdc_guard.evidence import EventLog
from tests.made_reports import made_finding
from tests.unit.demo.reports_made_by_hand import report, run

Seen = list[Settings]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """The settings of each run; nothing is trained."""
    return arrange(monkeypatch, report())


def arrange(monkeypatch: pytest.MonkeyPatch, made: DemoReport) -> Seen:
    settings: Seen = []

    def no_training(given: Settings, watcher: Any) -> DemoReport:
        settings.append(given)
        watcher.started("clean", given.num_steps)
        watcher.stepped("clean", 0, 5.0)
        watcher.finished("clean", 9.0)
        return made

    monkeypatch.setattr(sdc_guard.demo.story, "run_demo", no_training)
    return settings


def demo(*options: str, out: Path) -> Result:
    return CliRunner().invoke(main, ["demo", "--out", str(out), *options])


def test_the_story_goes_to_stdout_progress_to_stderr_and_a_page_to_the_folder(
    seen: Seen, tmp_path: Path
) -> None:
    result = demo(out=tmp_path / "new")
    assert result.exit_code == 0
    page = tmp_path / "new" / "demo.html"
    assert page.read_text().startswith("<!doctype html>")
    assert "THE CATCH" in result.stdout
    assert f"page      {page}" in result.stdout
    assert "held-out perplexity 9.000" in result.stderr
    assert "held-out perplexity 9.000" not in result.stdout
    assert seen == [Settings(out=tmp_path / "new")]


def test_the_report_of_the_guarded_run_lies_beside_the_page(seen: Seen, tmp_path: Path) -> None:
    assert "report    " not in demo(out=tmp_path).stdout
    log = EventLog(tmp_path, 0)
    log.write("finding", finding=made_finding())
    log.close()
    result = demo(out=tmp_path)
    assert f"report    {tmp_path / 'report.html'}" in result.stdout
    assert "aten.sum" in (tmp_path / "report.html").read_text()


def test_json_is_the_only_output(seen: Seen, tmp_path: Path) -> None:
    result = demo("--json", out=tmp_path)
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["page"] == str(tmp_path / "demo.html")
    assert document["clean"]["perplexity"] == 9.0
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        ((), "config", FULL.config),
        (("--quick",), "config", QUICK.config),
        (("--steps", "7"), "num_steps", 7),
        (("--quick", "--steps", "7"), "num_steps", 7),
        (("--seed", "3"), "seed", 3),
        (("--budget", "0.25"), "budget", 0.25),
        (("--budget", "all"), "budget", "all"),
        ((), "budget", FULL.budget),
    ],
)
def test_options_reach_the_runs(
    seen: Seen, tmp_path: Path, options: tuple[str, ...], field: str, value: object
) -> None:
    assert demo(*options, out=tmp_path).exit_code == 0
    assert getattr(seen[0], field) == value


def test_a_run_that_shows_nothing_exits_1_and_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arrange(monkeypatch, report(unguarded=run(UNGUARDED, 9.0, 3)))
    result = demo(out=tmp_path)
    assert result.exit_code == 1
    assert "no visible harm" in result.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [(("--steps", "0"), "--steps"), (("--seed", "-1"), "--seed"),
     (("--budget", "2%", "--quick", "--steps", "1"), "budget='2%'")],
)
def test_wrong_options_are_wrong_usage(
    tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    result = demo(*options, out=tmp_path)
    assert result.exit_code == 2
    assert words in result.output
