"""A sweep from start to end: workers, rounds, tests, and what is made of what they say."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdc_guard.sweep.crew import Crew, Hand, Lost, NotStarted, Variables
from sdc_guard.sweep.declared import CORE, SweepTest
from sdc_guard.sweep.golden import Recorded
from sdc_guard.sweep.looking import Looker, wait_ready
from sdc_guard.sweep.messages import Beat, CaseDone, Done, Miscompare, Visit
from sdc_guard.sweep.schedule import MAX_SHARE_OF_STEP, Step, by_debt, slice_s, steps
from sdc_guard.sweep.tally import Seen, Tally
from sdc_guard.sweep.units import Unit
from sdc_guard.sweep.words import FAIL, SUSPECT, decide_repeated

START_LIMIT_S = 120.0
TICK_S = 0.2
MAX_LOOKED, MAX_SUSPECTED = 3, 9
"""Of one test on one unit so many cases are taken elsewhere; more are counted.  A suspicion closes
no case, and fills the place of a third of a case."""
LOAD_TEST = "exact_product"
SAMPLE_S = 1.0
MAX_SAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a sweep is asked to do, within ``budget_s`` seconds in all.

    ``dwelt_s`` and ``first_case`` tell, by unit and test, what earlier sweeps did; ``on_visit`` is
    called after each visit, so that nothing is lost if this process is killed; ``event`` with each
    line of the log.
    """

    units: tuple[Unit, ...]
    tests: Mapping[str, SweepTest]
    seed: int
    budget_s: float
    folder: Path
    hang_s: float = 30.0
    case: str = ""
    golden: tuple[Path, ...] = ()
    is_fail_fast: bool = False
    dwelt_s: Callable[[str, str], float] = lambda unit, test: 0.0
    first_case: Callable[[str, str], int] = lambda unit, test: 0
    on_visit: Callable[[Unit, SweepTest, Done], None] = lambda unit, test, done: None
    event: Callable[[str, dict[str, Any]], None] = lambda kind, body: None


@dataclass
class Sample:
    """What sensors showed."""

    time_s: float
    unit: str
    readings: dict[str, float]


