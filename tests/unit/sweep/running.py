"""A sweep by the command line, in a process of its own, watched through the files that it keeps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from tests.sweep_power.trial import environment

LIMIT_S = 300.0
"""To end what hangs."""
LONG = ("--seconds", "600")
ONE_CORE = ("--cores", str(min(os.sched_getaffinity(0))))


class Started:
    """A sweep that goes on; files in ``folder``: ``out`` and ``state``.  ``fault`` as
    ``tests/sweep_power/launcher`` takes it, ``prefix`` a shell command that runs first, ``first`` a
    folder of modules that are found before all others."""

    def __init__(
        self, folder: Path, *arguments: str, fault: Mapping[str, Any] | None = None,
        variables: Mapping[str, str] | None = None, prefix: str = "", first: Path | None = None,
    ) -> None:
        self.out, self.state = folder / "out", folder / "state"
        command = [sys.executable, "-m", "sdc_guard", "sweep", "--out", str(self.out), "--state",
                   str(self.state), "--quiet", *arguments]
        if prefix:
            command = ["bash", "-c", f'{prefix}; exec "$@"', "bash", *command]
        variables_of = environment(fault, variables)
        if first is not None:
            variables_of["PYTHONPATH"] = f"{first}{os.pathsep}{variables_of['PYTHONPATH']}"
        self.process = subprocess.Popen(
            command, env=variables_of, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True)

    def events(self) -> list[dict[str, Any]]:
        """Every line is whole: it is written at once."""
        path = self.out / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def report(self) -> dict[str, Any]:
        """The document as it stands; empty if there is none yet."""
        path = self.out / "sweep.json"
        found: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
        return found

    @property
    def checks(self) -> int:
        sweep = self.report().get("sweep") or {}
        return int(sweep.get("checks", 0))

    def workers(self) -> list[psutil.Process]:
        """Those that are pinned to one core, by the process that they were forked from."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if len(process.cpu_affinity() or ()) == 1 and process.num_threads() >= 1:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def until(self, holds: Callable[[], object]) -> None:
        """Poll; the sweep must not end before."""
        end_s = time.monotonic() + LIMIT_S
        while not holds():
            assert time.monotonic() < end_s, f"it did not come to that: {self.events()[-3:]}"
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.05)

    def end(self, number: int) -> tuple[int, str]:
        """Exit code and standard error after a signal."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> tuple[int, str]:
        _, err = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, err

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
