"""The event log: append-only JSON lines, one file per rank.

Each event is one ``os.write`` of one whole line to a descriptor opened with ``O_APPEND`` and no
buffer of our own, so that ``kill -9`` loses at most the event being written.  A failure of the
disk is never raised: it is counted in :attr:`EventLog.failures`, reported once by the logger
``sdc_guard``, and the events stay in memory.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from sdc_guard.plain_json import dumps, loads
from sdc_guard.records import SCHEMA_VERSION

DEFAULT_MAX_BYTES = 64 << 20
MAX_EVENTS_IN_MEMORY = 10_000
RESERVED_BYTES = 64 << 10
"""Kept free below ``max_bytes`` for the summary and the notice that events were dropped."""

_logger = logging.getLogger("sdc_guard")


@dataclass
class Failures:
    """Writes that the disk refused: how many, and what the last one said."""

    count: int = 0
    last: str = ""


class EventLog:
    """Events of one rank: in memory (the last 10,000) and, given a directory, on disk.

    The file ``events.rank{rank}.jsonl`` starts with a record of kind ``header``; a second run
    into the same directory appends its own header.  ``seq`` counts from 0 in each run, ``time_s``
    is seconds since the header.  Beyond ``max_bytes`` (of the file) events are kept in memory
    only and counted in ``dropped``; the kind ``summary`` is still written, with that count.
    """

    def __init__(
        self,
        directory: Path | None,
        rank: int,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        seed: int | None = None,
        budget: float | str | None = None,
        environment: dict[str, Any] | None = None,
    ) -> None:
        self.path = None if directory is None else directory / f"events.rank{rank}.jsonl"
        self.failures = Failures()
        self.dropped = 0
        self.events: deque[dict[str, Any]] = deque(maxlen=MAX_EVENTS_IN_MEMORY)
        self.labels: dict[str, str] = {}
        """Written into every event from now on: the test at hand, for example."""
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._seq = 0
        self._torn = False
        self._start_s = monotonic()
        self._lock = threading.Lock()
        self._fd = -1
        if directory is not None:
            self._open(directory)
        self.write(
            "header",
            schema_version=SCHEMA_VERSION,
            start_utc=datetime.now(UTC).isoformat(),
            pid=os.getpid(),
            rank=rank,
            cwd=_or_empty(os.getcwd),
            script=sys.argv[0] if sys.argv else "",
            seed=seed,
            budget=budget,
            environment=environment if environment is not None else {},
        )

    def _open(self, directory: Path) -> None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._fd = os.open(str(self.path), flags, 0o644)
            self._num_bytes = os.fstat(self._fd).st_size
            with contextlib.suppress(OSError):  # a device such as /dev/full has no last byte
                self._torn = (self._num_bytes > 0
                              and os.pread(self._fd, 1, self._num_bytes - 1) != b"\n")
        except (OSError, ValueError) as error:
            self._failed(error)

    def write(self, kind: str, **fields: Any) -> None:
        """Append one event; never raises on account of the disk or of a field's type.

        Fields may be records, floats of any value, enums, tuples; what JSON has no word for is
        written as its ``repr``.
        """
        with self._lock:
            event = {"seq": self._seq, "time_s": round(monotonic() - self._start_s, 6),
                     "kind": kind, **self.labels, **fields}
            self._seq += 1
            if kind == "summary":
                event["events_dropped"] = self.dropped
                event["write_failures"] = self.failures.count
            try:
                line = dumps(event) + b"\n"
            except Exception as error:  # a field whose repr raises must not stop training
                event = {"seq": event["seq"], "time_s": event["time_s"], "kind": kind,
                         "unwritable": f"{type(error).__name__}"}
                line = dumps(event) + b"\n"
            self.events.append(event)
            if self._fd >= 0:
                self._append(kind, line)

    def _append(self, kind: str, line: bytes) -> None:
        reserve = 0 if kind in ("summary", "header") else RESERVED_BYTES
        limit = max(self._max_bytes - reserve, self._max_bytes // 2)
        if self._num_bytes + len(line) > (limit if reserve else self._max_bytes):
            self.dropped += 1
            if self.dropped > 1:
                return
            line = dumps({"kind": "truncated", "max_bytes": self._max_bytes,
                          "reason": "later events are in memory only"}) + b"\n"
        data = b"\n" + line if self._torn else line
        try:
            written = os.write(self._fd, data)
        except OSError as error:
            self._failed(error)
            return
        self._num_bytes += written
        self._torn = written < len(data)
        if self._torn:
            self._failed(OSError(f"{written} of {len(data)} bytes were written"))

    def _failed(self, error: Exception) -> None:
        self.failures.count += 1
        self.failures.last = f"{self.path}: {error}"
        if self.failures.count == 1:
            _logger.warning(
                "events cannot be written to %s (%s); they are kept in memory, training goes on",
                self.path, error,
            )

    def close(self) -> None:
        """Close the file; later events are kept in memory only."""
        with self._lock:
            if self._fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(self._fd)
                self._fd = -1


def _or_empty(read: Callable[[], str]) -> str:
    """An empty text where the system does not say (the working folder was removed)."""
    try:
        return read()
    except OSError:
        return ""


def read_events(path: Path | str) -> Iterator[dict[str, Any]]:
    """Every event of a log, in order.

    A line that is not a whole JSON object (the process was killed while it wrote, the disk was
    full, or it holds more than a line of ours can) comes out as ``{"kind": "torn", "line": number,
    "text": its first 200 characters}``.

    Raises:
        OSError: if the file cannot be opened.
    """
    with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            try:
                event = loads(line) if line.endswith("\n") else None
            except ValueError:
                event = None
            if isinstance(event, dict):
                yield event
            elif line.strip():
                yield {"kind": "torn", "line": number, "text": line[:200].rstrip("\n")}
