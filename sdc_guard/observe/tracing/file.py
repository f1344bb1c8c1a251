"""The file of a trace: whole lines, appended one by one, never more than its limit."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sys
import weakref
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import torch

from sdc_guard import ranks
from sdc_guard.observe.tracing.records import SCHEMA, Header, Left, Line, encode_line

MAX_BYTES = 64 << 20
RESERVED_BYTES = 64 << 10
"""Kept free for the last line, which says what is left out."""

_log = logging.getLogger("sdc_guard")


class TraceFile:
    """Opened at the first line; each line is one ``os.write`` to a descriptor with ``O_APPEND``.

    A file has one writer: each rank adds ``.rank1`` to the name, and a process that finds the file
    in use its ``.pid4711``.  A failure of the disk is never raised: it is logged once, and counted
    in ``left_out``.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self.path = path
        self.left_out: Counter[str] = Counter()
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._fd = -1
        self._has_failed = False

    def write(self, line: Line, *, reserved: int = RESERVED_BYTES) -> bool:
        """Append a line; False if it did not get in."""
        try:
            if self._fd < 0 and not self._has_failed:
                self._open()
            if self._has_failed:
                return False
            data = encode_line(line)
            if self._num_bytes + len(data) > max(self._max_bytes - reserved, self._max_bytes // 2):
                return False
            written = os.write(self._fd, data)
            self._num_bytes += written
            if written < len(data):
                raise OSError(f"{written} of {len(data)} bytes were written")
        except (OSError, ValueError) as error:
            self._has_failed = True
            _log.warning("sdc_guard: the trace %s cannot be written (%s); training goes on",
                         self.path, error)
            return False
        return True

    def write_left(self) -> None:
        """Say what is not in the trace."""
        if self.left_out:
            self.write(Left(out=dict(sorted(self.left_out.items())[:200])), reserved=0)

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        path = self.path
        if ranks.world_size() > 1:
            path = path.with_name(f"{path.stem}.rank{ranks.rank()}{path.suffix}")
        try:
            self._fd = _locked(path)
        except BlockingIOError:
            path = path.with_name(f"{path.stem}.pid{os.getpid()}{path.suffix}")
            self._fd = _locked(path)
        self.path = path
        weakref.finalize(self, os.close, self._fd).atexit = False
        self._num_bytes = os.fstat(self._fd).st_size
        with contextlib.suppress(OSError):  # a device has no last byte
            if self._num_bytes and os.pread(self._fd, 1, self._num_bytes - 1) != b"\n":
                os.write(self._fd, b"\n")  # the line of a process that was killed ends here
        self._num_bytes += os.write(self._fd, encode_line(_header()))


def _locked(path: Path) -> int:
    """A descriptor that no other process has.

    Raises:
        BlockingIOError: if one has it.
        OSError: if the file cannot be opened.
    """
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def _header() -> Header:
    return Header(
        schema=SCHEMA, torch=str(torch.__version__), threads=torch.get_num_threads(),
        deterministic=torch.are_deterministic_algorithms_enabled(),
        mkldnn=bool(torch.backends.mkldnn.enabled), matmul_precision=_matmul_precision(),
        rank=ranks.rank(), pid=os.getpid(), script=sys.argv[0] if sys.argv else "",
        start_utc=datetime.now(UTC).isoformat())


def _matmul_precision() -> str:
    try:
        return str(torch.get_float32_matmul_precision())
    except RuntimeError:  # set through torch's other interface, and then not to be read here
        return ""
