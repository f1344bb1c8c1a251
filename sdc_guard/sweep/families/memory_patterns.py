"""F7: memory holds what was written.

The patterns of the MemTest86 line (moving inversions, address in address, walking bits, random and
complement, block move, bit fade), written and read by fills and copies alone: no arithmetic takes
part but the numbering of words.  Buffers stay in a core's cache, or are larger than it.

A worker tests pages that the system gave to its process; it can choose none of them, and memory in
use by others is not touched.  On a GPU half of the device's memory is filled as well and compared
there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from os import cpu_count

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard.sweep.addresses import GPU_PAGE_BYTES, place_of
from sdc_guard.sweep.declared import (
    CORE,
    GPU,
    HOST,
    Case,
    Index,
    Made,
    Oracle,
    Place,
    SweepTest,
    Unavailable,
)

WORD_BYTES = 8
MIB = 1 << 20
SIZES_CORE = {"cache": MIB // 4, "memory": 16 * MIB}
SIZES_GPU = {"cache": 4 * MIB, "memory": 128 * MIB}
"""Bytes of all rows of a case together."""
MEMORY_SHARE = 4
"""A case needs this times its size to be available for each core."""
BLOCK_WORDS = 8192
FADE_S = 0.05
CHUNK_BYTES = 64 * MIB
INVERSIONS = {"zeros": 0, "0x55": 0x5555555555555555, "0xaa": 0xAAAAAAAAAAAAAAAA,
              "ones": 0xFFFFFFFFFFFFFFFF, "drawn": None}

Words = NDArray[np.uint64]
Write = Callable[[], None]
Prepare = Callable[[Tensor, np.random.Generator], tuple[Write, Words]]
"""Given rows of words, what writes them, and what they must then hold."""


def signed(word: int) -> int:
    """The int64 with these bits."""
    return word - (1 << 64) if word >> 63 else word


def _host(words: Words, like: Tensor) -> Tensor:
    return torch.from_numpy(words.view(np.int64)).to(like.device)


def _blocks(row: Tensor) -> Sequence[Tensor]:
    return tuple(row.split(BLOCK_WORDS))


def _inversions(pattern: int | None, rows: Tensor, random: np.random.Generator) -> tuple[
    Write, Words
]:
    """Row 0: written, inverted block by block upwards, and back downwards; rows 1 and 2: what was
    read before each inversion."""
    word = int(random.integers(0, 1 << 64, dtype=np.uint64)) if pattern is None else pattern
    inverse = word ^ 0xFFFFFFFFFFFFFFFF
    up = list(zip(*map(_blocks, rows[:2]), strict=True))
    down = list(zip(*map(_blocks, (rows[0], rows[2])), strict=True))[::-1]

    def write() -> None:
        rows[0].fill_(signed(word))
        for block, seen in up:
            seen.copy_(block)
            block.fill_(signed(inverse))
        for block, seen in down:
            seen.copy_(block)
            block.fill_(signed(word))

    expected = np.empty(rows.shape, np.uint64)
    expected[:2], expected[2] = word, inverse
    return write, expected


def _addresses(rows: Tensor, random: np.random.Generator) -> tuple[Write, Words]:
    """Row 0: each word its own number, from a drawn start; row 1: the inverse."""
    start, count = int(random.integers(0, 1 << 40)), rows.shape[1]

    def write() -> None:
        torch.arange(start, start + count, out=rows[0])
        torch.arange(-1 - start, -1 - start - count, -1, out=rows[1])

    number = np.arange(start, start + count, dtype=np.uint64)
    return write, np.stack([number, ~number])


def _walking(rows: Tensor, random: np.random.Generator) -> tuple[Write, Words]:
    """Row 0: one bit set, a place further in each word; row 1: one bit clear."""
    shift = int(random.integers(0, 64))
    ones = np.array([1 << ((i + shift) % 64) for i in range(64)], np.uint64)
    sources = [_host(w, rows) for w in (ones, ~ones)]
    folded = [row.view(-1, 64) for row in rows]

    def write() -> None:
        for row, source in zip(folded, sources, strict=True):
            row.copy_(source)

    return write, np.stack([np.tile(w, rows.shape[1] // 64) for w in (ones, ~ones)])


def _random(rows: Tensor, random: np.random.Generator) -> tuple[Write, Words]:
    """Row 0: drawn words; row 1: first them, then the inverse."""
    words = random.integers(0, 1 << 64, rows.shape[1], dtype=np.uint64)
    source, inverse = _host(words, rows), _host(~words, rows)

    def write() -> None:
        rows[0].copy_(source)
        rows[1].copy_(source)
        rows[1].copy_(inverse)

    return write, np.stack([words, ~words])


def _moves(rows: Tensor, random: np.random.Generator) -> tuple[Write, Words]:
    """Numbered words are moved by blocks to drawn places in row 1, and back to row 0."""
    start, count = int(random.integers(0, 1 << 40)), rows.shape[1]
    words = np.arange(start, start + count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    source = _host(words, rows)
    num_blocks = count // min(BLOCK_WORDS, count)
    order = random.permutation(num_blocks)
    first, second, given = (row.view(num_blocks, -1) for row in (*rows, source))

    def write() -> None:
        first.copy_(given)
        for i, to in enumerate(order.tolist()):
            second[to].copy_(first[i])
        for i, to in enumerate(order.tolist()):
            first[i].copy_(second[to])

    moved = np.empty((num_blocks, count // num_blocks), np.uint64)
    moved[order] = words.reshape(num_blocks, -1)
    return write, np.stack([words, moved.reshape(-1)])


def _fading(rows: Tensor, random: np.random.Generator) -> tuple[Write, Words]:
    """Drawn words and the inverse, left alone for FADE_S before they are read."""
    write_words, expected = _random(rows, random)

    def write() -> None:
        write_words()
        if rows.device.type == "cuda":
            torch.cuda.synchronize(rows.device)
        time.sleep(FADE_S)

    return write, expected


PATTERNS: tuple[tuple[str, int, Prepare], ...] = (
    *((f"moving inversions of {name}", 3, partial(_inversions, word))
      for name, word in INVERSIONS.items()),
    ("address in address", 2, _addresses),
    ("walking bit", 2, _walking),
    ("random and complement", 2, _random),
    ("block move", 2, _moves),
    ("bit fade", 2, _fading),
)
"""Name, rows, and how they are written."""


def words_of(size_bytes: int, num_rows: int) -> int:
    """Words of a row: a multiple of a block, or of 64 in a small one."""
    words = size_bytes // WORD_BYTES // num_rows
    step = BLOCK_WORDS if words >= BLOCK_WORDS else 64
    return max(step, words // step * step)


def require_memory(size_bytes: int, place: Place) -> None:
    """Raises Unavailable if the host's memory is short for all cores at once."""
    available = int(psutil.virtual_memory().available)
    needed = size_bytes * MEMORY_SHARE * (1 if place.kind == GPU else cpu_count() or 1)
    if available < needed:
        raise Unavailable(f"{available // MIB} MiB of memory are available, and buffers for every "
                          f"core need {needed // MIB} MiB")


