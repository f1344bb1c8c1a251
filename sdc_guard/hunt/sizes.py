"""Which sizes a call is tried with, and how a size of a template becomes another everywhere.

A size that stands in several operands is one axis to the operator, so it is replaced in all of them
and in the lists of sizes among the arguments: what was a legal call stays one.
"""

from __future__ import annotations

from collections.abc import Iterable

from sdc_guard.hunt.trial import num_elements

SMALL = (1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65)
"""Around the widths of vectors, and of unrolled loops over them."""
EDGES = (127, 128, 129, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025)
"""Around the blocks of matrix kernels and of cascaded sums."""
LONG = (2047, 2048, 2049, 4095, 4096, 4097, 8191, 8193, 32767, 32768, 32769, 65535, 65537)
"""Around what makes a kernel use another thread, and a 16-bit index wrap."""
VAST = ((1 << 24) - 1, 1 << 24, (1 << 24) + 1)
"""Around the last count that float32 holds."""
HUGE = ((1 << 31) - 1, (1 << 31) + 1)
"""Around what makes a 32-bit index wrap; only when asked for."""

TABLE: tuple[int, ...] = (*SMALL, *SMALL, *SMALL, *EDGES, 0, *SMALL, *SMALL, *LONG[:6])
"""Sizes by weight: small calls dominate, because many fit into a second."""
TABLES: tuple[int, ...] = (255, 256, 257, 511, 4097, 32767, 32768, 32769, 65535, 65536, 65537,
                           70001)
"""Rows of what is indexed: around where a narrow index, or an offset of one, wraps."""
RARE: tuple[int, ...] = (*LONG, *VAST)

MAX_WORK = 1 << 14
"""Operations of a usual trial, counted as the product of its distinct sizes."""
MAX_WORK_MIDDLING = 1 << 20
MAX_WORK_RARE = 1 << 26


def fits(shapes: Iterable[tuple[int, ...]], max_bytes: int, max_work: int) -> bool:
    """True if operands of these shapes stay inside the memory of a trial (operands, results and
    float64 images of either) and inside its work."""
    shapes = list(shapes)
    work = 1
    for size in {s for shape in shapes for s in shape}:
        work *= max(1, size)
    elements = sum(map(num_elements, shapes))
    return elements * 48 <= max_bytes and max(work, elements) <= max_work


def substituted(shape: tuple[int, ...], old: int, new: int) -> tuple[int, ...]:
    """The shape with one size replaced."""
    return tuple(new if s == old else s for s in shape)


BROADCAST_KEPT = 3
"""Of eight operands, how many keep the whole shape."""


def broadcast(shape: tuple[int, ...], how: int) -> tuple[int, ...]:
    """A shape that broadcasts to this one: whole for small ``how``, else with leading dimensions
    left out, or single dimensions of size 1."""
    how %= 8
    if how < BROADCAST_KEPT or not shape:
        return shape
    if how == 3:
        return shape[1:]
    if how == 4:
        return (1, *shape[1:])
    if how == 5:
        return (*shape[:-1], 1)
    if how == 6:
        return shape[-1:]
    return tuple(1 if i % 2 else s for i, s in enumerate(shape))