@dataclass
class Sweeping:
    """The state of a sweep.  ``now`` says by unit what its worker is at; ``golden`` holds digests
    by the software that gave them."""

    asked: Asked
    tally: Tally = field(default_factory=Tally)
    environment: dict[str, Any] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    digests: dict[tuple[str, str, str], str] = field(default_factory=dict)
    golden: dict[str, Recorded] = field(default_factory=dict)
    now: dict[str, str] = field(default_factory=dict)
    round_number: int = 0
    is_complete: bool = False
    is_interrupted: bool = False
    refused: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.started_s = time.monotonic()
        self._hands: dict[tuple[str, Variables], Hand] = {}
        self._beats: dict[str, int] = {}
        self._alike: set[tuple[str, str]] = set()
        self._beat_mismatches = 0
        self._last_sample_s: dict[str, float] = {}

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started_s

    @property
    def left_s(self) -> float:
        return self.asked.budget_s - self.elapsed_s

    @property
    def checks(self) -> int:
        """With those of visits that are not over."""
        return self.tally.checks + sum(self._beats.values())

    @property
    def mismatches(self) -> int:
        """Runs with a wrong result so far."""
        return self.tally.mismatches + self._beat_mismatches

    def run(self, tick: Callable[[Sweeping], None]) -> None:
        """Until the time is over; Ctrl-C ends it in order.  ``tick`` is called a few times a
        second."""
        self._tick = tick
        self._crew = Crew(self.asked.folder, hang_s=self.asked.hang_s, golden=self.asked.golden)
        self._looker = Looker(self._crew, self.asked.units, self._hand)
        try:
            self._start()
            self._rounds()
            self.is_complete = True
        except KeyboardInterrupt:
            self.is_interrupted = True
        finally:
            self._crew.close()

    def _start(self) -> None:
        """All units at once."""
        for number, unit in enumerate(self.asked.units):
            try:
                self._hands[unit.name, ()] = self._crew.start(
                    unit, tells_environment=number == 0)
            except NotStarted as error:
                self._refuse(unit, str(error))
        for unit in self.asked.units:
            if unit.name in self.refused:
                continue
            hand = self._hands[unit.name, ()]
            while hand.hello is None and hand.lost is None:
                self._crew.listen(TICK_S)
                self._tick(self)
            if hand.hello is not None and hand.hello.environment:
                self.environment = hand.hello.environment
            if not hand.is_ready:
                why = (hand.hello.problem if hand.hello is not None
                       else f"its worker {hand.lost.words}" if hand.lost else "")
                self._refuse(unit, why)
            self.asked.event("unit", {
                "unit": unit.name, "facts": unit.facts, "problem": self.refused.get(unit.name, ""),
                "affinity": list(hand.hello.affinity) if hand.hello else []})

    def _refuse(self, unit: Unit, why: str) -> None:
        self.refused[unit.name] = why
        self.tally.tell(f"{unit.name} was not tested: {why}")

    def _rounds(self) -> None:
        units = [u for u in self.asked.units if u.name not in self.refused]
        todo = by_debt(steps(self.asked.tests.values(), units), self.asked.dwelt_s)
        for unit in self.asked.units:  # cells for what is not reached, and for who cannot work
            for test in self.asked.tests.values():
                if unit.kind in test.kinds:
                    count = self.tally.count(unit, test)
                    count.skip = self.refused.get(unit.name, "")
        found = [s for s in todo if s.min_s <= MAX_SHARE_OF_STEP * self.asked.budget_s]
        for step in todo:
            if step not in found:
                for unit in step.units:
                    self.tally.count(unit, step.test).skip = (
                        f"needs at least {step.min_s / MAX_SHARE_OF_STEP:.0f} s of sweep")
        if self.left_s <= 0:
            self.tally.tell(f"the workers were ready after {self.elapsed_s:.0f} s, with nothing "
                            "left of the time that was asked for: give more")
        while found and self.left_s > 0:
            length_s = slice_s(self.asked.budget_s, found, self.round_number)
            for step in found:
                for batch in step.batches:
                    if self.left_s <= 0:
                        return
                    self._batch(step, batch, min(max(length_s, step.min_s / len(step.batches)),
                                                 self.left_s))
                    if self.asked.is_fail_fast and self._has_failed():
                        return
                self._let_go(step.variables)
            self.round_number += 1

    def _has_failed(self) -> bool:
        return any(s.decision.word == FAIL for s in self.tally.seen)

    def _batch(self, step: Step, batch: Sequence[Unit], length_s: float) -> None:
        """One test on some units at the same time; the rest of the cores is idle or loaded."""
        seed = self.asked.seed + self.round_number
        visits: dict[int, tuple[Unit, Visit]] = {}
        loads = [u for u in self.asked.units if u.kind == CORE and u not in batch
                 and u.name not in self.refused] if step.test.company.value == "loaded" else []
        hands: list[tuple[Unit, Hand]] = []
        for unit in (*batch, *loads):
            with contextlib.suppress(NotStarted):
                hand = self._hand(unit, () if unit in loads else step.variables)
                if hand is not None:
                    hands.append((unit, hand))
        # Not before all are ready: what one says while the next is waited for would be lost.
        for unit, hand in hands:
            task = Visit(
                test=LOAD_TEST if unit in loads else step.test.name, seed=seed, limit_s=length_s,
                first_case=self._first_case(unit, step.test), case=self.asked.case,
                is_load=unit in loads)
            self._crew.send(hand, task)
            visits[id(hand)] = (unit, task)
            self.now[unit.name] = step.name
        if not visits:  # no worker can be started now: not again at once
            time.sleep(TICK_S)
        done: dict[Unit, Done] = {}
        raised: list[tuple[Unit, Visit, str]] = []
        wrong: list[tuple[Unit, Miscompare, float]] = []
        lost: list[tuple[Unit, Visit, Lost]] = []
        while visits:
            for hand, message in self._crew.listen(TICK_S):
                if id(hand) not in visits:
                    continue
                unit, task = visits[id(hand)]
                self._sample(unit, message)
                if isinstance(message, Miscompare):
                    wrong.append((unit, message, self.elapsed_s))
                    self._event("miscompare", unit, message)
                elif isinstance(message, Beat):
                    self._beats[unit.name] = message.checks
                    self._beat_mismatches += bool(message.mismatches and not wrong)
                elif isinstance(message, (Done, Lost)):
                    del visits[id(hand)]
                    self._beats.pop(unit.name, None)
                    if isinstance(message, Lost):
                        lost.append((unit, task, message))
                    elif not task.is_load:
                        done[unit] = message
                        if message.error:
                            raised.append((unit, task, message.error))
                        self._account(unit, step, message)
                        if hand.hello is not None:
                            self._record(hand.hello.software, message)
            self._tick(self)
        self._beat_mismatches = 0
        self._look(step, seed, done, wrong, lost)
        for unit, task, error in raised:
            if not self._is_looked_at(unit, step.test, ""):
                seen = self._looker.raised(unit, step.test, task, error, step.variables,
                                           self.elapsed_s)
                if seen is not None:
                    self._keep(seen)

    def _account(self, unit: Unit, step: Step, done: Done) -> None:
        count = self.tally.count(unit, step.test)
        count.add(done)
        if unit.kind == CORE and done.core not in (-1, unit.index):
            count.is_moved = f"the worker was moved to core {done.core}"
        self.asked.on_visit(unit, step.test, done)
        self._event("visit", unit, done)

    def _record(self, software: dict[str, str], done: Done) -> None:
        """What could be golden digests, if all of this is clean."""
        found = {case.golden_key: case.digest for case in done.cases
                 if case.golden_key and case.digest}
        if found:
            record = self.golden.setdefault(repr(sorted(software.items())),
                                            Recorded(software, {}))
            record.digests.update(found)

    def _look(
        self, step: Step, seed: int, done: dict[Unit, Done],
        wrong: list[tuple[Unit, Miscompare, float]], lost: list[tuple[Unit, Visit, Lost]],
    ) -> None:
        """Take elsewhere what was wrong, and let peers vote."""
        test, variables = step.test, step.variables
        for unit, message, time_s in wrong:
            if not self._is_looked_at(unit, step.test, message.case):
                self._keep(self._looker.miscompare(unit, test, message, variables, time_s))
        for unit, _, _ in wrong:
            self.tally.count(unit, test).times_off += 1
        for unit in {unit for unit, _, _ in wrong}:
            self._reconsider(unit, test)
        for unit, task, how in lost:
            target = self.asked.tests.get(task.test, test)
            self._keep(self._looker.lost(unit, target, task, how, variables, self.elapsed_s))
        self._compare_peers(step, seed, done, {u for u, _, _ in wrong})

    def _reconsider(self, unit: Unit, test: SweepTest) -> None:
        """Results that were each off once are more than a suspicion together."""
        others = {u.name: self.tally.count(u, test).times_off for u in self.asked.units
                  if u.model == unit.model and u != unit}
        count = self.tally.count(unit, test)
        for seen in count.seen:
            if seen.what is not None:
                seen.decision = decide_repeated(seen.decision, seen.what.oracle, count.times_off,
                                                others)

    def _compare_peers(
        self, step: Step, seed: int, done: dict[Unit, Done], wrong: set[Unit]
    ) -> None:
        by_case: dict[tuple[str, tuple[str, ...]], dict[Unit, CaseDone]] = {}
        for unit, visit in done.items():
            for case in visit.cases:
                by_case.setdefault((case.case, unit.model), {})[unit] = case
        for (label, _), found in by_case.items():
            digests = {u: c.digest for u, c in found.items() if c.digest}
            for unit in digests:
                count = self.tally.count(unit, step.test)
                count.num_peers = max(count.num_peers, len(digests) - 1)
                if found[unit].golden_key or not self.round_number:  # a soak has many rounds
                    key = self._digest_key(step, label, seed, found[unit])
                    self.digests[unit.name, step.test.name, key] = digests[unit]
            if len(set(digests.values())) > 1 and not wrong & set(digests) and not all(
                    self._is_looked_at(unit, step.test, label) for unit in digests):
                for seen in self._looker.split(step.test, label, seed, digests, step.variables,
                                               self.elapsed_s):
                    self._keep(seen)
            unable = {u: c for u, c in found.items() if c.unsupported and not c.is_unavailable}
            able = [u for u in found if not found[u].unsupported]
            for unit, case in unable.items():
                if not able and (len(found) > 1 or (step.name, case.unsupported) in self._alike):
                    continue  # it is so everywhere
                self._alike.add((step.name, case.unsupported))
                if not self._is_looked_at(unit, step.test, label):
                    seen_here = self._looker.unsupported(
                        unit, step.test, case, seed, step.variables, self.elapsed_s, able)
                    if seen_here is not None:
                        self._keep(seen_here)

    def _digest_key(self, step: Step, label: str, seed: int, case: CaseDone) -> str:
        """What is golden does not depend on the seed."""
        made_of = f"golden {case.golden_key}" if case.golden_key else f"seed {seed}"
        return " | ".join((step.name, label, made_of))

    def _is_looked_at(self, unit: Unit, test: SweepTest, case: str) -> bool:
        seen = self.tally.count(unit, test).seen
        closed = [s for s in seen if s.decision.word != SUSPECT]
        return (len(closed) >= MAX_LOOKED or len(seen) >= MAX_SUSPECTED
                or any(s.case == case for s in closed))

    def _keep(self, seen: Seen) -> None:
        self.tally.count(seen.unit, seen.test).seen.append(seen)
        self.asked.event("decision", {
            "unit": seen.unit.name, "test": seen.test.name, "case": seen.case, "seed": seen.seed,
            "word": seen.decision.word, "cause": seen.decision.cause.value,
            "blames": seen.decision.place, "reason": seen.decision.reason})

    def _first_case(self, unit: Unit, test: SweepTest) -> int:
        count = self.tally.count(unit, test)
        return count.next_case if count.visits else self.asked.first_case(unit.name, test.name)

    def _hand(self, unit: Unit, variables: Variables) -> Hand | None:
        """A worker that waits, started where there is none; None where none can work."""
        if unit.name in self.refused:
            return None
        hand = self._hands.get((unit.name, variables))
        if hand is None or hand.lost is not None:
            try:
                hand = self._hands[unit.name, variables] = self._crew.start(unit, variables)
            except NotStarted as error:
                self.tally.tell(f"{unit.name} was left out for a while: {error}")
                raise
        if wait_ready(self._crew, hand, START_LIMIT_S):
            return hand
        under = " with " + ", ".join("=".join(v) for v in variables) if variables else ""
        why = (f"its worker {hand.lost.words}" if hand.lost is not None
               else hand.hello.problem if hand.hello is not None
               else f"its worker said nothing for {START_LIMIT_S:.0f} s")
        self.tally.tell(f"{unit.name} was left out{under}: {why}")
        return None

    def _let_go(self, variables: Variables) -> None:
        """Workers of a special environment are ended after their step: memory is dear."""
        for key in [k for k in self._hands if variables and k[1] == variables]:
            hand = self._hands.pop(key)
            if hand.lost is None:
                self._crew.stop(hand)

    def _sample(self, unit: Unit, message: object) -> None:
        readings = getattr(message, "sensors", {})
        now_s = self.elapsed_s
        if (readings and len(self.samples) < MAX_SAMPLES
                and now_s - self._last_sample_s.get(unit.name, -SAMPLE_S) >= SAMPLE_S):
            self._last_sample_s[unit.name] = now_s
            self.samples.append(Sample(now_s, unit.name, dict(readings)))

    def _event(self, kind: str, unit: Unit, message: object) -> None:
        self.asked.event(kind, {"unit": unit.name, "message": message})
