"""The error file of torch's elastic launcher, from which it takes its table of root causes."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from sdc_guard.launch.failing import Failure

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"


def write_launcher_error(failure: Failure) -> None:
    """Tell the launcher, if there is one, of a finding as this process's error.

    The time is that of the finding, so that it is the first failure, before whatever it led to.  An
    error that the script has written itself (by ``record``) is kept below ours.
    """
    name = os.environ.get(ERROR_FILE)
    if not name:
        return
    path = Path(name)
    text = failure.message
    if before := _text_of(path):
        text = f"{text}\nand then the script ended in:\n{before}"
    error = {"message": {"message": text, "extraInfo": {
        "py_callstack": text, "timestamp": str(int(failure.time_s))}}}
    with contextlib.suppress(OSError):
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        partial.write_text(json.dumps(error), encoding="utf-8")
        partial.replace(path)


def _text_of(path: Path) -> str:
    """The error that a file holds; empty where there is none."""
    try:
        message: Any = json.loads(path.read_text(encoding="utf-8"))["message"]
        if isinstance(message, dict):
            return str(message["extraInfo"]["py_callstack"])
        return str(message)
    except (OSError, ValueError, KeyError, TypeError):
        return ""
