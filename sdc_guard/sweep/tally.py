"""What has been seen so far, by unit and test."""

from __future__ import annotations

from dataclasses import dataclass, field

from sdc_guard.sweep.declared import Oracle, SweepTest
from sdc_guard.sweep.messages import Done, Miscompare
from sdc_guard.sweep.units import Unit
from sdc_guard.sweep.words import (
    AMBIGUOUS,
    FAIL,
    INVALID,
    PASS,
    SKIP,
    SUSPECT,
    TOOL_ERROR,
    Decision,
    worst,
)

CAUGHT, MISSED = "caught", "missed"
NOT_REACHED = "not reached before the time was over: the next sweep begins with it"


@dataclass
class Seen:
    """A miscompare, a death or a lost vote, with what was made of it.  ``what`` is the record that
    the unit sent, None for a death; ``case`` its label."""

    unit: Unit
    test: SweepTest
    case: str
    time_s: float
    witness: str
    decision: Decision
    what: Miscompare | None = None
    digests: dict[str, str] = field(default_factory=dict)
    variables: tuple[tuple[str, str], ...] = ()
    seed: int = 0
    tail: str = ""


@dataclass
class Count:
    """One test on one unit."""

    unit: Unit
    test: SweepTest
    visits: int = 0
    runs: int = 0
    checks: int = 0
    flops: int = 0
    num_bytes: int = 0
    elapsed_s: float = 0.0
    mismatches: int = 0
    canary: str = "none"
    skip: str = ""
    errors: dict[str, int] = field(default_factory=dict)
    unsupported: dict[str, str] = field(default_factory=dict)
    golden: dict[str, int] = field(default_factory=dict)
    cases: set[str] = field(default_factory=set)
    seen: list[Seen] = field(default_factory=list)
    num_peers: int = 0
    next_case: int = 0
    is_moved: str = ""
    times_off: int = 0
    """Cases, visit by visit, with a wrong result."""

    def add(self, done: Done) -> None:
        """A visit."""
        self.visits += 1
        self.elapsed_s += done.elapsed_s
        self.skip = done.skip or self.skip
        self.next_case = done.next_case
        if done.canary != "none" and self.canary != MISSED:
            self.canary = done.canary
        if done.error:
            self.errors[done.error] = self.errors.get(done.error, 0) + 1
        for case in done.cases:
            if case.unsupported:
                self.unsupported[case.case] = case.unsupported
                continue
            self.cases.add(case.case)
            self.runs += case.runs
            self.checks += case.checks
            self.flops += case.flops
            self.num_bytes += case.num_bytes
            self.mismatches += case.mismatches
            if case.golden:
                self.golden[case.golden] = self.golden.get(case.golden, 0) + 1

    @property
    def oracle(self) -> str:
        """What the word rests on here: a test that asks peers, and had none, has the power of its
        own repetition alone."""
        declared = self.test.oracles
        if Oracle.EXACT in declared or Oracle.CROSS in declared:
            return str((Oracle.EXACT if Oracle.EXACT in declared else Oracle.CROSS).value)
        parts = []
        if self.golden.get("equal") or self.golden.get("differs"):
            parts.append(Oracle.GOLDEN.value)
        if self.num_peers:
            parts.append(f"{self.num_peers} {Oracle.PEER.value}{'s' * (self.num_peers != 1)}")
        return ", ".join([*parts, Oracle.SELF.value])

    def word(self) -> tuple[str, str]:
        """The word and the reason."""
        words = [(s.decision.word, s.decision.reason) for s in self.seen]
        if self.canary == MISSED:
            words.append((TOOL_ERROR, "its canary, one flipped bit, was not seen: it sees nothing"))
        words += [(TOOL_ERROR, error) for error in self.errors]
        if self.is_moved:
            words.append((INVALID, self.is_moved))
        if not words or all(word not in (FAIL, AMBIGUOUS, SUSPECT, TOOL_ERROR)
                            for word, _ in words):
            words.append(self._quiet_word())
        word = worst([w for w, _ in words])
        return word, next(reason for w, reason in words if w == word)

    def _quiet_word(self) -> tuple[str, str]:
        if self.skip:
            return SKIP, self.skip
        if not self.visits:
            return SKIP, NOT_REACHED
        if not self.checks:
            reasons = dict.fromkeys(self.unsupported.values())
            return SKIP, "; ".join(reasons) or "no case was run"
        if self.test.oracles == (Oracle.GOLDEN,) and not self.golden.get("equal"):
            return INVALID, next(iter(self.golden), "no golden digests were given")
        return PASS, self._dwell_words()

    def _dwell_words(self) -> str:
        text = f"{self.elapsed_s:.1f} s"
        if self.elapsed_s < self.test.dwell_s:
            text += f" of the {self.test.dwell_s:g} s that it should have"
        if self.unsupported:
            text += f"; {len(self.unsupported)} cases are not supported here"
        return text


@dataclass
class Tally:
    """All counts, in the order of tests and units, and what else is to be told."""

    counts: dict[tuple[str, str], Count] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def count(self, unit: Unit, test: SweepTest) -> Count:
        """Of one test on one unit; it begins with nothing."""
        key = unit.name, test.name
        if key not in self.counts:
            self.counts[key] = Count(unit, test)
        return self.counts[key]

    def tell(self, problem: str) -> None:
        """Once, however often it comes."""
        if problem not in self.problems:
            self.problems.append(problem)

    @property
    def seen(self) -> list[Seen]:
        """Everything that was looked into, in the order of units and tests."""
        return [s for count in self.counts.values() for s in count.seen]

    @property
    def checks(self) -> int:
        """Results compared."""
        return sum(c.checks for c in self.counts.values())

    @property
    def mismatches(self) -> int:
        """Runs with a wrong result."""
        return sum(c.mismatches for c in self.counts.values())
