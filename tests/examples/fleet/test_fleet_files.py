"""The files for many nodes: what they call is what there is, and they end as the fleet does."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser

from tests.examples.fleet.machine import FLEET, NOTE, Machine
from tests.meta.test_docs import broken_links, unknown_commands
from tests.meta.tree import ROOT
from tests.unit.cli.test_ci_examples import check_commands

DOCUMENTS = (ROOT / "docs" / "fleet.md", FLEET / "README.md")
SCRIPTS = sorted([*FLEET.rglob("*.sh"), *FLEET.rglob("*.sbatch")])
# In place of the sweep's own: writes what it is told, where it is told.
SWEEPS = """
command=$1
while [ "$#" -gt 0 ]; do
  case $1 in --out) out=$2 ;; --out=*) out=${1#--out=} ;; esac
  shift
done
case $command in
  sweep)
    echo "$SDC_GUARD_HOST"
    [ -z "$FAKE_FLEET" ] || { mkdir -p "$out"; echo '{}' >"$out/fleet.json"; }
    mkdir -p "$out/here"; echo '{}' >"$out/sweep.json"; echo '{}' >"$out/here/sweep.json" ;;
  merge) echo '{}' >"$out"; exit "$FAKE_END" ;;
  report) exit "$FAKE_END" ;;
esac
"""


def load(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FLEET / "kubernetes" / name).read_text(encoding="utf-8")))


def fake(folder: Path, **variables: str) -> Machine:
    machine = Machine(folder, **variables)
    (folder / "bin" / "sdc-guard").write_text(NOTE.format(name="sdc-guard") + SWEEPS)
    return machine


def sbatch(machine: Machine, **variables: str) -> subprocess.CompletedProcess[str]:
    return machine.run(
        FLEET / "slurm" / "sweep.sbatch", SLURM_JOB_ID="77", SLURM_JOB_NODELIST="a1,a2,b1",
        FAKE_TASKS=variables.pop("FAKE_TASKS", "0 1 2"), OUT=str(machine.var / "out"), **variables)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_can_be_read_by_its_shell(path: Path) -> None:
    shell = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("#!")
    assert shell in ("/bin/sh", "/bin/bash")
    assert path.stat().st_mode & 0o111, "it is run as a program"
    subprocess.run([shell, "-n", str(path)], check=True, timeout=60)


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    subprocess.run(["shellcheck", *map(str, SCRIPTS)], check=True, timeout=300)


@pytest.mark.parametrize("end", [0, 1, 3])
def test_the_batch_job_reports_the_fleet_and_ends_as_it_does(end: int, tmp_path: Path) -> None:
    machine = fake(tmp_path, FAKE_FLEET="1", FAKE_END=str(end))
    assert sbatch(machine).returncode == end
    calls = machine.calls("sdc-guard")
    assert check_commands([["sdc-guard", *c] for c in calls]) == ["sweep"] * 3 + ["report"] * 2
    assert {c[c.index("--seed") + 1] for c in calls[:3]} == {"77"}
    assert (machine.var / "out" / "fleet.json").exists()
    assert (machine.var / "out" / "nodes" / "b1.txt").read_text() == "b1\n"
    (srun,) = machine.calls("srun")
    assert {"--kill-on-bad-exit=0", "--cpu-bind=none"} <= set(srun)


@pytest.mark.parametrize("rendezvous", ["none", ""])
def test_without_a_fleet_s_report_the_documents_are_merged(
    rendezvous: str, tmp_path: Path
) -> None:
    machine = fake(tmp_path, FAKE_END="1", RENDEZVOUS=rendezvous)
    assert sbatch(machine, FAKE_TASKS="0 2").returncode == 1
    calls = machine.calls("sdc-guard")
    assert check_commands([["sdc-guard", *c] for c in calls]) == [
        "sweep", "sweep", "merge", "report", "report"]
    merge = calls[2]
    assert merge[merge.index("--expect-hosts") + 1] == "a1,a2,b1"
    found = [word for word in merge if word.endswith("sweep.json")]
    assert len(found) == (2 if rendezvous else 1)
    assert {c[c.index("--out") + 1].endswith("nodes") for c in calls[:2]} == {not rendezvous}


def test_a_batch_job_in_which_nothing_was_written_verified_nothing(tmp_path: Path) -> None:
    done = sbatch(fake(tmp_path), FAKE_TASKS="")
    assert done.returncode == 5
    assert "no node wrote a document" in done.stderr


def test_hosts_are_swept_over_ssh_with_one_seed_and_those_that_do_not_answer_are_expected(
    tmp_path: Path,
) -> None:
    machine = fake(tmp_path, FAKE_END="3", FAKE_DOWN="n2")
    (tmp_path / "hosts").write_text("n1   # first\n\nn2\nn3\n")
    out = tmp_path / "out"
    done = machine.run(FLEET / "merge" / "gather.sh", str(tmp_path / "hosts"), "--2min",
                       "--tests", "F1,F2", OUT=str(out))
    assert done.returncode == 3, done.stderr
    calls = machine.calls("sdc-guard")
    assert sorted(check_commands([["sdc-guard", *c] for c in calls])) == ["merge", "sweep", "sweep"]
    assert len({c[c.index("--seed") + 1] for c in calls[:2]}) == 1
    assert all(c[-3:] == ["--2min", "--tests", "F1,F2"] for c in calls[:2])
    merge = calls[2]
    assert [Path(w).name for w in merge if "node-" in w] == ["node-n1.json", "node-n3.json"]
    assert merge[merge.index("--expect-hosts") + 1] == str(tmp_path / "hosts")
    assert "No route to host" in (out / "node-n2.log").read_text()
    assert (out / "node-n1.json").read_text() == "n1\n"


def test_torchrun_is_called_with_options_that_it_has(tmp_path: Path) -> None:
    machine = fake(tmp_path)
    (tmp_path / "bin" / "python3").write_text(NOTE.format(name="python"))
    (tmp_path / "bin" / "python3").chmod(0o755)
    machine.run(FLEET / "torchrun" / "sweep.sh", "4", "head:29500", "--2min", "--wait-s", "9",
                OUT=str(tmp_path / "out"), SWEEP_PYTHON="python3", SDC_GUARD_HOST="n1")
    run, alone = machine.calls("python")
    assert run[:2] == ["-m", "torch.distributed.run"]
    given = get_args_parser().parse_args(run[2:])
    assert (given.nnodes, given.nproc_per_node, given.max_restarts) == ("4", "1", 0)
    assert (given.rdzv_endpoint, given.rdzv_conf) == ("head:29500", "join_timeout=120")
    assert given.module
    assert given.training_script == "sdc_guard"
    assert alone[:2] == ["-m", "sdc_guard"], "a node that nobody met is swept all the same"
    assert "none" in alone
    assert check_commands([["sdc-guard", *given.training_script_args],
                           ["sdc-guard", *alone[2:]]]) == ["sweep", "sweep"]


@pytest.mark.parametrize("name", ["daemonset.yaml", "job.yaml"])
def test_a_pod_needs_no_privilege_and_may_use_all_cores(name: str) -> None:
    spec = load(name)[-1]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    context = container["securityContext"]
    assert context["privileged"] is False
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert "cpu" not in container["resources"].get("limits", {}), "a quota would throttle the sweep"
    mounted = {m["name"] for m in container["volumeMounts"]}
    assert mounted == {v["name"] for v in spec["volumes"]}
    (host,) = [e for e in container["env"] if e["name"] == "SDC_GUARD_HOST"]
    assert host["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName"


def pod(machine: Machine, name: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The container's command, with the host's folders in the machine's."""
    (container,) = load(name)[-1]["spec"]["template"]["spec"]["containers"]
    env = {e["name"]: e["value"] for e in container["env"] if "value" in e}
    script = container["args"][0].replace("/var/lib", str(machine.var)).replace(
        " /out", f" {machine.var}/out")
    return subprocess.run([*container["command"], script], env={
        **machine.variables, **env, **variables}, timeout=300, check=False, text=True,
        capture_output=True)


