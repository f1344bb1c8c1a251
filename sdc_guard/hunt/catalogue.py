"""Torch's own operator catalogue, read by a child process and kept on disk."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import torch

from sdc_guard.hunt.targets import is_known
from sdc_guard.hunt.templates import Template
from sdc_guard.records import Record

FORMAT = 6
"""Raised whenever what the child writes changes its meaning."""
MAX_READ_S = 1200.0
PREFIX = ".catalogue-"


class Catalogue(Record, frozen=True, kw_only=True):
    """``num_entries`` of torch's catalogue, the templates made of them, and by name of an entry why
    it has none."""

    version: str
    num_entries: int
    templates: tuple[Template, ...]
    skipped: dict[str, str]


def version_here() -> str:
    """What a catalogue on disk must have been made by."""
    return f"{FORMAT} of torch {torch.__version__}"


def read_catalogue(folder: Path) -> tuple[Catalogue | None, str]:
    """The catalogue of the installed torch, or None and why there is none; kept in a file of the
    folder, which is made again if it is damaged or of another version."""
    path = _file(folder)
    _sweep(folder)
    known = _decoded(path)
    if known is not None:
        return known, ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = _written_by_child(path)
    except OSError as error:
        return None, f"what is read of torch's catalogue cannot be kept: {error}"
    if reason:
        return None, reason
    made = _decoded(path)
    return made, "" if made is not None else "what was read of it is damaged"


def is_kept(folder: Path) -> bool:
    """Whether the folder has a file for this torch, so that none need be made."""
    return _file(folder).exists()


def _file(folder: Path) -> Path:
    return folder / f"catalogue-{FORMAT}-torch-{torch.__version__}.json"


def _decoded(path: Path) -> Catalogue | None:
    """What a file holds; None for one that is damaged, of another version, or that would have us
    call what no catalogue names."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Catalogue)
    except (OSError, msgspec.DecodeError):
        return None
    if found.version != version_here():
        return None
    return found if all(map(is_known, {t.trial.target for t in found.templates})) else None


def _sweep(folder: Path) -> None:
    """Remove what processes left that were ended while they read; none reads for longer than
    ``MAX_READ_S``."""
    for left in folder.glob(f"{PREFIX}*.json"):
        with contextlib.suppress(OSError):  # another hunt's, which may just remove it
            if time.time() - left.stat().st_mtime > MAX_READ_S:
                left.unlink()


def _written_by_child(path: Path) -> str:
    """Why it could not be written; empty if it was."""
    handle, made = tempfile.mkstemp(dir=path.parent, prefix=PREFIX, suffix=".json")
    os.close(handle)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "sdc_guard.hunt.catalogue_child", made],
            capture_output=True, text=True, timeout=MAX_READ_S, check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)})
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return f"torch's catalogue cannot be read: {last[:200]}"
        os.replace(made, path)
        return ""
    except subprocess.TimeoutExpired:
        return f"torch's catalogue was not read within {MAX_READ_S:.0f} s"
    finally:
        Path(made).unlink(missing_ok=True)
