"""What the scripts of a node do about each way that a sweep can end; sdc-guard is a stand-in."""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path

import pytest

from tests.examples.fleet.machine import FLEET, Machine
from tests.unit.cli.test_ci_examples import check_commands

pytestmark = pytest.mark.skipif(
    not shutil.which("flock") or not shutil.which("timeout"),
    reason="flock or timeout is not installed")
FAIL = {"FAKE_END": "1", "FAKE_WORD": "FAIL"}
# How a sweep ended, what node_sweep.sh makes of it, and the beginning of its line.
ENDS = {
    "clean": ({"FAKE_END": "0", "FAKE_WORD": "PASS"}, 0, "PASS"),
    "a fault": (FAIL, 1, "FAIL: core 1 exact_product"),
    "a Python that cannot start": ({"FAKE_END": "1"}, 2, "UNKNOWN: exit code 1 without"),
    "wrong usage": ({"FAKE_END": "2"}, 2, "UNKNOWN: exit code 2"),
    "a suspicion": ({"FAKE_END": "3", "FAKE_WORD": "SUSPECT"}, 3, "SUSPECT: core 1 exact_product"),
    "stopped early": ({"FAKE_END": "3", "FAKE_WORD": "PASS"}, 3, "SUSPECT: stopped early"),
    "a test of ours": ({"FAKE_END": "4", "FAKE_WORD": "TOOL ERROR"}, 2, "UNKNOWN: a test of"),
    "nothing verified": ({"FAKE_END": "5", "FAKE_WORD": "SKIP"}, 2, "UNKNOWN: nothing was"),
    "no program": ({"SWEEP_PROGRAM": "/nowhere/" + "x" * 99}, 2, "UNKNOWN: /nowhere/"),
    "killed": ({"FAKE_END": "137"}, 2, "UNKNOWN: the sweep did not end in time"),
}
SOME = ["clean", "a fault", "a Python that cannot start", "a suspicion", "nothing verified"]


@pytest.mark.parametrize("end", ENDS)
def test_a_sweep_is_told_in_one_line_and_a_code(end: str, tmp_path: Path) -> None:
    variables, code, line = ENDS[end]
    machine = Machine(tmp_path)
    done = machine.run("node_sweep.sh", "40", **variables)
    assert (done.returncode, done.stdout.count("\n")) == (code, 1), done
    assert done.stdout.startswith(line)
    assert len(done.stdout.rstrip("\n").encode()) <= 80
    is_kept = "FAKE_WORD" in variables and end != "clean"
    assert len(list((machine.var / "kept").glob("*.json"))) == is_kept


def test_the_sweep_is_called_with_options_that_it_has_and_goes_on_where_it_stopped(
    tmp_path: Path,
) -> None:
    machine = Machine(tmp_path, SWEEP_ARGS="--tests F1,F2 --cores 0", RANK="1")
    assert machine.run("node_sweep.sh", "7").returncode == 0
    (call,) = machine.calls("sdc-guard")
    assert check_commands([["sdc-guard", *call]]) == ["sweep"]
    assert call[call.index("--seconds") + 1] == "7"
    assert call[call.index("--state") + 1] == str(machine.var / "state")
    assert call[call.index("--rendezvous") + 1] == "none"
    assert call[-4:] == ["--tests", "F1,F2", "--cores", "0"]
    assert "--fresh" not in call


