"""Runs a finding's script in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

WRONG, RIGHT, FAILED, CRASH, HANG = "wrong", "right", "failed", "crash", "hang"


def run_script(script: str, python: str = sys.executable, timeout_s: float = 30.0) -> str:
    """What a fresh process says of a script: ``wrong``, ``right``, ``failed``, ``crash`` or
    ``hang``."""
    with tempfile.TemporaryDirectory(prefix="sdc_guard_script_") as folder:
        path = Path(folder) / "script.py"
        path.write_text(script, encoding="utf-8")
        return outcome_of(path, python, timeout_s)[0]


def outcome_of(path: Path, python: str, timeout_s: float) -> tuple[str, str]:
    """The word of one run of a script, and the last of what it printed.

    A script that an exception ended exits with 1 too, so the last word it printed decides.
    """
    if os.path.dirname(python):
        python = os.path.abspath(python)  # the script is run in its own folder
    try:
        done = subprocess.run([python, str(path)], capture_output=True, text=True, errors="replace",
                              timeout=timeout_s, check=False, cwd=path.parent)
    except subprocess.TimeoutExpired:
        return HANG, f"still running after {timeout_s:g} s"
    except OSError as error:
        return FAILED, str(error)
    said = (done.stdout.strip() or done.stderr.strip()).splitlines()
    last = said[-1] if said else ""
    if done.returncode < 0:
        return CRASH, f"signal {-done.returncode}"
    if done.returncode == 1 and last.endswith(" WRONG"):
        return WRONG, last
    if done.returncode == 0 and last.endswith(" RIGHT"):
        return RIGHT, last
    return FAILED, (done.stderr.strip().splitlines() or [last])[-1][:300]
