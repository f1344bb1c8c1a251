"""A test on this unit for a while: compute, compare all bits, look again at what is wrong.

Runs in the worker, on the unit under test.  A ``tamper`` stands between computation and comparison:
that is where the canary flips its bit, and where faults are injected to measure what is found.
"""

from __future__ import annotations

import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits as raw_bits
from sdc_guard.sweep.anatomy import described, digest_of, elements_of, wrong_elements
from sdc_guard.sweep.declared import (
    HOST,
    Bits,
    Case,
    Isolated,
    Made,
    Oracle,
    Place,
    SweepTest,
    Unavailable,
    Unsupported,
)
from sdc_guard.sweep.exact import bits_of
from sdc_guard.sweep.messages import (
    Beat,
    CaseDone,
    Confirm,
    Confirmed,
    Done,
    Message,
    Miscompare,
    Visit,
)

Result = Tensor | NDArray[Any]
Tamper = Callable[[Case, Made, Sequence[Result]], None]
"""Changes results in place, as a faulty unit would."""
Golden = Callable[[str, str], str]
"""Key and digest to ``equal``, ``differs``, or the reason why neither is known."""

NUM_RETESTS = 10
"""Twice as many where the first ones are all right."""
MAX_RETEST_S = 10.0
BEAT_S = 0.25
MIN_CASE_S, MAX_CASE_S = 0.01, 1.0
MAX_HELD_BYTES = 1 << 28


@dataclass
class _Open:
    """A case of this visit: what was made of it, and its counts."""

    case: Case
    made: Made
    expected: list[Bits] | None
    runs: int = 0
    checks: int = 0
    elapsed_s: float = 0.0
    mismatches: int = 0
    digest: str = ""
    golden: str = ""
    is_told: bool = False

    @property
    def held_bytes(self) -> int:
        arrays = (*self.made.inputs, *(self.expected or ()))
        return sum(int(a.nbytes) for a in arrays) + self.made.num_bytes


