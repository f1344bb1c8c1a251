"""Steps: whom a sweep waits for, whom it leaves out, and what it looks at again."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sdc_guard.records import Cause
from sdc_guard.sweep.crew import Lost
from sdc_guard.sweep.declared import CORE, Oracle, SweepTest
from sdc_guard.sweep.messages import Done
from sdc_guard.sweep.schedule import Step
from sdc_guard.sweep.sweeping import Asked, Sweeping
from sdc_guard.sweep.tally import Seen
from sdc_guard.sweep.units import Unit
from sdc_guard.sweep.words import FAIL, SUSPECT, Decision

CORES = tuple(Unit(CORE, f"core {n}", n) for n in range(3))
TEST = SweepTest(name="t", family="F1", oracles=(Oracle.EXACT,), kinds=(CORE,), blames="core",
                 dtypes=(), dwell_s=1.0, proves="-", cannot_prove="-", cases=lambda place: ())


def test_no_worker_is_at_work_while_another_is_waited_for(tmp_path: Path):
    at_work: list[Any] = []
    busy_while_waiting: list[int] = []

    class FakeCrew:
        def send(self, hand: Any, task: Any) -> None:
            at_work.append(hand)

        def listen(self, timeout_s: float) -> list[tuple[Any, Any]]:
            said = [(hand, Done(test="t", cases=(), canary="none", elapsed_s=0.0))
                    for hand in at_work]
            at_work.clear()
            return said

    def start(unit: Unit, variables: object) -> Any:
        busy_while_waiting.append(len(at_work))  # whatever these say now, nobody hears
        time.sleep(0.01)
        return SimpleNamespace(unit=unit, hello=None, lost=None)

    sweeping = Sweeping(Asked(units=CORES, tests={"t": TEST}, seed=1, budget_s=9.0,
                              folder=tmp_path))
    vars(sweeping).update(_crew=FakeCrew(), _hand=start, _tick=lambda state: None)
    sweeping._batch(Step(TEST, CORES), CORES, 0.1)
    assert busy_while_waiting == [0, 0, 0]
    assert [sweeping.tally.count(unit, TEST).visits for unit in CORES] == [1, 1, 1]


def state_of(tmp_path: Path) -> Sweeping:
    return Sweeping(Asked(units=CORES, tests={"t": TEST}, seed=1, budget_s=9.0, folder=tmp_path))


def seen_of(word: str, case: str) -> Seen:
    return Seen(CORES[0], TEST, case, 0.0, "exact", Decision(word, Cause.UNKNOWN, "core 0", "-"))


def test_a_worker_that_never_begins_is_told_with_its_environment(tmp_path: Path):
    lost = Lost("SIGSEGV", -11, is_hang=False, silent_s=0.0, tail="")
    hand = SimpleNamespace(hello=None, lost=lost, is_ready=False)
    sweeping = state_of(tmp_path)
    vars(sweeping).update(_crew=SimpleNamespace(start=lambda unit, variables: hand))
    assert sweeping._hand(CORES[0], (("MKL_CBWR", "COMPATIBLE"),)) is None
    assert sweeping.tally.problems == [
        "core 0 was left out with MKL_CBWR=COMPATIBLE: its worker ended by SIGSEGV"]


def test_a_suspicion_closes_no_case(tmp_path: Path):
    sweeping = state_of(tmp_path)
    count = sweeping.tally.count(CORES[0], TEST)
    count.seen += [seen_of(SUSPECT, "a")] * 5
    assert not sweeping._is_looked_at(CORES[0], TEST, "a")
    count.seen.append(seen_of(FAIL, "a"))
    assert sweeping._is_looked_at(CORES[0], TEST, "a")
    assert not sweeping._is_looked_at(CORES[0], TEST, "b")
    count.seen += [seen_of(SUSPECT, "a")] * 3
    assert sweeping._is_looked_at(CORES[0], TEST, "b"), "nor is there an end of looking"