def _make(
    prepare: Prepare, num_rows: int, size_bytes: int, random: np.random.Generator, place: Place
) -> Made:
    require_memory(size_bytes, place)
    rows = torch.empty(num_rows, words_of(size_bytes, num_rows), dtype=torch.int64,
                       device=place.device)
    write, expected = prepare(rows, random)

    def run() -> tuple[Tensor]:
        write()
        return (rows,)

    return Made(run=run, expected=(expected,), num_bytes=2 * expected.nbytes,
                subunit=lambda index: place_of(rows, index))


def _make_held(size_bytes: int, random: np.random.Generator, place: Place) -> Made:
    """What was written at the end of one run is read at the start of the next, after whatever the
    unit did in between."""
    require_memory(size_bytes, place)
    rows = torch.empty(2, words_of(size_bytes, 2), dtype=torch.int64, device=place.device)
    write, expected = _random(rows, random)
    write()

    def run() -> tuple[Tensor]:
        read = rows.clone()
        write()
        return (read,)

    return Made(run=run, expected=(expected,), num_bytes=2 * expected.nbytes,
                subunit=lambda index: place_of(rows, index))


def make_whole(
    num_chunks: int, chunk_bytes: int, random: np.random.Generator, place: Place
) -> Made:
    """Numbered words over many chunks, and their inverses; the device compares.  The result is the
    number of wrong words on each page of 2 MiB, [pages]."""
    if place.device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(place.device)
        if free < (num_chunks + 4) * chunk_bytes:
            raise Unavailable(f"{free // MIB} MiB of the device's memory are free, and "
                              f"{(num_chunks + 4) * chunk_bytes // MIB} are needed")
    count, start = chunk_bytes // WORD_BYTES, int(random.integers(0, 1 << 40))
    chunks = [torch.empty(count, dtype=torch.int64, device=place.device)
              for _ in range(num_chunks)]
    want = torch.empty(count, dtype=torch.int64, device=place.device)
    pages = max(1, chunk_bytes // GPU_PAGE_BYTES)

    def number(number_of_chunk: int, is_inverse: bool, out: Tensor) -> None:
        first = start + number_of_chunk * count
        if is_inverse:
            torch.arange(-1 - first, -1 - first - count, -1, out=out)
        else:
            torch.arange(first, first + count, out=out)

    def run() -> tuple[Tensor]:
        wrong = torch.zeros(num_chunks, pages, dtype=torch.int64, device=place.device)
        for is_inverse in (False, True):
            for i, chunk in enumerate(chunks):
                number(i, is_inverse, chunk)
            for i, chunk in enumerate(chunks):
                number(i, is_inverse, want)
                wrong[i] += (chunk != want).view(pages, -1).sum(1)
        return (wrong.view(-1),)

    def subunit(index: Index) -> str:
        chunk, page = divmod(index[0], pages)
        return f"{place_of(chunks[chunk], (page * (count // pages),))} of chunk {chunk}"

    return Made(
        run=run, expected=(np.zeros(num_chunks * pages, np.uint64),), subunit=subunit,
        num_bytes=4 * num_chunks * chunk_bytes, num_checks=2 * num_chunks * count)


def cases(place: Place) -> Sequence[Case]:
    """Every pattern in the cache and beyond it; on a GPU half of its memory."""
    found = []
    for name, size_bytes in (SIZES_GPU if place.kind == GPU else SIZES_CORE).items():
        size = f"{name} {size_bytes // 1024} KiB"
        found += [Case(label=f"{pattern}, {size}", op="memory", dtype="int64",
                       shape=(num_rows, words_of(size_bytes, num_rows)),
                       make=partial(_make, prepare, num_rows, size_bytes))
                  for pattern, num_rows, prepare in PATTERNS]
        found.append(Case(
            label=f"held since the last run, {size}", op="memory", dtype="int64",
            shape=(2, words_of(size_bytes, 2)), make=partial(_make_held, size_bytes)))
    if place.device.startswith("cuda"):
        total = int(torch.cuda.get_device_properties(place.device).total_memory)
        num_chunks = max(1, total // 2 // CHUNK_BYTES)
        found.append(Case(
            label=f"address in address, {num_chunks * CHUNK_BYTES // MIB} MiB of the device",
            op="memory", dtype="int64", shape=(num_chunks * (CHUNK_BYTES // GPU_PAGE_BYTES),),
            make=partial(make_whole, num_chunks, CHUNK_BYTES)))
    return found


TESTS = (SweepTest(
    name="memory_patterns", family="F7", oracles=(Oracle.EXACT,), kinds=(CORE, GPU, HOST),
    blames="address", dtypes=("int64",), dwell_s=3.0,
    proves="Memory that this process was given, in the cache and beyond it, held every pattern "
    "that was written, each bit in both states.",
    cannot_prove="Host memory is tested in the pages that the system gave to this process; it "
    "cannot choose physical ones, so most of a host's memory is never touched. Bits that fade "
    "within minutes, not milliseconds, need a memory test of the whole machine.",
    cases=cases),)