@pytest.mark.parametrize("end", ["0", "1", "5"])
def test_the_daemon_goes_on_whatever_a_sweep_finds(end: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path, FAKE_WORD="FAIL" if end == "1" else "PASS", FAKE_END=end)
    # The third pause ends the pod, as Kubernetes would.
    sleep = tmp_path / "bin" / "sleep"
    sleep.write_text('#!/bin/sh\necho >>"$CALLS.sleep"\n'
                     '[ "$(wc -l <"$CALLS.sleep")" -lt 3 ] || kill -TERM "$PPID"\n')
    sleep.chmod(0o755)
    assert pod(machine, "daemonset.yaml", SDC_GUARD_HOST="n1").returncode == 0
    calls = machine.calls("sdc-guard")
    assert check_commands([["sdc-guard", *c] for c in calls]) == ["sweep"] * 3
    metrics = machine.var / "node_exporter" / "sdc_guard.prom"
    assert calls[0][calls[0].index("--prom") + 1] == str(metrics)
    kept = machine.var / "sdc-guard" / "kept"
    assert bool(list(kept.glob(f"*-exit-{end}.json"))) == (end != "0")


def test_the_job_s_pods_are_ranks_that_know_where_to_meet(tmp_path: Path) -> None:
    service, job = load("job.yaml")
    spec, template = job["spec"], job["spec"]["template"]["spec"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert template["subdomain"] == service["metadata"]["name"]
    assert spec["completionMode"] == "Indexed"
    env = {e["name"]: e.get("value") for e in template["containers"][0]["env"]}
    assert spec["completions"] == spec["parallelism"] == int(env["WORLD_SIZE"])
    assert env["MASTER_ADDR"] == f"{job['metadata']['name']}-0.{template['subdomain']}"
    assert spec["backoffLimitPerIndex"] == 0
    assert template["restartPolicy"] == "Never"
    machine = Machine(tmp_path)
    stub = tmp_path / "bin" / "sdc-guard"
    stub.write_text(NOTE.format(name="sdc-guard") + 'echo "$RANK of $WORLD_SIZE"\n')
    done = pod(machine, "job.yaml", JOB_COMPLETION_INDEX="2")
    assert done.stdout == "2 of 4\n"
    assert check_commands([["sdc-guard", *c] for c in machine.calls("sdc-guard")]) == ["sweep"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_pages_name_commands_options_and_files_that_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not unknown_commands(text)
    assert not broken_links(path, text)
    blocks = "\n".join(re.findall(r"^```\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL))
    lines = re.findall(r"^\s*(sdc-guard .*)$", blocks, flags=re.MULTILINE)
    calls = [shlex.split(re.sub(r" {2,}.*", "", line), comments=True) for line in lines]
    assert len(check_commands(calls)) == len(lines)


def test_every_file_is_in_the_table() -> None:
    text = (FLEET / "README.md").read_text(encoding="utf-8")
    files = [p for p in FLEET.rglob("*") if p.is_file() and p.name != "README.md"]
    assert len(files) > 8
    assert not [p for p in files if f"]({p.relative_to(FLEET).as_posix()})" not in text]
