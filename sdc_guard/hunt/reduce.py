"""A trial made smaller while it still diverges: plain modes and plain memory first, then sizes,
then values towards 0, 1 and small integers.

Every candidate is made and judged like any trial; one that does not diverge is put aside.  The
order is fixed, so the same trial reduces to the same one unless time runs out.  Promises between
operands are kept: operands that are not ``free`` keep their bits and memory, sizes stay where one
is there, and values stay within the sign and the unit interval that all of them were in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sdc_guard.errors import UsageError
from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.simpler import (
    simpler_calls,
    simpler_layouts,
    simpler_modes,
    simpler_sizes,
    simpler_values,
    with_literals,
)
from sdc_guard.hunt.trial import Trial

Shows = Callable[[Trial], Divergence | None]
NUM_CONFIRMING = 3
Candidates = Callable[[Trial], Iterator[Trial]]


@dataclass(frozen=True, slots=True)
class Reduction:
    """``steps`` are the trials on the way with what each gave, the smallest last, the given one not
    among them; ``tries`` trials were made.  ``is_finished`` is false where the time or the number
    of tries ran out."""

    steps: tuple[tuple[Trial, Divergence], ...]
    tries: int
    is_finished: bool


class _SpentError(Exception):
    """Time or tries are used up."""


@dataclass(slots=True)
class _Search:
    shows: Shows
    max_tries: int
    stop_s: float
    attempts: int
    trial: Trial
    steps: list[tuple[Trial, Divergence]]
    tries: int = 0

    def accepts(self, candidate: Trial) -> bool:
        """Take the candidate if it diverges in one of the attempts; what always diverged must do so
        ``NUM_CONFIRMING`` times running, or it reads memory that happened to hold something."""
        seen = [self._once(candidate)]
        if self.attempts == 1:
            while seen[-1] is not None and len(seen) < NUM_CONFIRMING:
                seen.append(self._once(candidate))
        else:
            while seen[-1] is None and len(seen) < self.attempts:
                seen.append(self._once(candidate))
        last = seen[-1]
        if last is None:
            return False
        self.trial = candidate
        self.steps.append((candidate, last))
        return True

    def _once(self, candidate: Trial) -> Divergence | None:
        if self.tries >= self.max_tries or time.monotonic() > self.stop_s:
            raise _SpentError
        self.tries += 1
        try:
            return self.shows(candidate)
        except UsageError:
            return None  # a candidate that does not fit together

    def descend(self, candidates: Candidates) -> None:
        """Take candidates, each time anew from the smaller trial, until none is accepted."""
        refused = set[str]()
        while True:
            for candidate in candidates(self.trial):
                digest = candidate.digest
                if digest in refused or candidate == self.trial:
                    continue
                if self.accepts(candidate):
                    break
                refused.add(digest)
            else:
                return


def reduced(
    trial: Trial, shows: Shows, *, attempts: int = 1,
    max_tries: int = 300, limit_s: float = 15.0,
) -> Reduction:
    """Reduce a trial that diverges.

    ``shows`` makes a trial once and returns the divergence if it is there; one that comes and goes
    is given ``attempts`` attempts per candidate.
    """
    search = _Search(shows, max_tries * attempts, time.monotonic() + limit_s, attempts,
                     with_literals(trial), [])
    try:
        for _ in range(3):
            before = len(search.steps)
            for candidates in (simpler_modes, simpler_layouts, simpler_calls, simpler_sizes):
                search.descend(candidates)
            search.trial = with_literals(search.trial)
            search.descend(simpler_values)
            if len(search.steps) == before:
                break
    except _SpentError:
        return Reduction(tuple(search.steps), search.tries, False)
    return Reduction(tuple(search.steps), search.tries, True)
