"""``sdc-guard run`` as a user starts it, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.meta.tree import ROOT

CLI = (sys.executable, "-c", "from sdc_guard.cli.main import main; main()")
RUN = (*CLI, "run", "--report", "json")


def environment(**more: str) -> dict[str, str]:
    """This process's, with the checkout on Python's path and one thread."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")]),
            "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "0", **more}


def run(
    command: Sequence[str], folder: Path, *, text: str = "", env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=environment() if env is None else dict(env), input=text,
        capture_output=True, text=True, timeout=300, check=False)


def script(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return name
