"""Earlier sessions are put aside, a running one is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sdc_guard.pytest_plugin.earlier import NUM_KEPT, put_aside


def ended_pid() -> int:
    done = subprocess.Popen([sys.executable, "-S", "-c", ""])
    done.wait()
    return done.pid


def made(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "events.rank0.jsonl").write_text(name, encoding="utf-8")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def test_sessions_that_have_ended_are_put_aside_and_the_last_are_kept(tmp_path: Path) -> None:
    pid = ended_pid()
    out, older = tmp_path / "pytest", tmp_path / "pytest.older"
    sessions = [f"2026112{i}T120000000000Z-{pid}" for i in range(6)]
    made(out / "logs", *sessions)
    put_aside(out, "20261130T120000000000Z-1")
    assert names(out / "logs") == set()
    assert names(older) == set(sessions[-NUM_KEPT:])
    last = older / sessions[-1] / "events.rank0.jsonl"
    assert last.read_text(encoding="utf-8") == sessions[-1]


def test_what_runs_what_is_its_own_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    own, running = f"20261123T120001000000Z-{os.getpid()}", f"20261123T120000000000Z-{os.getppid()}"
    made(tmp_path / "logs", own, running, "mine")
    put_aside(tmp_path, own)
    assert names(tmp_path / "logs") == {own, running, "mine"}
    put_aside(tmp_path, "another")
    assert names(tmp_path / "logs") == {running, "mine"}


def test_a_folder_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    put_aside(tmp_path / "none", "x")
    assert names(tmp_path) == set()
