"""Files that are there in whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from sdc_guard.errors import UsageError

MAX_READ_BYTES = 1 << 28
"""Of a file from outside: one that has no end, such as a device, must not fill the memory."""


def is_stream(path: Path) -> bool:
    """Whether it is there and is no file that could be replaced: a device, a pipe, or a link such
    as ``/dev/stdout``."""
    if not path.exists() or path.is_dir():
        return False
    return not path.is_file() or (path.is_symlink() and path.absolute().parts[1:2] == ("dev",))


def read_bounded(path: Path, limit: int = MAX_READ_BYTES) -> bytes:
    """The whole file.

    Raises:
        OSError: if it cannot be read.
        UsageError: if it is larger than ``limit``.
    """
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise UsageError(f"{path} is larger than {limit >> 20} MiB, which no file of ours is; name "
                         "another")
    return data


def write_whole(path: Path, data: str | bytes) -> None:
    """Write under a temporary name beside ``path``, then rename; text is written as UTF-8.  To a
    device or a pipe it is written as it is: renaming would put a file in its place.

    Raises:
        OSError, ValueError: if the file cannot be written; one that was there is as it was.
    """
    if isinstance(data, str):
        data = data.encode("utf-8", "backslashreplace")
    if is_stream(path):
        _write_stream(path, data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write_stream(path: Path, data: bytes) -> None:
    # A pipe that nobody reads is an error at once, and no wait for ever.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def write_asked(path: Path, data: str | bytes) -> None:
    """:func:`write_whole` for a file that the user has named.

    Raises:
        UsageError: if it cannot be written.
    """
    try:
        write_whole(path, data)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be written: {error}") from error
