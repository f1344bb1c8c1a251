"""Logs of earlier sessions: put aside, so that the folder of reports holds the last session alone
and ``sdc-guard report runs/pytest`` reports on that one."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

from sdc_guard.pytest_plugin.options import LOGS

NUM_KEPT = 3
_LABEL = re.compile(r"\d{8}T\d{12}Z-(\d+)")
"""As sessions are named: the time when one began, to the microsecond, and its process."""


def put_aside(out: Path, label: str) -> None:
    """Move the logs of sessions that have ended to a folder beside ``out``, and remove all but the
    last :data:`NUM_KEPT` there.  What cannot be moved stays."""
    older = out.with_name(f"{out.name}.older")
    ended = [path for path in _sessions(out / LOGS) if path.name != label and not _runs(path)]
    with contextlib.suppress(OSError):
        for path in ended:
            older.mkdir(exist_ok=True)
            path.rename(older / path.name)
        for path in _sessions(older)[:-NUM_KEPT]:
            shutil.rmtree(path, ignore_errors=True)


def _sessions(folder: Path) -> list[Path]:
    """The first one first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _LABEL.fullmatch(path.name))


def _runs(session: Path) -> bool:
    """True while its process, or one that has its number now, is there."""
    found = _LABEL.fullmatch(session.name)
    pid = int(found.group(1)) if found is not None else 0
    if pid == os.getpid():
        return False  # an earlier session of this very process
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
