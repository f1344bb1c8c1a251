"""Which round comes next: every target gets its first before any gets its second."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

ROUND_EXAMPLES = (10, 30, 100, 300)
"""Calls of a target's rounds 0, 1, ...; the last number repeats.  Short ones first, so that a hunt
of a minute meets every operator; long ones later, in which the search has time to climb."""

FIRST_LONG = 2
"""The first round that is long enough for oracles that take seconds, and to begin with what earlier
hunts have kept."""


def examples_of(number: int) -> int:
    """Calls of the round with that number."""
    return ROUND_EXAMPLES[min(number, len(ROUND_EXAMPLES) - 1)]


def rounds_for(examples: int) -> list[int]:
    """The sizes of the rounds that make ``examples`` calls of a target; the last one is cut."""
    sizes: list[int] = []
    while examples > 0:
        sizes.append(min(examples, examples_of(len(sizes))))
        examples -= sizes[-1]
    return sizes


def ordered(targets: Sequence[str], seed: int) -> list[str]:
    """The targets in an order of the seed: no letter of the alphabet is always last."""
    return sorted(targets, key=lambda t: (zlib.crc32(f"{seed} {t}".encode()), t))


def rounds(
    targets: Sequence[str], seed: int, examples: int | None
) -> Iterator[tuple[str, int, int]]:
    """(target, number, calls) without end, or until each target has had ``examples`` calls."""
    order = ordered(targets, seed)
    sizes = None if examples is None else rounds_for(examples)
    number = 0
    while order and (sizes is None or number < len(sizes)):
        size = examples_of(number) if sizes is None else sizes[number]
        yield from ((target, number, size) for target in order)
        number += 1
