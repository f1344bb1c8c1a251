"""Real text that every machine has: the sources and the documentation in Python's own library.

``pydoc_data/topics.py`` there is the language reference as text; the rest is code and docstrings,
some ten megabytes in all.
"""

from __future__ import annotations

import hashlib
import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard.errors import UsageError

NUM_BYTE_VALUES = 256
MIN_CORPUS_BYTES = 2_000_000
HELD_OUT_SHARE_OF_FILES = 10
"""One file in so many is held out."""

# Tests hold generated data, and the encodings are tables of code points: neither is text.
_LEFT_OUT = frozenset({"test", "tests", "idle_test", "site-packages", "__pycache__", "encodings"})


@dataclass(frozen=True)
class Corpus:
    """Byte text in two parts that share no file.

    ``digest`` is the SHA-256 of both parts, so that two reports can be compared: another Python
    release has another library.
    """

    training: NDArray[np.uint8]
    held_out: NDArray[np.uint8]
    num_files: int
    digest: str

    def __len__(self) -> int:
        return len(self.training) + len(self.held_out)


@cache
def load_corpus(root: Path | None = None, min_bytes: int = MIN_CORPUS_BYTES) -> Corpus:
    """Read all ``*.py`` files under ``root`` (default: the standard library) in sorted order.

    A file belongs to the held-out part if the CRC-32 of its relative path is divisible by
    ``HELD_OUT_SHARE_OF_FILES``: the split depends on names alone, not on the order or the number
    of files.

    Raises:
        UsageError: if fewer than ``min_bytes`` were found, or one of the parts is empty.
    """
    folder = Path(sysconfig.get_paths()["stdlib"]) if root is None else root
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for name, text in _texts(folder):
        parts[zlib.crc32(name.encode()) % HELD_OUT_SHARE_OF_FILES == 0].append(text)
    training, held_out = (b"".join(part) for part in parts)
    num_bytes = len(training) + len(held_out)
    if num_bytes < min_bytes or not training or not held_out:
        raise UsageError(
            f"the text under {folder} has {num_bytes} bytes ({len(training)} for training, "
            f"{len(held_out)} held out) and the demo needs at least {min_bytes} and both parts; "
            "install a Python whose standard library comes with its sources (*.py files)"
        )
    return Corpus(
        training=np.frombuffer(training, dtype=np.uint8),
        held_out=np.frombuffer(held_out, dtype=np.uint8),
        num_files=len(parts[0]) + len(parts[1]),
        digest=hashlib.sha256(training + b"\0" + held_out).hexdigest(),
    )


def _texts(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Relative name and contents of each UTF-8 source file that is not left out."""
    for path in sorted(folder.rglob("*.py")):
        relative = path.relative_to(folder)
        if not _LEFT_OUT.isdisjoint(relative.parts):
            continue
        try:
            text = path.read_bytes()
            text.decode()
        except (UnicodeDecodeError, OSError):
            continue
        yield relative.as_posix(), text


class Batches:
    """Training windows at random places, from a generator of their own.

    The same seed gives the same windows whatever else draws random numbers, so that several runs
    see the same text in the same order.  Windows are cut by NumPy: no aten kernel is involved.
    """

    def __init__(self, corpus: Corpus, *, batch_size: int, context: int, seed: int) -> None:
        self._windows = sliding_window_view(corpus.training, context + 1)
        self._batch_size = batch_size
        self._generator = np.random.default_rng(seed)

    def next(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets, int64 [batch_size, context]; targets are inputs one byte later."""
        places = self._generator.integers(len(self._windows), size=self._batch_size)
        return _pair(self._windows[places])


def held_out_batches(
    corpus: Corpus, *, num_windows: int, batch_size: int, context: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """``num_windows`` windows spread evenly over the held-out part, the same on every call."""
    windows = sliding_window_view(corpus.held_out, context + 1)
    places = np.linspace(0, len(windows) - 1, num_windows).astype(np.int64)
    for start in range(0, num_windows, batch_size):
        yield _pair(windows[places[start : start + batch_size]])


def _pair(windows: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    tokens = windows.astype(np.int64)
    return (
        torch.from_numpy(np.ascontiguousarray(tokens[:, :-1])),
        torch.from_numpy(np.ascontiguousarray(tokens[:, 1:])),
    )
