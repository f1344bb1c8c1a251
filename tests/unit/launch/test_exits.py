"""The exit code is set where the C library has no call for it, and nothing open is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.meta.tree import ROOT

LEAVING = """
import atexit, ctypes, sys
from sdc_guard.launch.exits import exit_with

def no_library(name):
    raise OSError("no such call")

ctypes.CDLL = no_library
atexit.register(exit_with, 86)
kept = open(sys.argv[1], "w")
kept.write("written late")
closed = open(sys.argv[2], "w")
closed.close()
print("said late", end="")
"""


def leave(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LEAVING, *arguments], capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)


def test_what_is_open_is_written_before_the_process_leaves(tmp_path: Path) -> None:
    done = leave(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (done.returncode, done.stdout, done.stderr) == (86, "said late", "")
    assert (tmp_path / "a").read_text() == "written late"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full device on this system")
def test_a_file_that_cannot_be_written_is_told_about(tmp_path: Path) -> None:
    done = leave("/dev/full", str(tmp_path / "b"))
    assert done.returncode == 86
    assert "could not be flushed at the end" in done.stderr
