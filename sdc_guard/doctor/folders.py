"""Whether evidence can be written, and whether old logs are full."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import psutil

from sdc_guard.doctor.line import FAIL, PASS, WARN, Line
from sdc_guard.evidence.eventlog import DEFAULT_MAX_BYTES

MIB = 1 << 20
ENOUGH_BYTES = 1 << 30
MAX_LOGS_LOOKED_AT = 10_000


def lines(out: Path) -> Iterator[Line]:
    """``out`` need not exist; the nearest folder above it that does is tried."""
    folder = out.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    yield writable(folder, out)
    yield space(folder)
    yield logs(out)


def writable(folder: Path, out: Path) -> Line:
    """Write, sync and rename, as a bundle is written."""
    try:
        handle, name = tempfile.mkstemp(prefix=".sdc-guard-doctor-", dir=folder)
        path, renamed = Path(name), Path(f"{name}.renamed")
        try:
            os.write(handle, b"x")
            os.fsync(handle)
            os.close(handle)
            path.rename(renamed)
        finally:
            path.unlink(missing_ok=True)
            renamed.unlink(missing_ok=True)
    except OSError as error:
        return Line(FAIL, "evidence", f"{folder} takes no files: {error}",
                    "give a folder that can be written: out=... or --out")
    return Line(PASS, "evidence", f"{out} can be written")


def space(folder: Path) -> Line:
    """For bundles (512 MiB of a run at most) and logs (64 MiB of a rank)."""
    free_bytes = psutil.disk_usage(str(folder)).free
    text = f"{free_bytes // MIB} MiB free"
    if free_bytes < DEFAULT_MAX_BYTES:
        return Line(FAIL, "disk", text, "free some: not even one rank's event log fits")
    if free_bytes < ENOUGH_BYTES:
        return Line(WARN, "disk", text, "free some: a run with many findings writes up to 576 MiB")
    return Line(PASS, "disk", text)


def logs(out: Path) -> Line:
    """A log at its limit keeps later events in memory only."""
    found = list(islice(out.rglob("events.rank*.jsonl"), MAX_LOGS_LOOKED_AT))
    full = [path for path in found if path.stat().st_size >= DEFAULT_MAX_BYTES * 0.9]
    if full:
        return Line(WARN, "logs", f"{len(full)} of {len(found)} event logs are nearly full, such "
                    f"as {full[0]}", "give each run a folder of its own, or remove old ones")
    return Line(PASS, "logs", f"{len(found)} event logs in {out}, none near its limit")