@dataclass
class Visitor:
    """Makes visits for one unit.

    ``sense`` reads temperatures and clocks; ``beat`` gets a :class:`Beat` a few times a second.
    """

    place: Place
    tests: Mapping[str, SweepTest]
    send: Callable[[Message], None]
    tamper: Tamper | None = None
    golden: Golden | None = None
    sense: Callable[[], dict[str, float]] = dict
    core: Callable[[], int] = lambda: -1
    _canaries: dict[str, str] = field(default_factory=dict)

    def visit(self, task: Visit) -> Done:
        """The whole visit; every failure of the test itself is told in ``Done.error``."""
        started_s = time.monotonic()
        test = self.tests[task.test]
        skip = test.skip(self.place)
        if skip:
            return Done(test=test.name, cases=(), canary="none", elapsed_s=0.0, skip=skip)
        done: dict[str, CaseDone] = {}
        error, next_case = "", 0
        try:
            next_case = self._round(test, task, started_s, done)
        except Exception as failure:
            error = place_of_failure(failure)
        return Done(
            test=test.name, cases=tuple(done.values()), next_case=next_case, error=error,
            canary=self._canaries.get(test.name, "none"), core=self.core(), sensors=self.sense(),
            elapsed_s=time.monotonic() - started_s)

    def _round(
        self, test: SweepTest, task: Visit, started_s: float, done: dict[str, CaseDone]
    ) -> int:
        """Go round the cases until the time is over; each is made once while memory lasts."""
        cases = by_turns([c for c in test.cases(self.place) if task.case in ("", c.label)])
        if not cases:
            raise LookupError(f"test {test.name} has no case {task.case!r}")
        end_s = started_s + task.limit_s
        held: dict[str, _Open] = {}
        before: dict[str, CaseDone] = {}  # of cases whose memory was given back
        burst_s = min(max(task.limit_s / len(cases), MIN_CASE_S), MAX_CASE_S)
        if test.pace.does_alternate or test.pace.busy_s:
            burst_s = test.pace.busy_s or burst_s
        position, last_beat_s = task.first_case % len(cases), started_s
        num_unsupported = 0
        while True:
            case = cases[position]
            position = (position + 1) % len(cases)
            if case.label not in held:
                if sum(o.held_bytes for o in held.values()) > MAX_HELD_BYTES:
                    held.clear()
                    before = dict(done)
                try:
                    held[case.label] = self._made(test, case, task.seed)
                except Unsupported as reason:
                    num_unsupported += 1
                    done[case.label] = CaseDone(case=case.label, op=case.op,
                                                unsupported=str(reason),
                                                is_unavailable=isinstance(reason, Unavailable))
            if case.label in held:
                opened = held[case.label]
                self._burst(test, task, opened, min(time.monotonic() + burst_s, end_s))
                done[case.label] = _added(before.get(case.label), opened)
                if test.pace.idle_s:
                    time.sleep(min(test.pace.idle_s, max(0.0, end_s - time.monotonic())))
            now_s = time.monotonic()
            if now_s - last_beat_s >= BEAT_S:
                last_beat_s = now_s
                self.send(Beat(case=case.label, checks=sum(d.checks for d in done.values()),
                               mismatches=sum(d.mismatches for d in done.values())))
            if now_s >= end_s or num_unsupported >= len(cases):
                return position

    def _made(self, test: SweepTest, case: Case, seed: int) -> _Open:
        made = case.make(generator(test.name, case.label, seed), self.place)
        expected = None if made.expected is None else list(made.expected)
        opened = _Open(case, made, expected)
        if self._canaries.get(test.name) is None:
            results = made.run()
            self._canaries[test.name] = "caught" if canary_is_caught(made, results) else "missed"
            if expected is not None:
                made.trial.append(results)
        return opened

    def _burst(self, test: SweepTest, task: Visit, opened: _Open, end_s: float) -> None:
        """At least one run; before it comes what was run already, which is not counted as work."""
        while opened.made.trial:
            results = opened.made.trial.pop(0)
            self._compare(test, task, opened, results, [bits_of(result) for result in results])
        while True:
            started_s = time.monotonic()
            self._once(test, task, opened)
            now_s = time.monotonic()
            opened.elapsed_s += now_s - started_s
            if now_s >= end_s:
                return

    def _once(self, test: SweepTest, task: Visit, opened: _Open) -> None:
        results = self._run(opened)
        got = [bits_of(result) for result in results]
        opened.runs += 1
        opened.checks += opened.made.num_checks or sum(g.size for g in got)
        if opened.expected is None:
            # The first run stands in: what comes is compared with it here, and it with peers.
            opened.expected = got
            opened.digest = joint_digest(got)
            opened.golden = self._by_golden(opened)
            if opened.golden == "differs":
                self._tell(test, task, opened, results, got, 0, "golden")
            return
        self._compare(test, task, opened, results, got)

    def _compare(
        self, test: SweepTest, task: Visit, opened: _Open, results: Sequence[Result],
        got: list[Bits],
    ) -> None:
        assert opened.expected is not None
        for output, (have, right) in enumerate(zip(got, opened.expected, strict=True)):
            if wrong_elements(have, right) is not None:
                opened.mismatches += 1
                self._tell(test, task, opened, results, got, output,
                           oracle_word(test, opened.made))
                return

    def _run(self, opened: _Open) -> Sequence[Result]:
        results = opened.made.run()
        if self.tamper is not None:
            self.tamper(opened.case, opened.made, results)
        return results

    def _by_golden(self, opened: _Open) -> str:
        if not opened.made.golden_key or self.golden is None:
            return ""
        return self.golden(opened.made.golden_key, opened.digest)

    def _tell(
        self, test: SweepTest, task: Visit, opened: _Open, results: Sequence[Result],
        got: list[Bits], output: int, oracle: str,
    ) -> None:
        """Look again at the first miscompare of a case in a visit, and send what was seen."""
        if opened.is_told:
            return
        opened.is_told = True
        assert opened.expected is not None
        have, right = got[output], opened.expected[output]
        wrong = wrong_elements(have, right)
        number = opened.runs
        # The memory that holds the result, read once more.
        again = wrong_elements(bits_of(results[output]), right)
        stored = [tuple(e.index) for e in elements_of(have, right, wrong, opened.case.dtype)] \
            if wrong is not None else []
        counts = self._retested(opened, output, have, oracle)
        worst, pattern, spread = (None, None, None) if wrong is None else described(
            have, right, wrong, opened.case.dtype, output)
        name, isolate = opened.made.subunit, opened.made.isolate
        isolated = Isolated("", "") if isolate is None else isolate()
        self.send(Miscompare(
            test=test.name, case=opened.case.label, op=opened.case.op, dtype=opened.case.dtype,
            shape=opened.case.shape, seed=task.seed, oracle=oracle, output=output, worst=worst,
            pattern=pattern, spread=spread,
            elements=() if wrong is None else elements_of(have, right, wrong, opened.case.dtype),
            num_reread=0 if again is None else int(again.sum()), wrong=counts[0], tried=counts[1],
            wrong_alike=counts[2], expected_digest=joint_digest(opened.expected),
            got_digest=joint_digest(got),
            subunits=() if name is None else tuple(dict.fromkeys(map(name, stored))),
            isolated=isolated.place, isolation=isolated.reason,
            core=self.core(), sensors=self.sense(), run_number=number))

    def _retested(
        self, opened: _Open, output: int, have: Bits, oracle: str
    ) -> tuple[int, int, int]:
        """``wrong``, ``tried``, and how many were wrong with the very bits of ``have``."""
        assert opened.expected is not None
        wrong = tried = alike = 0
        end_s = time.monotonic() + MAX_RETEST_S
        while (tried < NUM_RETESTS or (not wrong and tried < 2 * NUM_RETESTS)) and (
                time.monotonic() < end_s or not tried):
            got = [bits_of(result) for result in self._run(opened)]
            tried += 1
            if oracle == Oracle.GOLDEN.value:
                is_wrong = self._is_off_golden(opened, got)
            else:
                is_wrong = wrong_elements(got[output], opened.expected[output]) is not None
            wrong += is_wrong
            alike += is_wrong and wrong_elements(got[output], have) is None
        return wrong, tried, alike

    def _is_off_golden(self, opened: _Open, got: list[Bits]) -> bool:
        assert self.golden is not None
        return self.golden(opened.made.golden_key, joint_digest(got)) == "differs"

    def confirm(self, task: Confirm) -> Confirmed:
        """The same case, made and run here."""
        test = self.tests[task.test]
        try:
            case = next(c for c in test.cases(self.place) if c.label == task.case)
            made = case.make(generator(test.name, case.label, task.seed), self.place)
            opened = _Open(case, made, None if made.expected is None else list(made.expected))
            wrong, digests = 0, []
            for _ in range(task.times):
                got = [bits_of(result) for result in self._run(opened)]
                digests.append(joint_digest(got))
                if opened.expected is None:
                    opened.expected = got
                wrong += any(wrong_elements(h, r) is not None
                             for h, r in zip(got, opened.expected, strict=True))
            return Confirmed(
                test=task.test, case=task.case, seed=task.seed, wrong=wrong, tried=task.times,
                expected_digest=joint_digest(made.expected) if made.expected is not None else "",
                digest=digests[0], run_digests=tuple(digests))
        except Unsupported as reason:
            return Confirmed(test=task.test, case=task.case, seed=task.seed, wrong=0, tried=0,
                             unsupported=str(reason),
                             is_unavailable=isinstance(reason, Unavailable))
        except Exception as failure:
            return Confirmed(test=task.test, case=task.case, seed=task.seed, wrong=0, tried=0,
                             error=place_of_failure(failure))


