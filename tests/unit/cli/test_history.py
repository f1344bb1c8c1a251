"""``sdc-guard history`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sdc_guard.cli.main import main
from sdc_guard.sweep.history import FILE, History
from tests.made_reports import hostile_sweep_report, sweep_report


def history(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ("history", "--state", str(folder), *arguments))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    kept = History.open(tmp_path / FILE)
    kept.record(sweep_report())
    kept.close()
    return tmp_path


def test_units_that_were_wrong_come_first(state: Path) -> None:
    done = history(state)
    assert done.exit_code == 0
    heads = [line.partition(":")[0] for line in done.stdout.splitlines() if line[:1] == "n"]
    assert heads == ["node-7/core 1", "node-7/core 2", "node-7/core 0", "node-7/core 3",
                     "node-7/cuda"]
    assert "FAIL exact_product: aten.mm float32 33x65x17 NT, xor 0x00400000, wrong in 10 of 10" in (
        done.stdout)
    assert "SUSPECT high_entropy_repeat" in done.stdout
    assert "replay: sdc-guard sweep --cores 1" in done.stdout


def test_one_unit_and_json(state: Path) -> None:
    value = json.loads(history(state, "--unit", "core 2", "--since", "1d", "--json").stdout)
    (unit,) = value["units"]
    assert (unit["unit"], unit["host"], unit["num_sweeps"]) == ("core 2", "node-7", 1)
    assert unit["words"]["high_entropy_repeat"] == {"SUSPECT": 1}
    assert unit["failures"][0]["word"] == "SUSPECT"


def test_nothing_recorded_is_no_success(tmp_path: Path, state: Path) -> None:
    done = history(tmp_path / "none")
    assert (done.exit_code, done.stdout) == (5, "")
    assert "no sweep is recorded in" in done.stderr
    assert not (tmp_path / "none").exists()
    assert history(state, "--unit", "core 77").exit_code == 5
    assert history(state, "--since", "2999-01-01").exit_code == 5


@pytest.mark.parametrize("since", ["yesterday", "", "7x", "9999999d"])
def test_a_time_that_is_none_is_told(state: Path, since: str) -> None:
    done = history(state, "--since", since)
    assert done.exit_code == 2
    assert "--since" in done.stderr


def test_texts_from_outside_reach_no_terminal(tmp_path: Path) -> None:
    kept = History.open(tmp_path / FILE)
    kept.record(hostile_sweep_report())
    kept.close()
    done = history(tmp_path)
    assert done.exit_code == 0
    assert "\x1b" not in done.stdout
