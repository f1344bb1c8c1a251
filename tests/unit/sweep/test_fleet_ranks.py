"""The sweep under a launcher: local processes as hosts, one corrupt, one killed, one late."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sdc_guard.document.reading import read_document_file
from sdc_guard.document.schema import Report

AS_HOST = Path(__file__).with_name("as_host.py")
ROOT = AS_HOST.parents[3]
LIMIT_S = 120


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment(folder: Path, **more: str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1",
            "XDG_STATE_HOME": str(folder / "state"), **more}


def ranks(
    folder: Path, which: tuple[int, ...], num: int, *arguments: str, **more: str
) -> dict[int, tuple[int, str, str]]:
    """Exit code, stdout and stderr of each of the ranks that are started, of ``num``."""
    done = subprocess.run(
        [sys.executable, str(AS_HOST), "sweep", "--out", str(folder), *arguments], cwd=ROOT,
        capture_output=True, text=True, timeout=LIMIT_S, check=False,
        env=environment(folder, WORLD_SIZE=str(num), MASTER_PORT=str(free_port()),
                        MASTER_ADDR="127.0.0.1", TEST_LOGS=str(folder),
                        TEST_RANKS=",".join(map(str, which)), **more))
    assert not done.returncode, done.stderr
    codes = dict(zip(which, json.loads(done.stdout), strict=True))
    return {rank: (code, (folder / f"rank-{rank}.out").read_text(),
                   (folder / f"rank-{rank}.err").read_text()) for rank, code in codes.items()}


def fleet(folder: Path) -> Report:
    report = read_document_file(folder / "fleet.json")
    assert report.fleet is not None
    return report


def test_the_host_that_is_outvoted_fails_and_one_that_never_came_is_missing(
    tmp_path: Path,
) -> None:
    found = ranks(tmp_path, (0, 1, 2), 4, "--wait-s", "3", TEST_MADE="1",
                  TEST_WRONG_HOST="node-2")
    assert [code for code, _, _ in found.values()] == [1, 0, 1], found
    report = fleet(tmp_path)
    assert report.fleet is not None
    assert report.fleet.hosts == ("node-0", "node-1", "node-2")
    assert report.fleet.missing == ("unknown host, rank 3",)
    assert {e.unit.partition(",")[0] for e in report.findings} == {"node-2"}
    assert {e.finding.witness for e in report.findings} == {"peer"}
    own = read_document_file(tmp_path / "node-2-rank-2" / "sweep.json")
    assert own.judgement is not None
    assert own.judgement.exit_code == 1
    assert "node-2" in found[0][1]
    assert not found[1][1]


def test_no_rank_0_keeps_nobody_waiting_and_is_told(tmp_path: Path) -> None:
    code, _, error = ranks(tmp_path, (1,), 2, "--wait-s", "1", TEST_MADE="1")[1]
    assert code == 0
    assert "did not meet" in error
    assert (tmp_path / "node-1-rank-1" / "sweep.json").exists()


def test_a_launcher_that_says_no_place_leaves_a_sweep_of_one_host(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(AS_HOST), "sweep", "--out", str(tmp_path)], text=True, timeout=LIMIT_S,
        capture_output=True, cwd=ROOT, check=False, env=environment(
            tmp_path, RANK="0", WORLD_SIZE="2", MASTER_ADDR="", TEST_MADE="1"))
    assert done.returncode == 0
    assert "no rendezvous" in done.stderr
    assert (tmp_path / "sweep.json").exists()


@pytest.mark.slow
def test_a_host_that_is_killed_while_it_sweeps_is_missing(tmp_path: Path) -> None:
    found = ranks(tmp_path, (0, 1, 2), 3, "--seconds", "20", "--tests", "exact_product",
                  "--wait-s", "20", TEST_KILLED_HOST="node-1")
    assert found[1][0] == -9, found
    assert found[0][0] == 3, found
    report = fleet(tmp_path)
    assert report.fleet is not None
    assert report.fleet.missing == ("node-1, rank 1",)
    assert report.fleet.hosts == ("node-0", "node-2")
    assert any(c.word == "missing" and "at the start" in c.reason for c in report.cells)


@pytest.mark.slow
def test_torchrun(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", "3",
         "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", str(AS_HOST),
         "sweep", "--seconds", "20", "--tests", "exact_product", "--wait-s", "30",
         "--out", str(tmp_path)],
        cwd=ROOT, env=environment(tmp_path, TEST_WRONG_HOST="node-1"), timeout=LIMIT_S,
        capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    report = fleet(tmp_path)
    assert report.fleet is not None
    assert not report.fleet.missing, done.stderr
    assert {e.unit.partition(",")[0] for e in report.findings} == {"node-1"}
    assert report.sweep is not None
    assert report.sweep.checks
