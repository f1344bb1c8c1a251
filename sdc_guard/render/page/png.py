"""A small picture in a palette of up to 256 colours as PNG bytes, for a ``data:`` address."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

Colour = tuple[int, int, int, int]
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PALETTE_KIND = 3


def png(rows: Sequence[bytes], palette: Sequence[Colour]) -> bytes:
    """The picture; each byte of a row is an index into ``palette`` (red, green, blue, opacity).

    Rows are of equal length, at least one byte.
    """
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, _PALETTE_KIND, 0, 0, 0)
    pixels = b"".join(b"\x00" + row for row in rows)
    return _SIGNATURE + b"".join((
        _chunk(b"IHDR", header),
        _chunk(b"PLTE", b"".join(bytes(colour[:3]) for colour in palette)),
        _chunk(b"tRNS", bytes(colour[3] for colour in palette)),
        _chunk(b"IDAT", zlib.compress(pixels, 9)),
        _chunk(b"IEND", b""),
    ))


def data_address(picture: bytes) -> str:
    """The picture as an ``<img src>`` that needs no file."""
    return "data:image/png;base64," + base64.b64encode(picture).decode("ascii")


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
