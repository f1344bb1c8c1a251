"""The log of a sweep: one JSON line for each event, flushed one by one."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from sdc_guard.plain_json import dumps


class EventFile:
    """Appends to ``path``.  When it cannot be written any more (a full disk), ``problem`` says so,
    and the sweep goes on.

    Raises:
        OSError: if it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._started_s = time.monotonic()
        self.problem = ""

    def __call__(self, kind: str, body: dict[str, Any]) -> None:
        """One line: ``kind``, seconds since the file was opened, and the body."""
        if self.problem:
            return
        line = dumps({"kind": kind, "time_s": round(time.monotonic() - self._started_s, 3),
                      **body}) + b"\n"
        try:
            os.write(self._descriptor, line)
        except OSError as error:
            self.problem = f"the log of events ends early: {error.strerror or error}"

    def __enter__(self) -> EventFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        os.close(self._descriptor)
