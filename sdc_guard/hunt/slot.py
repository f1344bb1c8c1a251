"""The trial under way, where another process finds it when this one is gone."""

from __future__ import annotations

import os
import struct
from pathlib import Path

_HEAD = struct.Struct("<QQQ")
_BEATS = struct.Struct("<Q")


class Slot:
    """A small file that a worker writes before each trial and its parent reads.

    One write holds a count, a length and the trial, so it survives the end of the process at any
    moment.  The count grows with every trial, the beats also while one is judged: both standing
    still tell of a hang.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._count = self._beats = 0

    def put(self, trial: bytes) -> None:
        """Say what is about to be made; empty for nothing."""
        self._count += 1
        self._beats += 1
        os.pwrite(self._file, _HEAD.pack(self._beats, self._count, len(trial)) + trial, 0)

    def beat(self) -> None:
        """Say that something has come to its end."""
        self._beats += 1
        os.pwrite(self._file, _BEATS.pack(self._beats), 0)

    def count(self) -> int:
        """How often something was put."""
        return self._head()[1]

    def beats(self) -> int:
        """How often something was put, or came to its end."""
        return self._head()[0]

    def trial(self) -> str:
        """What was put last."""
        length = self._head()[2]
        return os.pread(self._file, length, _HEAD.size).decode("utf-8", "replace")

    def _head(self) -> tuple[int, int, int]:
        head = os.pread(self._file, _HEAD.size, 0)
        beats, count, length = _HEAD.unpack(head) if len(head) == _HEAD.size else (0, 0, 0)
        return beats, count, length

    def close(self) -> None:
        os.close(self._file)
