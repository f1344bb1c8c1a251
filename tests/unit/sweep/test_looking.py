"""Looking again: whom a wrong number is taken to, and what follows from the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sdc_guard.records import Cause
from sdc_guard.sweep import looking
from sdc_guard.sweep.crew import Crew, Lost
from sdc_guard.sweep.declared import CORE, HOST, Oracle, SweepTest
from sdc_guard.sweep.looking import MAX_OTHERS, NUM_CONFIRMATIONS, Looker
from sdc_guard.sweep.messages import CaseDone, Confirm, Confirmed, Done, Miscompare, Visit
from sdc_guard.sweep.units import Unit
from sdc_guard.sweep.words import AMBIGUOUS, FAIL, SUSPECT, TOOL_ERROR

CORES = tuple(Unit(CORE, f"core {n}", n, {"model": "old" if n == 3 else "new"}) for n in range(5))
WHOLE = Unit(HOST, "host", 0)
TEST = SweepTest(name="t", family="F1", oracles=(Oracle.EXACT,), kinds=(CORE, HOST), blames="core",
                 dtypes=(), dwell_s=1.0, proves="-", cannot_prove="-", cases=lambda place: ())
LOST = Lost("SIGSEGV", -11, False, 0.0, "the tail")
GONE = object()


def confirmed(wrong: int = 0, tried: int = NUM_CONFIRMATIONS, **more: Any) -> Confirmed:
    return Confirmed(test="t", case="c", seed=1, wrong=wrong, tried=tried, expected_digest="right",
                     **{"digest": "right", **more})


def miscompare(wrong: int = 10, oracle: Oracle = Oracle.EXACT) -> Miscompare:
    return Miscompare(
        test="t", case="c", op="mm", dtype="float32", shape=(1,), seed=1, oracle=oracle.value,
        output=0, worst=None, pattern=None, spread=None, elements=(), num_reread=1, wrong=wrong,
        tried=10, wrong_alike=0, expected_digest="right", got_digest="wrong")


class FakeCrew:
    """Each unit gives its answers in turn: a message, a :class:`Lost`, or GONE where no worker can
    be had."""

    def __init__(self, answers: Mapping[str, Sequence[Any]]) -> None:
        self._answers = {name: iter(said) for name, said in answers.items()}
        self._waiting: list[tuple[Any, Any]] = []
        self.asked: list[tuple[str, Any]] = []

    def hand_of(self, unit: Unit, variables: object) -> Any:
        answer = next(self._answers[unit.name])
        return None if answer is GONE else SimpleNamespace(unit=unit, answer=answer)

    def send(self, hand: Any, task: Any) -> None:
        self.asked.append((hand.unit.name, task))
        self._waiting.append((hand, hand.answer))

    def listen(self, timeout_s: float) -> list[tuple[Any, Any]]:
        found, self._waiting = self._waiting, []
        return [(object(), confirmed(99)), *found]  # another worker speaks, too


def looker(answers: Mapping[str, Sequence[Any]], units: Sequence[Unit] = CORES
           ) -> tuple[Looker, FakeCrew]:
    crew = FakeCrew(answers)
    return Looker(cast(Crew, crew), units, crew.hand_of), crew


def test_others_are_of_its_kind_the_same_model_first_and_not_too_many():
    found, _ = looker({}, (*CORES, WHOLE))
    assert [u.index for u in found.others(CORES[0])] == [1, 2, 4]
    assert len(found.others(CORES[3])) == MAX_OTHERS
    assert [u.index for u in found.others(WHOLE)] == [0, 1, 2, 3, 4]


def test_where_one_core_is_swept_another_of_the_machine_is_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(looking, "usable_cores", lambda: (0, 1, 2))
    found, _ = looker({}, (CORES[1], WHOLE))
    assert [u.name for u in found.others(CORES[1])] == ["core 0", "core 2"]


def test_a_miscompare_is_taken_to_others_one_after_the_other():
    found, crew = looker({"core 1": [confirmed()], "core 2": [confirmed()],
                          "core 4": [confirmed()]})
    seen = found.miscompare(CORES[0], TEST, miscompare(), (), 2.5)
    assert (seen.decision.word, seen.decision.place) == (FAIL, "core 0")
    assert (seen.case, seen.seed, seen.time_s, seen.witness) == ("c", 1, 2.5, "exact")
    wanted = Confirm(test="t", case="c", seed=1, times=NUM_CONFIRMATIONS)
    assert crew.asked == [("core 1", wanted), ("core 2", wanted), ("core 4", wanted)]


def test_who_is_lost_or_cannot_be_had_has_no_vote():
    found, _ = looker({"core 1": [LOST], "core 2": [GONE], "core 4": [confirmed(10)]})
    seen = found.miscompare(CORES[0], TEST, miscompare(), (), 0.0)
    assert seen.decision.cause is Cause.SOFTWARE  # all that answered do the same
    none, _ = looker({"core 1": [LOST], "core 2": [GONE], "core 4": [GONE]})
    assert none.miscompare(CORES[0], TEST, miscompare(), (), 0.0).decision.cause is Cause.UNKNOWN


def test_what_the_host_gets_wrong_is_asked_of_each_core():
    answers = {u.name: [confirmed(10 if u.index == 2 else 0)] for u in CORES}
    found, crew = looker(answers, (*CORES, WHOLE))
    seen = found.miscompare(WHOLE, TEST, miscompare(), (), 0.0)
    assert (seen.decision.word, seen.decision.place) == (FAIL, "core 2")
    assert len(crew.asked) == len(CORES)


def test_a_case_that_this_unit_cannot_do_and_others_can():
    unable = CaseDone(case="c", op="mm", unsupported="the probe gives 3")
    again = confirmed(tried=0, unsupported="the probe gives 3")
    found, _ = looker({"core 0": [again], "core 1": [confirmed()]})
    seen = found.unsupported(CORES[0], TEST, unable, 1, (), 0.0, [CORES[1]])
    assert seen is not None
    assert (seen.decision.word, seen.decision.place) == (FAIL, "core 0")
    alike, _ = looker({"core 0": [again], "core 1": [again]})
    assert alike.unsupported(CORES[0], TEST, unable, 1, (), 0.0, [CORES[1]]) is None
    lost, _ = looker({"core 0": [LOST]})
    assert lost.unsupported(CORES[0], TEST, unable, 1, (), 0.0, [CORES[1]]) is None


def test_a_lone_core_and_its_host_are_asked_about_beside_another(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(looking, "usable_cores", lambda: (0, 1, 2))
    monkeypatch.setattr(looking, "core_facts", lambda n: {"model": "old" if n == 2 else "new"})
    unable = CaseDone(case="c", op="mm", unsupported="the probe gives 3")
    again = confirmed(tried=0, unsupported="the probe gives 3")
    found, crew = looker({"core 0": [again], "core 1": [confirmed()]}, (CORES[0], WHOLE))
    seen = found.unsupported(CORES[0], TEST, unable, 1, (), 0.0, [])
    assert seen is not None
    assert (seen.decision.word, seen.decision.place) == (FAIL, "core 0")
    assert [name for name, _ in crew.asked] == ["core 0", "core 1"]
    together, _ = looker({"core 0": [again], "core 1": [confirmed()]}, (CORES[0], WHOLE))
    decision = together.miscompare(WHOLE, TEST, miscompare(), (), 0.0).decision
    assert (decision.word, decision.place) == (FAIL, "core 0")
    whole, crew = looker({"host": [again]}, (CORES[0], WHOLE))
    assert whole.unsupported(WHOLE, TEST, unable, 1, (), 0.0, []) is None
    assert [name for name, _ in crew.asked] == ["host"], "its cores are no peers of it"


def test_want_of_memory_on_one_unit_says_nothing_of_it():
    unable = CaseDone(case="c", op="mm", unsupported="the probe gives 3")
    short = confirmed(tried=0, unsupported="3 MiB are available", is_unavailable=True)
    found, _ = looker({"core 0": [short], "core 1": [confirmed()]})
    assert found.unsupported(CORES[0], TEST, unable, 1, (), 0.0, [CORES[1]]) is None


def test_peers_that_disagree_are_asked_again_and_vote():
    def steady(digest: str) -> Confirmed:
        return confirmed(run_digests=(digest,) * 3)

    found, crew = looker({"core 0": [steady("a")], "core 1": [steady("a")],
                          "core 2": [steady("b")]})
    seen = found.split(TEST, "c", 1, dict(zip(CORES[:3], "aab", strict=True)), (), 0.0)
    assert [(s.unit.name, s.decision.word, s.witness) for s in seen] == [("core 2", FAIL, "peer")]
    assert seen[0].digests == {"core 0": "a", "core 1": "a", "core 2": "b"}
    assert crew.asked[0][0] == "core 2", "the minority is asked first"
    two, _ = looker({"core 0": [steady("a")], "core 1": [steady("b")]})
    tied = two.split(TEST, "c", 1, dict(zip(CORES[:2], "ab", strict=True)), (), 0.0)
    assert {s.decision.word for s in tied} == {AMBIGUOUS}


DONE = Done(test="t", cases=(), canary="none", elapsed_s=0.0)
TASK = Visit(test="t", seed=7, limit_s=60.0, first_case=3, case="")


@pytest.mark.parametrize(("here", "there", "how", "word", "place"), [
    ([DONE, DONE], [], LOST, SUSPECT, "core 0"),
    ([LOST, LOST], [DONE], LOST, FAIL, "core 0"),
    ([DONE, LOST], [DONE], LOST, FAIL, "core 0"),
    ([LOST, GONE], [LOST], LOST, FAIL, ""),
    ([DONE, DONE], [], Lost("SIGKILL", -9, False, 0.0, ""), TOOL_ERROR, ""),
    ([DONE, DONE], [], Lost("SIGKILL", -9, True, 30.0, ""), SUSPECT, "core 0"),
])
def test_a_lost_worker_is_tried_again_here_and_then_elsewhere(
    here: list[Any], there: list[Any], how: Lost, word: str, place: str
):
    found, crew = looker({"core 0": here, "core 1": there})
    seen = found.lost(CORES[0], TEST, TASK, how, (), 1.0)
    assert (seen.decision.word, seen.decision.place) == (word, place)
    assert (seen.tail, seen.seed) == (how.tail, 7)
    assert all(t.limit_s <= looking.MAX_RETRY_S and t.first_case == 3 for _, t in crew.asked)


RAISED = Done(test="t", cases=(), canary="none", elapsed_s=0.0, error="IndexError: 7 (a.py:3)")
SKIPPED = Done(test="t", cases=(), canary="none", elapsed_s=0.0, skip="no such device")


@pytest.mark.parametrize(("here", "there", "word"), [
    ([RAISED, RAISED], DONE, FAIL), ([DONE, RAISED], DONE, FAIL), ([DONE, DONE], DONE, SUSPECT),
    ([LOST, RAISED], DONE, FAIL), ([], RAISED, None), ([], SKIPPED, None), ([], LOST, None),
    ([], GONE, None)])
def test_what_raises_is_tried_elsewhere_and_then_again_here(
    here: list[Any], there: Any, word: str | None
):
    found, crew = looker({"core 0": here, "core 1": [there]})
    seen = found.raised(CORES[0], TEST, TASK, RAISED.error, (), 1.0)
    assert (None if seen is None else seen.decision.word) == word
    assert seen is None or (seen.decision.place, seen.seed) == ("core 0", 7)
    assert len(crew.asked) == len(here) + (there is not GONE)


def test_nobody_is_asked_about_the_host_about_memory_or_about_another_model():
    found, crew = looker({}, (*CORES, WHOLE))
    assert found.raised(WHOLE, TEST, TASK, RAISED.error, (), 1.0) is None
    assert found.raised(CORES[0], TEST, TASK, "MemoryError:  (a.py:3)", (), 1.0) is None
    alone, _ = looker({}, (CORES[3], CORES[0]))
    assert alone.raised(CORES[3], TEST, TASK, RAISED.error, (), 1.0) is None
    assert not crew.asked
