"""The fleet's scripts around real sweeps of this machine, with a faulty core or without."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from sdc_guard.document.reading import read_document_file
from sdc_guard.document.schema import Report
from tests.examples.fleet.machine import FLEET, LIMIT_S, Machine
from tests.sweep_power.trial import LAUNCHER, REPOSITORY
from tests.unit.sweep.test_fleet_ranks import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("flock") or not shutil.which("timeout"),
                       reason="flock or timeout is not installed")]
CORE = max(os.sched_getaffinity(0))
ONE_TEST = ("--tests", "exact_product", "--cores", str(CORE))
ARGS = {"SWEEP_SECONDS": "10", "SWEEP_GRACE_S": "60", "SWEEP_ARGS": " ".join(ONE_TEST)}
RUN = ("--seconds", "10", *ONE_TEST)


@pytest.fixture
def fault(tmp_path: Path) -> dict[str, Any]:
    """Every product on the last core is off by its lowest bit."""
    counts = tmp_path / "counts"
    counts.mkdir()
    return {"core": CORE, "ops": ["mm.default", "_int_mm.default", "bmm.default"],
            "kind": "low bit", "rate": 1.0, "seed": 1, "counts": str(counts)}


def fleet(path: Path) -> Report:
    report = read_document_file(path)
    assert report.fleet is not None
    return report


def blamed(report: Report) -> set[str]:
    return {entry.unit for entry in report.findings}


def test_a_core_that_is_wrong_drains_the_node_with_the_reason(
    tmp_path: Path, fault: dict[str, Any]
) -> None:
    machine = Machine(tmp_path, is_real=True, fault=fault, **ARGS)
    assert machine.run("health_check.sh").returncode == 0
    (call,) = machine.calls("scontrol")
    assert call[:3] == ["update", "NodeName=node-7", "State=DRAIN"]
    assert call[3] == f"Reason=sdc_guard FAIL: core {CORE} exact_product"
    (kept,) = (machine.var / "kept").glob("*-exit-1.json")
    assert read_document_file(kept).findings
    assert machine.run("prolog.sh").returncode == 1
    assert machine.run("sdc_guard.sh", "10").returncode == 1


def test_a_sound_node_is_left_alone(tmp_path: Path) -> None:
    machine = Machine(tmp_path, is_real=True, **ARGS)
    assert machine.run("health_check.sh").returncode == 0
    assert "node-7: PASS" in machine.log("health_check.log"), machine.log("health_check.log")
    assert not machine.calls("scontrol")
    assert machine.run("prolog.sh").returncode == 0
    assert "PASS" in machine.log("prolog.log")


def test_a_sweep_that_may_not_pin_drains_nothing_and_is_logged(tmp_path: Path) -> None:
    machine = Machine(tmp_path, is_real=True, SWEEP_POWER_NO_PINNING="1", **ARGS)
    assert machine.run("health_check.sh").returncode == 0
    assert "UNKNOWN: nothing was verified" in machine.log("health_check.log")
    assert not machine.calls("scontrol")
    assert machine.run("prolog.sh").returncode == 0
    done = machine.run("sdc_guard.sh", "10")
    assert (done.returncode, done.stdout) == (
        2, "UNKNOWN: nothing was verified (exit code 5)\n")


@pytest.mark.parametrize("rendezvous", ["", "none"])
def test_the_batch_job_finds_the_node_that_is_wrong_and_the_one_that_is_missing(
    rendezvous: str, tmp_path: Path, fault: dict[str, Any]
) -> None:
    machine = Machine(
        tmp_path, is_real=True, fault=fault, SLURM_JOB_ID="77", SLURM_JOB_NODELIST="n0,n1,n2",
        FAKE_TASKS="0 1", FAKE_FAULTY_TASK="1", BUDGET="--quick", WAIT_S="40",
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()), RENDEZVOUS=rendezvous,
        OUT=str(tmp_path / "shared"))
    done = machine.run(FLEET / "slurm" / "sweep.sbatch")
    assert done.returncode == 1, done
    report = fleet(tmp_path / "shared" / "fleet.json")
    assert report.fleet is not None
    assert report.fleet.hosts == ("n0", "n1")
    assert len(report.fleet.missing) == 1
    assert report.fleet.missing[0] in ("n2", "unknown host, rank 2")
    assert blamed(report) <= {f"n1, core {CORE}", "n1, all cores"}
    assert {e.finding.attribution.place for e in report.findings} == {f"n1, core {CORE}"}
    assert f"n1, core {CORE}" in done.stdout
    assert (tmp_path / "shared" / "fleet.html").stat().st_size > 10_000


def test_hosts_over_ssh_are_one_fleet(tmp_path: Path, fault: dict[str, Any]) -> None:
    machine = Machine(tmp_path, is_real=True, fault=fault, FAKE_FAULTY="n1", FAKE_DOWN="n2")
    (tmp_path / "hosts").write_text("n0\nn1\nn2\n")
    done = machine.run(FLEET / "merge" / "gather.sh", str(tmp_path / "hosts"), *RUN,
                       OUT=str(tmp_path / "out"))
    assert done.returncode == 1, done
    report = fleet(tmp_path / "out" / "fleet.json")
    assert report.fleet is not None
    assert (report.fleet.hosts, report.fleet.missing) == (("n0", "n1"), ("n2",))
    assert blamed(report) == {f"n1, core {CORE}"}


class Started:
    """Scripts that run at once, as on several hosts."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, machine: Machine, command: list[str], **variables: str) -> None:
        self._processes.append(self._stack.enter_context(subprocess.Popen(
            command, env={**machine.variables, **variables}, cwd=machine.var, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)))

    def ended(self) -> list[tuple[int, str, str]]:
        """Exit code, stdout and stderr of each."""
        return [(p.returncode, *texts) for p, texts in
                [(p, p.communicate(timeout=LIMIT_S)) for p in self._processes]]

    def close(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
        self._stack.close()


@pytest.fixture
def started() -> Iterator[Started]:
    found = Started()
    yield found
    found.close()


def torchrun(machine: Machine, port: int, *arguments: str) -> list[str]:
    return [str(FLEET / "torchrun" / "sweep.sh"), "2", f"127.0.0.1:{port}", *RUN, *arguments]


def test_two_hosts_under_torchrun(
    tmp_path: Path, fault: dict[str, Any], started: Started
) -> None:
    machine = Machine(tmp_path, is_real=True, fault=fault, OUT=str(tmp_path / "out"),
                      SWEEP_PYTHON=sys.executable)
    port = free_port()
    sound = {"SWEEP_POWER_FAULT": "", "SDC_GUARD_HOST": "n0"}
    started.start(machine, torchrun(machine, port), **sound)
    started.start(machine, torchrun(machine, port), SDC_GUARD_HOST="n1")
    ends = started.ended()
    assert [code for code, _, _ in ends] == [1, 1], ends
    report = fleet(tmp_path / "out" / "fleet.json")
    assert report.fleet is not None
    assert (report.fleet.hosts, report.fleet.missing) == (("n0", "n1"), ())
    assert blamed(report) == {f"n1, core {CORE}"}


def test_under_torchrun_a_host_that_nobody_joins_is_swept_alone(
    tmp_path: Path, started: Started
) -> None:
    machine = Machine(tmp_path, is_real=True, OUT=str(tmp_path / "out"), JOIN_S="2",
                      SWEEP_PYTHON=sys.executable, SDC_GUARD_HOST="n0")
    started.start(machine, torchrun(machine, free_port()))
    ((code, _, err),) = started.ended()
    assert code == 0, err
    assert "n0 is swept alone" in err
    assert (tmp_path / "out" / "n0-alone" / "sweep.json").exists()


def test_two_pods_of_the_job_are_one_fleet(
    tmp_path: Path, fault: dict[str, Any], started: Started
) -> None:
    machine = Machine(tmp_path, is_real=True, fault=fault)
    job = list(yaml.safe_load_all((FLEET / "kubernetes" / "job.yaml").read_text()))[-1]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    out = tmp_path / "out"
    script = container["args"][0].replace(" /out", f" {out}").replace(
        "--2min", " ".join(RUN)).replace("--wait-s 300", "--wait-s 30")
    shared = {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for number, text in enumerate(("", json.dumps(fault))):
        started.start(machine, [*container["command"], script], **shared, SWEEP_POWER_FAULT=text,
                      JOB_COMPLETION_INDEX=str(number), SDC_GUARD_HOST=f"n{number}")
    ends = started.ended()
    assert [code for code, _, _ in ends] == [1, 1], ends
    report = fleet(out / "fleet.json")
    assert report.fleet is not None
    assert report.fleet.missing == ("unknown host, rank 2",)
    assert blamed(report) == {f"n1, core {CORE}"}


# Two network namespaces, joined by a pair of virtual interfaces: the hosts reach each other there
# alone.  The first argument is what host n0 runs, the second what n1 runs.
TWO_NETWORKS = """
set -e
ip link set lo up
unshare -n sleep 600 & other=$!
trap 'kill "$other"' EXIT
until [ "$(readlink "/proc/$other/ns/net")" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.1; done
ip link add name sdca type veth peer name sdcb
ip link set sdcb netns "$other"
ip addr add 10.77.0.1/24 dev sdca; ip link set sdca up
nsenter -t "$other" -n sh -c 'ip link set lo up; ip addr add 10.77.0.2/24 dev sdcb
  ip link set sdcb up'
nsenter -t "$other" -n bash -c "$2" & second=$!
set +e
bash -c "$1"; first=$?
wait "$second"; echo "codes $first $?"
"""


def may_make_networks() -> bool:
    """Whether this process may join two network namespaces."""
    if not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        return False
    done = subprocess.run(
        ["unshare", "-n", "bash", "-c", TWO_NETWORKS, "bash", "true", "true"], text=True,
        capture_output=True, timeout=60, check=False)
    return "codes 0 0" in done.stdout


@pytest.mark.parametrize("is_cut", [False, True])
def test_two_hosts_on_a_network_of_their_own(
    is_cut: bool, tmp_path: Path, fault: dict[str, Any]
) -> None:
    if not may_make_networks():
        pytest.skip("network namespaces are not permitted")
    python = f"{LAUNCHER}:{REPOSITORY}:{REPOSITORY / 'kernels'}"
    command = (f"WORLD_SIZE=2 MASTER_ADDR=10.77.0.1 MASTER_PORT=29400 PYTHONPATH={python} "
               f"{sys.executable} -m sdc_guard sweep {' '.join(RUN)} --quiet --wait-s 15 "
               f"--state {tmp_path}/state --out {tmp_path}/out")
    first = f"RANK=0 SDC_GUARD_HOST=n0 {command}"
    second = f"RANK=1 SDC_GUARD_HOST=n1 SWEEP_POWER_FAULT='{json.dumps(fault)}' {command}"
    if is_cut:  # the cable of n1 is pulled before it can show anything
        second = f"ip link set sdcb down; {second}"
    done = subprocess.run(
        ["unshare", "-n", "bash", "-c", TWO_NETWORKS, "bash", first, second], text=True,
        capture_output=True, timeout=LIMIT_S, check=False)
    # n1 knows of its own fault either way; n0 knows of it only where it can be told.
    assert f"codes {3 if is_cut else 1} 1" in done.stdout, done
    report = fleet(tmp_path / "out" / "fleet.json")
    assert report.fleet is not None
    assert report.fleet.hosts == (("n0",) if is_cut else ("n0", "n1"))
    assert len(report.fleet.missing) == is_cut
    assert blamed(report) == (set() if is_cut else {f"n1, core {CORE}"})