def test_what_an_earlier_sweep_left_is_no_answer(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assert machine.run("node_sweep.sh", **FAIL).returncode == 1
    assert machine.run("node_sweep.sh", FAKE_END="1").returncode == 2


def test_a_sweep_that_hangs_is_ended_and_two_are_not_run_at_once(tmp_path: Path) -> None:
    machine = Machine(tmp_path, SWEEP_GRACE_S="0")
    done = machine.run("node_sweep.sh", "1", FAKE_LASTS_S="200")
    assert (done.returncode, done.stdout) == (2, "UNKNOWN: the sweep did not end in time\n")
    with (machine.var / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = machine.run("node_sweep.sh", "1")
    assert (done.returncode, done.stdout) == (2, "UNKNOWN: another sweep runs on this node\n")


@pytest.mark.parametrize("end", SOME)
def test_the_health_check_drains_for_a_fault_alone_and_logs_the_rest(
    end: str, tmp_path: Path
) -> None:
    variables, _, line = ENDS[end]
    machine = Machine(tmp_path)
    assert machine.run("health_check.sh", **variables).returncode == 0
    assert f"node-7: {line}" in machine.log("health_check.log")
    drained = [["update", "NodeName=node-7", "State=DRAIN",
                "Reason=sdc_guard FAIL: core 1 exact_product"]]
    assert machine.calls("scontrol") == (drained if end == "a fault" else [])


def test_a_node_that_cannot_be_drained_is_told(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assert machine.run("health_check.sh", FAKE_SCONTROL="access denied", **FAIL).returncode == 1
    assert "could not be drained: access denied" in machine.log("health_check.log")


@pytest.mark.parametrize(("jobs", "asked", "sweeps"), [
    ("", "no", 1), ("4711", "no", 0), ("down", "no", 0), ("4711", "yes", 1)])
def test_no_health_check_beside_a_job_unless_asked(
    jobs: str, asked: str, sweeps: int, tmp_path: Path
) -> None:
    machine = Machine(tmp_path, FAKE_JOBS=jobs, SWEEP_BESIDE_JOBS=asked)
    assert machine.run("health_check.sh").returncode == 0
    assert len(machine.calls("sdc-guard")) == sweeps
    assert ("not swept" in machine.log("health_check.log")) == (not sweeps)


def test_the_health_check_ends_before_it_is_killed() -> None:
    text = (FLEET / "slurm" / "health_check.sh").read_text() + (FLEET / "node_sweep.sh").read_text()
    seconds = int(text.partition("SWEEP_SECONDS:=")[2].partition("}")[0])
    grace = int(text.partition("SWEEP_GRACE_S:=")[2].partition("}")[0])
    killed_after = int(text.partition("--preserve-status -k ")[2].partition(" ")[0])
    assert seconds + grace + killed_after < 58


@pytest.mark.parametrize("end", SOME)
def test_the_prolog_drains_for_a_fault_alone_and_calls_no_slurm(end: str, tmp_path: Path) -> None:
    variables, _, line = ENDS[end]
    machine = Machine(tmp_path, SLURM_JOB_ID="12")
    assert machine.run("prolog.sh", **variables).returncode == (end == "a fault")
    assert f"job 12 on node-7: {line}" in machine.log("prolog.log")
    assert not machine.calls("scontrol") + machine.calls("squeue")


@pytest.mark.parametrize("end", ENDS)
def test_the_plugin_gives_the_codes_that_node_problem_detector_reads(
    end: str, tmp_path: Path
) -> None:
    variables, code, line = ENDS[end]
    machine = Machine(tmp_path)
    config = json.loads((FLEET / "node_problem_detector" / "sdc_guard.json").read_text())
    (rule,) = config["rules"]
    done = machine.run(Path(rule["path"]).name, *rule["args"], **variables)
    assert done.returncode == {0: 0, 1: 1}.get(code, 2)
    assert done.stdout.startswith(line)
    assert len(done.stdout.rstrip().encode()) <= config["pluginConfig"]["max_output_length"] == 80
    assert machine.calls("sdc-guard")[0][2] == "40" if end != "no program" else True


def test_a_fault_stays_until_somebody_removes_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    first = machine.run("sdc_guard.sh", **FAIL)
    later = machine.run("sdc_guard.sh", FAKE_WORD="PASS")
    assert (first.returncode, later.returncode) == (1, 1)
    assert first.stdout == later.stdout
    assert len(machine.calls("sdc-guard")) == 1
    (machine.var / "failed").unlink()
    assert machine.run("sdc_guard.sh", FAKE_WORD="PASS").returncode == 0


def test_the_monitor_s_file_is_one_that_node_problem_detector_takes() -> None:
    config = json.loads((FLEET / "node_problem_detector" / "sdc_guard.json").read_text())
    assert config["plugin"] == "custom"
    (rule,) = config["rules"]
    assert rule["type"] == "permanent"
    assert [rule["condition"]] == [c["type"] for c in config["conditions"]]
    assert {"reason", "message"} < set(config["conditions"][0])
    seconds = {text: int(text[:-1]) * {"s": 1, "h": 3600}[text[-1]] for text in (
        rule["timeout"], config["pluginConfig"]["timeout"],
        config["pluginConfig"]["invoke_interval"])}
    assert seconds[rule["timeout"]] <= seconds[config["pluginConfig"]["timeout"]]
    assert int(rule["args"][0]) + 8 + 4 < seconds[rule["timeout"]]
    assert Path(rule["path"]).name == "sdc_guard.sh"
