"""Settings: the command line before the environment, that before the file, that before defaults."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from sdc_guard import limits, policy
from sdc_guard.cli.main import main
from sdc_guard.errors import UsageError
from sdc_guard.evidence import bundle
from sdc_guard.guard import Guard
from sdc_guard.report.judging import FAIL_ON
from sdc_guard.settings import BASELINE_FILE, SETTINGS, resolve, variables_of
from sdc_guard.settings import table as words
from sdc_guard.settings.values import text_of
from sdc_guard.sweep.units import HOST_VARIABLE
from tests.meta.tree import ROOT


def project(folder: Path, text: str, name: str = "pyproject.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_each_source_wins_over_the_next_and_is_named(tmp_path: Path) -> None:
    file = project(tmp_path, "[tool.sdc_guard]\nbudget = 0.1\nseed = 5\non-finding = 'warn'\n")
    environ = {"SDC_GUARD_BUDGET": "0.2", "SDC_GUARD_SEED": "6", "OTHER": "x"}
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    found = resolve({"budget": "all", "evidence": None}, environ=environ, folder=below)
    assert (found.budget, found.seed, found.on_finding, found.evidence) == (
        "all", 6, "warn", "full")
    assert found.sources["budget"] == "command line"
    assert found.sources["seed"] == "environment SDC_GUARD_SEED"
    assert found.sources["on_finding"] == f"{file} [tool.sdc_guard]"
    assert found.sources["evidence"] == "default"
    assert found.file == str(file)


def test_the_nearest_file_is_read_and_its_paths_start_at_its_folder(tmp_path: Path) -> None:
    project(tmp_path, "[tool.sdc_guard]\nseed = 1\n")
    inner = tmp_path / "inner"
    inner.mkdir()
    project(inner, "[tool.other]\nseed = 2\n")
    assert resolve(environ={}, folder=inner).seed == 1  # passed by: it has no table of ours
    project(inner, "seed = 3\nout = 'runs'\nbaseline = 'known.txt'\n", "sdc_guard.toml")
    found = resolve(environ={}, folder=inner)
    assert (found.seed, found.out, found.baseline) == (3, inner / "runs", inner / "known.txt")
    assert resolve(environ={}, folder=inner, reads_file=False).seed == 0


def test_a_baseline_of_the_usual_name_is_used_where_nothing_says_otherwise(tmp_path: Path) -> None:
    assert resolve(environ={}, folder=tmp_path).baseline is None
    (tmp_path / BASELINE_FILE).touch()
    found = resolve(environ={}, folder=tmp_path)
    assert (found.baseline, found.sources["baseline"]) == (BASELINE_FILE, f"found in {tmp_path}")
    for environ in ({"SDC_GUARD_BASELINE": "none"}, {"SDC_GUARD_BASELINE": "other.txt"}):
        assert resolve(environ=environ, folder=tmp_path).baseline != BASELINE_FILE
    assert resolve(environ={}, folder=tmp_path, reads_file=False).baseline is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bugdet = 0.1", ("'bugdet' is no setting", "budget, on_finding")),
        ("budget = 1.5", ("budget = 1.5 is not allowed", "a share from 0 to below 1")),
        ("budget = nan", ("budget = nan is not allowed",)),
        ("budget = true", ("budget = True is not allowed",)),
        ("witnesses = ['eye']", ("witnesses = ['eye']", "replay, reference")),
        ("witnesses = []", ("witnesses = [] is not allowed",)),
        ("seed = -1", ("seed = -1", "an integer, 0 or more")),
        ("finding_exit = 256", ("finding_exit = 256", "from 0 to 255")),
        ("memory_budget = 'much'", ("'much'", "256MB")),
        ("fail_on = ['old']", ("['old']", "regression")),
        ("coverage_floor = 101", ("101", "a percentage")),
        ("policy = {corruption = 'report'}", ("corruption always fails",)),
        ("policy = {precision = 'shout'}", ("precision='shout'", "fail, inconclusive, report")),
        ("policy = 3", ("policy = 3 is not allowed",)),
        ("out = ''", ("out = ''", "the path of a folder")),
        ("enabled = 'maybe'", ("'maybe'", "on or off")),
        ("budget =", ("cannot be read as TOML",)),
    ],
)
def test_a_bad_file_is_an_error_that_names_place_key_value_and_what_is_allowed(
    tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    file = project(tmp_path, text, "sdc_guard.toml")
    with pytest.raises(UsageError) as caught:
        resolve(environ={}, folder=tmp_path)
    for word in (str(file), *words):
        assert word in str(caught.value)


def test_bad_variables_and_overrides_are_errors_too(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="SDC_GUARD_BUGDET is no setting"):
        resolve(environ={"SDC_GUARD_BUGDET": "1"}, folder=tmp_path)
    with pytest.raises(UsageError, match="environment: SDC_GUARD_BUDGET = '2%' is not allowed"):
        resolve(environ={"SDC_GUARD_BUDGET": "2%"}, folder=tmp_path)
    with pytest.raises(UsageError, match="command line: --act-on = 'all' is not allowed"):
        resolve({"act_on": "all"}, environ={}, folder=tmp_path)
    with pytest.raises(UsageError, match="'nothing' is no setting"):
        resolve({"nothing": 1}, environ={}, folder=tmp_path)
    project(tmp_path, "[tool]\nsdc_guard = 3\n")
    with pytest.raises(UsageError, match="give a table"):
        resolve(environ={}, folder=tmp_path)


def test_what_a_sweep_calls_the_host_is_no_mistake_elsewhere() -> None:
    assert {HOST_VARIABLE} == words.NO_SETTINGS
    assert resolve(environ={HOST_VARIABLE: "n0"}).enabled


def test_a_path_that_no_system_takes_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "sdc_guard.toml").write_text('out = "a\\u0000b"')
    with pytest.raises(UsageError, match="give the path of a folder"):
        resolve(environ={}, folder=tmp_path)


@pytest.mark.parametrize("word", ["off", "0", "false", "no"])
def test_one_variable_switches_everything_off(tmp_path: Path, word: str) -> None:
    assert not resolve(environ={"SDC_GUARD": word}, folder=tmp_path).enabled


def test_settings_reach_another_process_as_they_are(tmp_path: Path) -> None:
    said = {
        "budget": 0.1 + 0.2, "witnesses": ["replay", "kernel"], "memory_budget": "2GiB",
        "policy": {"not tested": "inconclusive", "precision": "fail"}, "out": "some where",
        "fail_on": "new,coverage<40", "coverage_floor": "12.5%", "finding_exit": "none",
        "expiry": 30, "act_on": "corruption,precision", "baseline": "known.txt", "report": "html",
    }
    here = resolve(said, environ={}, folder=tmp_path)
    there = resolve(environ=variables_of(here), folder=tmp_path)
    for setting in SETTINGS:
        assert getattr(there, setting.name) == getattr(here, setting.name)
    assert here.memory_budget == 2 << 30
    assert (here.coverage_floor, here.finding_exit) == (12.5, 0)
    plain = resolve(environ={}, folder=tmp_path)
    assert resolve(environ=variables_of(plain), folder=tmp_path).for_guard() == plain.for_guard()


def test_the_words_are_those_of_the_guard_and_of_the_judgement() -> None:
    assert words.WITNESSES == limits.WITNESSES
    assert words.KERNELS == limits.KERNELS
    assert words.POLICIES == policy.POLICIES
    assert set(words.EVIDENCE) == set(bundle.LEVELS)
    assert (*words.FAIL_ON, "coverage<N") == FAIL_ON
    guard = Guard(**resolve(environ={}, folder=Path("/")).for_guard())
    assert guard.budget == 0.02


def test_every_default_is_allowed_and_every_setting_described() -> None:
    for setting in SETTINGS:
        assert setting.parse(text_of(setting.default)) == setting.default
        assert setting.help
        assert setting.allowed


def test_config_show_prints_every_value_with_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    project(tmp_path, "[tool.sdc_guard]\nseed = 7\n")
    shown = CliRunner().invoke(main, ["config", "show"], env={"SDC_GUARD_BUDGET": "0.3"}).output
    rows = {line.split()[0]: line for line in shown.splitlines()}
    assert set(rows) == {"setting", *(s.name for s in SETTINGS)}
    assert "environment SDC_GUARD_BUDGET" in rows["budget"]
    assert "0.3" in rows["budget"]
    assert "pyproject.toml [tool.sdc_guard]" in rows["seed"]
    told = json.loads(CliRunner().invoke(main, ["config", "show", "--json"]).output)
    assert told["settings"]["seed"]["value"] == "7"
    assert told["settings"]["out"]["source"] == "default"
    project(tmp_path, "[tool.sdc_guard]\nsed = 7\n")
    failed = CliRunner().invoke(main, ["config", "show"])
    assert failed.exit_code == 2
    assert "'sed' is no setting" in failed.output


def test_settings_and_the_launcher_import_no_torch() -> None:
    names = "sdc_guard.settings, sdc_guard.cli.config, sdc_guard.cli.run, sdc_guard.launch.parent"
    code = f"import {names}, sdc_guard.launch.judged, sys; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=300, check=False)
    assert done.returncode == 0