def by_turns(cases: Sequence[Case]) -> list[Case]:
    """The first case of each operator, then the second of each, and so on: a visit that is too
    short for all cases still reaches every operator that it can."""
    turns: Counter[str] = Counter()
    ranks = []
    for case in cases:
        ranks.append(turns[case.op])
        turns[case.op] += 1
    return [case for _, case in sorted(zip(ranks, cases, strict=True), key=itemgetter(0))]


def generator(test: str, case: str, seed: int) -> np.random.Generator:
    """The operands' generator: test, case and seed alone decide it."""
    return np.random.default_rng([seed, zlib.crc32(test.encode()), zlib.crc32(case.encode())])


def canary_is_caught(made: Made, results: Sequence[Result]) -> bool:
    """Whether one flipped bit in the middle of a copy of one of a run's results is seen by the
    comparison in use."""
    before = [bits_of(result) for result in results]
    expected = before if made.expected is None else list(made.expected)
    target = next((i for i, b in enumerate(before) if b.size), None)
    if target is None:
        return False
    flipped = before[target].copy()
    flipped.reshape(-1)[flipped.size // 2] ^= flipped.dtype.type(1)
    # Against the result itself and against what is expected: a result that is wrong already is for
    # the visit to find, and must not pass for a canary that was seen.
    return (wrong_elements(flipped, before[target]) is not None
            and wrong_elements(before[target], before[target].copy()) is None
            and expected[target].shape == before[target].shape)


def joint_digest(results: Sequence[Bits]) -> str:
    """One digest for all results of a case."""
    digests = [digest_of(r) for r in results]
    return digests[0] if len(digests) == 1 else digest_of(
        np.frombuffer("".join(digests).encode(), np.uint8))


def oracle_word(test: SweepTest, made: Made) -> str:
    """What a case's results are compared with."""
    if made.expected is None:
        return Oracle.SELF.value
    return (Oracle.EXACT if Oracle.EXACT in test.oracles else test.oracles[0]).value


def _added(before: CaseDone | None, opened: _Open) -> CaseDone:
    """The counts of an open case, and those from before it was made again."""
    was = before or CaseDone(case=opened.case.label, op=opened.case.op)
    return CaseDone(
        case=opened.case.label, op=opened.case.op, runs=was.runs + opened.runs,
        checks=was.checks + opened.checks, flops=was.flops + opened.runs * opened.made.flops,
        num_bytes=was.num_bytes + opened.runs * opened.made.num_bytes,
        elapsed_s=was.elapsed_s + opened.elapsed_s,
        mismatches=was.mismatches + opened.mismatches, digest=opened.digest,
        golden_key=opened.made.golden_key, golden=opened.golden)


def place_of_failure(failure: BaseException) -> str:
    """``ValueError: text (file.py:12)``."""
    trace, where = failure.__traceback__, ""
    while trace is not None:
        where = f" ({trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno})"
        trace = trace.tb_next
    return f"{type(failure).__name__}: {str(failure)[:500]}{where}"


def writable(result: Result) -> Bits:
    """A result's own memory as bits, for a ``tamper``."""
    return raw_bits.raw(result) if isinstance(result, Tensor) else result.view(
        f"u{result.dtype.itemsize}")


def threads_of(place: Place) -> int:
    """Threads for an operator: one on a core, so that work stays there."""
    return place.num_threads if place.kind == HOST else 1
