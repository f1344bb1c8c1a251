"""Which test comes next, and for how long.

A step is one test on all units at once, or on one after the other where the company matters.  A
round is every step once; each round is twice as long as the one before, with other operands, so
that a short sweep reaches every test and a long one dwells.  What has had least of its dwell so
far, in earlier sweeps too, comes first: short sweeps go on where the last one was stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sdc_guard.sweep.crew import Variables
from sdc_guard.sweep.declared import HOST, Company, SweepTest
from sdc_guard.sweep.units import Unit

MIN_SLICE_S, MAX_SLICE_S = 0.1, 2.0
MAX_DOUBLINGS = 5
SHARE_OF_FIRST_ROUND = 0.4
MAX_SHARE_OF_STEP = 0.1
"""A step that needs more of the whole time than that is left to a longer sweep."""


@dataclass(frozen=True)
class Step:
    """One test on units of some kinds, under variables."""

    test: SweepTest
    units: tuple[Unit, ...]
    variables: Variables = ()

    @property
    def name(self) -> str:
        """Unique in a sweep: the test, and ``host`` and the variables where they are not plain."""
        host = " host" if any(u.kind == HOST for u in self.units) else ""
        return " ".join((f"{self.test.name}{host}", *(f"{k}={v}" for k, v in self.variables)))

    @property
    def batches(self) -> tuple[tuple[Unit, ...], ...]:
        """The units that are tested at the same time."""
        if self.test.company is Company.TOGETHER:
            return (self.units,)
        return tuple((unit,) for unit in self.units)

    @property
    def min_s(self) -> float:
        """What one turn of each batch takes at least."""
        return len(self.batches) * max(MIN_SLICE_S, self.test.pace.busy_s + self.test.pace.idle_s)


def steps(tests: Iterable[SweepTest], units: Sequence[Unit]) -> list[Step]:
    """Every test with the units that it can run on.  The host's cores are all in use there, so it
    never shares a step with its cores."""
    found = []
    for test in tests:
        apart = tuple(u for u in units if u.kind in test.kinds and u.kind != HOST)
        whole = tuple(u for u in units if u.kind in test.kinds and u.kind == HOST)
        for variables in test.environments:
            found += [Step(test, group, variables) for group in (apart, whole) if group]
    return found


def by_debt(
    found: Sequence[Step], dwelt_s: Callable[[str, str], float]
) -> list[Step]:
    """The least tested first; ``dwelt_s`` tells how long a unit has had a test, in all."""

    def share(step: Step) -> float:
        return min(dwelt_s(unit.name, step.test.name) for unit in step.units) / step.test.dwell_s

    return sorted(found, key=share)  # stable: equals stay in the order of families


def slice_s(budget_s: float, found: Sequence[Step], number: int) -> float:
    """How long a batch of round ``number`` takes."""
    batches = sum(len(step.batches) for step in found)
    first = SHARE_OF_FIRST_ROUND * budget_s / max(batches, 1)
    return float(min(max(first, MIN_SLICE_S), MAX_SLICE_S) * 2**min(number, MAX_DOUBLINGS))
