"""What is left of a hunt that was killed: no process, and no half of a file."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sdc_guard.hunt.catalogue import MAX_READ_S, PREFIX, read_catalogue

PARENT = """
import os, sys, time
from sdc_guard.hunt.worker import _end_with
read, write = os.pipe()
parent = os.getpid()
for _ in range(2):
    if not os.fork():
        _end_with(parent)
        os.write(write, str(os.getpid()).encode() + b" ")
        time.sleep(600)
time.sleep(1)
print(os.read(read, 99).decode(), flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_idle_workers_end_with_a_parent_that_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    try:
        parent.kill()
        parent.wait()
        deadline_s = time.monotonic() + 60
        while any(map(_lives, workers)) and time.monotonic() < deadline_s:
            time.sleep(0.1)
        assert workers
        assert not any(map(_lives, workers))
    finally:
        parent.stdout.close()
        for pid in filter(_lives, workers):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def _lives(pid: int) -> bool:
    """Also false for one that has ended and that nobody has asked for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_half_written_catalogues_of_killed_hunts_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdc_guard.hunt.catalogue._written_by_child", lambda path: "not here")
    old, young = (tmp_path / f"{PREFIX}{name}.json" for name in ("old", "young"))
    other = tmp_path / "catalogue-of-another-torch.json"
    for path in (old, young, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (time.time() - 2 * MAX_READ_S,) * 2)
    assert read_catalogue(tmp_path) == (None, "not here")
    assert (old.exists(), young.exists(), other.exists()) == (False, True, True)
