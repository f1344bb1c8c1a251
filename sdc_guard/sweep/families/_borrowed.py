"""Cases of other tests, run once more under a stress profile (F8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, zip_longest

from sdc_guard.sweep.declared import Case, Place, SweepTest
from sdc_guard.sweep.families import (
    exact_full_mantissa,
    exact_gather,
    exact_product,
    memory_patterns,
)

PRODUCTS: tuple[SweepTest, ...] = (*exact_product.TESTS, *exact_full_mantissa.TESTS)
MEMORY: tuple[SweepTest, ...] = memory_patterns.TESTS
MOVES: tuple[SweepTest, ...] = exact_gather.TESTS
ALL = (*PRODUCTS, *MEMORY, *MOVES)
DTYPES = tuple(dict.fromkeys(dtype for test in ALL for dtype in test.dtypes))
PER_TEST = 8
SLOW = ("bit fade",)
"""Sleeping is the profile's part."""


def borrowed(test: SweepTest, place: Place, most: int = PER_TEST) -> list[Case]:
    """At most that many cases of a test, evenly spaced among all, labelled by its name."""
    cases = [c for c in test.cases(place) if not c.label.startswith(SLOW)]
    count = min(most, len(cases))
    chosen = [cases[i * len(cases) // count] for i in range(count)]
    return [replace(c, label=f"{test.name}: {c.label}") for c in chosen]


def in_turn(tests: Sequence[SweepTest], place: Place, most: int = PER_TEST) -> list[Case]:
    """One case of each test after the other."""
    rows = zip_longest(*(borrowed(test, place, most) for test in tests))
    return [case for case in chain.from_iterable(rows) if case is not None]


def one_after_another(
    tests: Sequence[SweepTest], place: Place, most: int = PER_TEST
) -> list[Case]:
    """All cases of one test, then all of the next."""
    return [case for test in tests for case in borrowed(test, place, most)]
