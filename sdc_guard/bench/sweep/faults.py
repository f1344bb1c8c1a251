"""One fault of one trial, as the ``tamper`` of a visit."""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard.bench.sweep.changes import Held, flip_at, held
from sdc_guard.bench.sweep.kinds import Kind, When
from sdc_guard.sweep.declared import Case, Made

Result = Tensor | NDArray[Any]

WALK = 8
"""Runs that a trial makes at most before the fault comes; waits beyond are drawn, not sat out."""
ENOUGH = 4
"""Runs after which a case that a fault struck, or never will, has shown all that it can show."""
MAX_DELAY_S = 0.1


@dataclass(frozen=True)
class Dwell:
    """What a clean visit of the whole dwell time did: runs, and elements checked."""

    runs: int
    checks: int


@dataclass(frozen=True)
class Scope:
    """The operators and formats that a restricted fault is drawn from, and the bytes that each
    case finds in its result's memory."""

    ops: Sequence[str] = ()
    dtypes: Sequence[str] = ()
    left: Mapping[str, bytes] = field(default_factory=dict)


class Fault:
    """Fault ``number`` of a kind.

    What it is (bit, lane, element, operator) follows from ``seed``, kind and number alone, so that
    everything tested meets the same faults; when it comes by chance, from ``where`` too.

    Waiting is not acted out: whether the fault comes within ``dwell`` is drawn from the number of
    runs, or elements, that a clean visit made in that time, and :attr:`is_below_dwell` says if it
    does not; if it does, it comes after at most :data:`WALK` runs.

    Attributes:
        num_changed: runs in which it changed a bit of a result.
        struck: bit positions that were flipped.
    """

    def __init__(
        self, kind: Kind, number: int, *, seed: int, where: str, dwell: Dwell,
        scope: Scope | None = None,
    ) -> None:
        self.kind, self.number = kind, number
        self.num_changed, self.struck = 0, set[str]()
        self._scope = scope or Scope()
        self._identity = [seed, zlib.crc32(kind.name.encode()), number]
        self._chance = np.random.default_rng([*self._identity, zlib.crc32(where.encode())])
        identity = np.random.default_rng([*self._identity, 1])
        self._input = float(identity.random()), int(identity.integers(64))
        self._only = ""
        if kind.only:
            choices = self._scope.ops if kind.only == "op" else self._scope.dtypes
            self._only = str(identity.choice(list(choices)))
        self._num_runs, self._next_run = 0, 0
        self._place = -1
        self._started_s, self._delay_s, self._runs_late = 0.0, 0.0, 0
        self.is_below_dwell = not self._is_within(dwell)

    def _is_within(self, dwell: Dwell) -> bool:
        """Draw the first run, or moment, of the fault; whether it lies within the dwell time."""
        if self.kind.when is When.RUNS:
            first = int(self._chance.geometric(self.kind.rate))
            self._next_run = min(first, WALK)
            return first <= dwell.runs
        if self.kind.when is When.ELEMENTS:
            self._place = int(self._chance.geometric(self.kind.rate)) - 1
            return self._place < dwell.checks
        if self.kind.when is When.AFTER_RUNS:
            self._next_run = min(int(self._chance.integers(1, max(2, dwell.runs))), WALK) + 1
        if self.kind.when is When.AFTER_SECONDS:
            self._delay_s = MAX_DELAY_S * float(self._chance.random())
        return True

    def __call__(self, case: Case, made: Made, results: Sequence[Result]) -> None:
        self._num_runs += 1
        if self._num_runs == 1:
            self._started_s = time.monotonic()
        if not self.is_for(case):
            return
        if self.kind.when is When.ELEMENTS:
            self._strike_elements(results)
        elif self._comes(made):
            self._strike(case, results)

    def is_for(self, case: Case) -> bool:
        """Whether it can strike this case at all, by operator and format."""
        return self._only in ("", case.op if self.kind.only == "op" else case.dtype)

    def is_through(self, num_runs: int) -> bool:
        """Whether a case that was run ``num_runs`` times has nothing more to show."""
        if self.kind.when is When.AFTER_SECONDS:
            return self._is_late() and num_runs >= ENOUGH and self._runs_late >= ENOUGH
        return num_runs >= (ENOUGH if self.kind.is_same_always else WALK + ENOUGH)

    def _comes(self, made: Made) -> bool:
        when = self.kind.when
        if when is When.RUNS:
            if self._num_runs < self._next_run:
                return False
            self._next_run = self._num_runs + int(self._chance.geometric(self.kind.rate))
            return True
        if when is When.AFTER_RUNS:
            return self._num_runs >= self._next_run
        if when is When.AFTER_SECONDS:
            self._runs_late += self._is_late()
            return self._runs_late > 0
        if when is When.INPUT_BIT:
            return self._has_input_bit(made)
        return True

    def _is_late(self) -> bool:
        # The unit was right for one run at least: else it is wrong always, another kind.
        return self._num_runs > 1 and time.monotonic() - self._started_s > self._delay_s

    def _has_input_bit(self, made: Made) -> bool:
        if not made.inputs or not made.inputs[0].size:
            return False
        operand = made.inputs[0]
        share, bit = self._input
        value = int(operand.flat[int(share * operand.size)])
        return (value >> (bit % (8 * operand.itemsize))) & 1 == self.kind.input_bit

    def _strike(self, case: Case, results: Sequence[Result]) -> None:
        """Change one of the results, the first from a drawn one on that can be changed."""
        random = np.random.default_rng(self._identity) if not self._is_by_chance else self._chance
        first = int(random.integers(len(results))) if results else 0
        for result in (*results[first:], *results[:first]):
            target = held(result, self.number, self._scope.left.get(case.label, b""))
            before = target.bits.copy()
            self.kind.change(target, random)
            if not np.array_equal(before, target.bits):
                self._note(target)
                return

    @property
    def _is_by_chance(self) -> bool:
        return self.kind.when is When.RUNS

    def _strike_elements(self, results: Sequence[Result]) -> None:
        targets = [held(result) for result in results]
        size = sum(target.bits.size for target in targets)
        if not size:
            return
        if self._place >= 0:
            if self._num_runs < min(1 + self._place // size, WALK):
                return
            places, self._place = [self._place % size], -1
        else:
            num = int(self._chance.binomial(size, self.kind.rate))
            places = [int(p) for p in self._chance.choice(size, num, replace=False)] if num else []
        for target in targets:
            here = [p for p in places if 0 <= p < target.bits.size]
            flip_at(target, here, self._chance)
            if here:
                self._note(target)
            places = [p - target.bits.size for p in places]

    def _note(self, target: Held) -> None:
        self.num_changed += 1
        self.struck.update(target.struck)
