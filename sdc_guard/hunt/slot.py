"""The trial under way, where another process finds it when this one is gone."""

from __future__ import annotations

import os
import struct
from pathlib import Path

_HEAD = struct.Struct("<QQ")


class Slot:
    """A small file that a worker writes before each trial and its parent reads.

    One write holds a count, a length and the trial, so it survives the end of the process at any
    moment.  The count grows with every write: one that stands still tells of a hang.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._count = 0

    def put(self, trial: bytes) -> None:
        """Say what is about to be made; empty for nothing."""
        self._count += 1
        os.pwrite(self._file, _HEAD.pack(self._count, len(trial)) + trial, 0)

    def count(self) -> int:
        """How often something was put."""
        head = os.pread(self._file, _HEAD.size, 0)
        return int(_HEAD.unpack(head)[0]) if len(head) == _HEAD.size else 0

    def trial(self) -> str:
        """What was put last."""
        head = os.pread(self._file, _HEAD.size, 0)
        if len(head) < _HEAD.size:
            return ""
        length = _HEAD.unpack(head)[1]
        return os.pread(self._file, length, _HEAD.size).decode("utf-8", "replace")

    def close(self) -> None:
        os.close(self._file)
