"""Files that are there in whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from sdc_guard.errors import UsageError


def write_whole(path: Path, data: str | bytes) -> None:
    """Write under a temporary name beside ``path``, then rename; text is written as UTF-8.

    Raises:
        OSError, ValueError: if the file cannot be written; one that was there is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data.encode("utf-8", "backslashreplace")
                            if isinstance(data, str) else data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_asked(path: Path, data: str | bytes) -> None:
    """:func:`write_whole` for a file that the user has named.

    Raises:
        UsageError: if it cannot be written.
    """
    try:
        write_whole(path, data)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be written: {error}") from error
