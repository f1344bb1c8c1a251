"""What is set against the faults: one test of the sweep, with one kind of answer to compare with.

A test's cases are made once, with one seed, and given again to each trial; what is measured is the
comparison, by the visit of a real worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from sdc_guard.bench.sweep.faults import Dwell
from sdc_guard.sweep.declared import Case, Made, Place, SweepTest, Unsupported
from sdc_guard.sweep.exact import bits_of
from sdc_guard.sweep.messages import Done, Message, Miscompare, Visit
from sdc_guard.sweep.visit import Visitor, generator

EXACT, SELF, GOLDEN, PEERS = "exact", "self", "golden", "peers"
ORACLES = (EXACT, SELF, GOLDEN, PEERS)
"""``exact``: the answer is known (or another implementation's, equal by construction).  ``self``:
the unit's own first run stands in.  ``golden``: that, and a digest of right bits is at hand.
``peers``: that, and another unit gave its digest."""
MAX_HELD_BYTES = 1 << 29


@dataclass
class Column:
    """One test with one kind of answer on one place.

    Attributes:
        test: with the cases that have this kind of answer, each made already.
        digests: of right first results, by label; empty for ``exact``.
        golden: digests by golden key.
        left: bytes that the case before leaves behind, by label.
        clean: what a visit without faults did; its mismatches are false alarms.
    """

    test: SweepTest
    oracle: str
    place: Place
    seed: int
    cases: Sequence[Case]
    digests: Mapping[str, str]
    golden: Mapping[str, str]
    left: Mapping[str, bytes]
    dwell: Dwell = field(default_factory=lambda: Dwell(0, 0))
    num_mismatches: int = 0

    @property
    def name(self) -> str:
        return f"{self.test.name}, {self.oracle}"

    @property
    def has_floats(self) -> bool:
        return any("float" in case.dtype or "complex" in case.dtype for case in self.cases)

    @property
    def has_inputs(self) -> bool:
        """Whether any case tells its operands, which a fault may depend on."""
        random = np.random.default_rng(0)  # the cases are made already
        return any(case.make(random, self.place).inputs for case in self.cases)

    def visitor(self, send: Callable[[Message], None], name: str = "") -> Visitor:
        """A worker's visitor, on a unit of this name."""
        place = replace(self.place, name=name) if name else self.place
        known = self._equal if self.oracle == GOLDEN else None
        return Visitor(place=place, tests={self.test.name: self.test}, send=send, golden=known)

    def _equal(self, key: str, digest: str) -> str:
        return "equal" if self.golden.get(key) == digest else "differs"


@dataclass
class _Ready:
    """Cases with their Made, by the kind of answer they have."""

    known: list[Case] = field(default_factory=list)
    own: list[Case] = field(default_factory=list)
    keyed: list[Case] = field(default_factory=list)
    left: dict[str, bytes] = field(default_factory=dict)
    held_bytes: int = 0


def columns_of(
    test: SweepTest, place: Place, *, seed: int, dwell_s: float, limit_s: float,
) -> list[Column] | str:
    """The columns of a test, or why there are none.  ``dwell_s`` is for the whole test; making its
    cases ends after ``limit_s``, with those that are there."""
    if place.kind not in test.kinds:
        return f"runs on {' and '.join(test.kinds)} only"
    if reason := test.skip(place):
        return reason
    ready = _ready(test, place, seed, time.monotonic() + limit_s)
    if isinstance(ready, str):
        return ready
    found = []
    visited: dict[tuple[str, ...], Column] = {}
    for oracle, cases in ((EXACT, ready.known), (GOLDEN, ready.keyed), (SELF, ready.own),
                          (PEERS, ready.own)):
        if not cases:
            continue
        column = _column(test, oracle, place, seed, cases, ready.left)
        labels = tuple(case.label for case in cases)
        if labels not in visited:
            share = len(cases) / (len(ready.known) + len(ready.own))
            _visit_clean(column, dwell_s * share)
        # The same cases again: what a visit does does not depend on who looks at its digests.
        same = visited.setdefault(labels, column)
        column.dwell, column.num_mismatches = same.dwell, same.num_mismatches
        found.append(column)
    return found


def _ready(test: SweepTest, place: Place, seed: int, end_s: float) -> _Ready | str:
    ready, before, reason = _Ready(), b"", "has no case"
    for case in test.cases(place):
        if time.monotonic() > end_s or ready.held_bytes > MAX_HELD_BYTES:
            break
        try:
            made = case.make(generator(test.name, case.label, seed), place)
        except Unsupported as why:
            reason = str(why)
            continue
        results = [bits_of(result) for result in made.run()]
        ready.left[case.label] = before
        before = b"".join(r.tobytes() for r in results)[: 1 << 20]
        ready.held_bytes += made.num_bytes + sum(a.nbytes for a in (*made.inputs, *results))
        again = replace(case, make=_giver(made))
        (ready.own if made.expected is None else ready.known).append(again)
        if made.expected is None and made.golden_key:
            ready.keyed.append(again)
    return ready if ready.known or ready.own else f"no case can be made here: {reason}"


def _giver(made: Made) -> Callable[[np.random.Generator, Place], Made]:
    return lambda random, place: made


def _column(
    test: SweepTest, oracle: str, place: Place, seed: int, cases: Sequence[Case],
    left: Mapping[str, bytes],
) -> Column:
    kept = tuple(cases)
    narrowed = replace(test, cases=lambda place: kept)
    column = Column(narrowed, oracle, place, seed, kept, {}, {}, left)
    if oracle != EXACT:
        bare = replace(column, oracle=SELF)
        done = [c for case in kept for c in _once(bare, case.label).cases]
        column.digests = {c.case: c.digest for c in done}
        column.golden = {c.golden_key: c.digest for c in done if c.golden_key}
    return column


def _once(column: Column, label: str) -> Done:
    """One run of one case."""
    return column.visitor(lambda message: None).visit(
        Visit(test=column.test.name, seed=column.seed, limit_s=0.0, case=label))


def _visit_clean(column: Column, dwell_s: float) -> None:
    """Count runs and checks of a whole dwell time, and false alarms, of which there must be
    none."""
    alarms: list[Message] = []
    done = column.visitor(alarms.append).visit(
        Visit(test=column.test.name, seed=column.seed, limit_s=dwell_s))
    if done.error:
        raise RuntimeError(f"{column.name}: {done.error}")
    column.dwell = Dwell(max(1, sum(c.runs for c in done.cases)),
                         max(1, sum(c.checks for c in done.cases)))
    column.num_mismatches = sum(isinstance(a, Miscompare) for a in alarms)


def rotated(cases: Sequence[Case], first: int) -> Iterator[Case]:
    """All of them, from one on."""
    at = first % len(cases)
    yield from cases[at:]
    yield from cases[:at]
