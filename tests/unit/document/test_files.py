"""Files from outside, and places to write to that are none: devices, pipes, links to them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sdc_guard.document.files import is_stream, read_bounded, write_whole
from sdc_guard.document.reading import read_document_file
from sdc_guard.errors import UsageError


def test_a_file_larger_than_any_of_ours_is_refused_and_one_at_the_limit_is_read(
    tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 8)
    assert read_bounded(path, 8) == b"x" * 8
    with pytest.raises(UsageError, match="file is larger than 0 MiB, which no file of ours is"):
        read_bounded(path, 7)
    with pytest.raises(OSError, match="No such file"):
        read_bounded(tmp_path / "absent")


def test_a_device_without_end_is_no_report() -> None:
    with pytest.raises(UsageError, match="/dev/zero is larger than 256 MiB"):
        read_document_file(Path("/dev/zero"))


def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    write_whole(Path("/dev/null"), "x")
    assert is_stream(Path("/dev/null"))
    assert Path("/dev/null").is_char_device()
    with pytest.raises(OSError, match="No space left"):
        write_whole(Path("/dev/full"), "x")
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    write_whole(link, "x")
    assert link.is_symlink()


def test_a_link_to_a_file_is_a_file_and_a_folder_or_nothing_no_stream(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert not any(map(is_stream, (tmp_path, tmp_path / "absent", tmp_path / "link")))


def test_a_pipe_gets_what_is_written_and_one_that_nobody_reads_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match="No such device or address"):
        write_whole(path, "x")
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_whole(path, "ü")
        assert os.read(reader, 16) == "ü".encode()
    finally:
        os.close(reader)
    assert is_stream(path)
