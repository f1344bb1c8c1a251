"""A worker that is lost, or may be hurt: what is said of the call, and who goes on."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdc_guard.document.schema import Report
from sdc_guard.document.verdicts import DEFAULT_POLICY
from sdc_guard.hunt.crew import Crew, _Hand
from sdc_guard.hunt.divergence import LOST, OUTSIDE, Divergence
from sdc_guard.hunt.document import document
from sdc_guard.hunt.execution import Execution, execute
from sdc_guard.hunt.hunting import CRASH_REPEATS, Hunt, Plan
from sdc_guard.hunt.ledger import Ledger
from sdc_guard.hunt.losses import last_words
from sdc_guard.hunt.messages import Again, Died, Done, MadeAgain, Options, Round, packed
from sdc_guard.hunt.oracles._registry import Oracle, Session
from sdc_guard.hunt.slot import Slot
from sdc_guard.hunt.trial import Trial, encode
from sdc_guard.hunt.worker import Worker
from sdc_guard.report.judging import judge
from tests.unit.hunt.made_hunt import SUM, made_trial

STRICT = {**DEFAULT_POLICY, "inconclusive": "fail"}
WRONG = Divergence(
    oracle="forms", op=SUM, word="corruption", message="", dtype_class="float32",
    layout_class="contiguous", magnitude_class="gross")


def _lost(folder: Path, wrong: int) -> Hunt:
    """A hunt that lost a worker, and ``wrong`` fresh ones at the same call."""
    hunt = Hunt(Plan(limit_s=300.0), {SUM: ()}, Ledger(), folder)
    died = Died(how="SIGABRT", trial=encode(made_trial()).decode(), tail="here", trials=4)
    hunt._take(Round(target=SUM, templates="", number=0, seed=0, examples=10), died)
    again = [hunt._to_confirm.popleft() for _ in range(CRASH_REPEATS)]
    hunt._num_confirming = len(again)
    for number, task in enumerate(again):
        hunt._take(task, died if number < wrong else MadeAgain(wrong=0, tried=1))
    return hunt


def _report(hunt: Hunt) -> Report:
    hunt.ledger.add(SUM, 0, Done(trials=9, checked=(("bound", "aten.sum", 9),)))
    return document(hunt.ledger, seed=0, command="hunt", targets=(SUM,), is_complete=True)


def test_a_loss_that_no_fresh_process_has_fails_no_build(tmp_path: Path) -> None:
    hunt = _lost(tmp_path, wrong=0)
    (found,) = hunt.ledger.found.values()
    assert (found.word, found.wrong, found.tried) == (LOST, 0, CRASH_REPEATS)
    assert "in 0 of 3 fresh processes" in found.message
    assert "is the hardware sound?" in found.message
    assert "Is this machine sound?" in found.issue
    report = _report(hunt)
    assert [(e.word, e.verdict.value) for e in report.findings] == [(LOST, "not tested")]
    judged = judge(report, fail_on=("new",), policy=STRICT).judgement
    assert judged is not None
    assert judged.exit_code == 0


@pytest.mark.parametrize("wrong", [1, CRASH_REPEATS])
def test_a_crash_that_comes_again_fails_it(tmp_path: Path, wrong: int) -> None:
    hunt = _lost(tmp_path, wrong)
    (found,) = hunt.ledger.found.values()
    assert (found.word, found.wrong) == ("crash", wrong)
    judged = judge(_report(hunt), fail_on=("new",), policy=STRICT).judgement
    assert judged is not None
    assert judged.exit_code == 1


def test_a_lost_process_hides_no_crash_of_the_same_operator(tmp_path: Path) -> None:
    lost, crash = _lost(tmp_path, wrong=0).ledger.found, _lost(tmp_path, wrong=1).ledger.found
    assert not {f.fingerprint for f in lost.values()} & {f.fingerprint for f in crash.values()}


@pytest.mark.parametrize(("divergence", "hurts"), [
    (WRONG, False), (replace(WRONG, formula=OUTSIDE), True),
    (replace(WRONG, op="aten.sum.IntList_out"), True),
    (replace(WRONG, op="aten.sum.IntList_out", word="precision"), False),
], ids=["wrong", "outside", "out=", "inside out="])
def test_a_worker_says_that_memory_was_written_that_is_not_the_results(
    tmp_path: Path, divergence: Divergence, hurts: bool
) -> None:
    def check(session: Session, trial: Trial, base: Execution) -> Iterator[Divergence]:
        yield divergence

    ours, theirs = multiprocessing.Pipe()
    worker = Worker(theirs, Options(oracles=("bound",), slot=str(tmp_path / "slot")))
    oracle = worker._guarded(Oracle(name="made", share=1.0, check=check, doc=""))
    trial = made_trial()
    assert list(oracle.check(Session(), trial, execute(trial))) == [divergence]
    worker.again(Again(trial=encode(trial).decode(), kind=divergence.fingerprint))
    assert (b'"is_hurt":true' in ours.recv_bytes()) is hurts


class _Process:
    """Counts how often it was ended."""

    pid, kills = None, 0

    def kill(self) -> None:
        self.kills += 1

    def join(self, timeout: float) -> None:
        pass


@pytest.mark.parametrize("is_hurt", [False, True])
def test_a_worker_that_may_be_hurt_makes_no_more(tmp_path: Path, is_hurt: bool) -> None:
    crew = Crew(Options(), tmp_path, num_workers=1, hang_s=1.0)
    ours, theirs = multiprocessing.Pipe()
    process: Any = _Process()
    task = Round(target=SUM, templates="", number=0, seed=0, examples=10)
    hand = _Hand(process, ours, Slot(tmp_path / "slot"), tmp_path / "log", task=task)
    crew._hands.append(hand)
    theirs.send_bytes(packed(Done(trials=1, is_hurt=is_hurt)))
    taken: list[Any] = []
    crew._listen(hand, lambda task, message: taken.append(message))
    assert taken == [Done(trials=1, is_hurt=is_hurt)], "its answer counts"
    assert (hand in crew._hands, process.kills) == (not is_hurt, int(is_hurt))


def test_the_last_words_are_of_the_thread_that_failed() -> None:
    tail = """Fatal Python error: Segmentation fault

Thread 0x00007f7a4fe626c0 (most recent call first):
  File "/lib/threading.py", line 982 in run

Current thread 0x00007f7a507bbb80 (most recent call first):
  File "/lib/torch/_ops.py", line 875 in __call__
"""
    assert last_words(tail) == "Segmentation fault, _ops.py:875 in __call__"


@pytest.mark.parametrize("beats", [False, True])
def test_a_worker_that_beats_is_not_taken_for_hung(tmp_path: Path, beats: bool) -> None:
    crew = Crew(Options(), tmp_path, num_workers=1, hang_s=1.0)
    ours, _ = multiprocessing.Pipe()
    process: Any = _Process()
    task = Round(target=SUM, templates="", number=0, seed=0, examples=10)
    hand = _Hand(process, ours, Slot(tmp_path / "slot"), tmp_path / "log", task=task)
    theirs = Slot(tmp_path / "slot")
    theirs.put(encode(made_trial()))
    crew._hands.append(hand)
    taken: list[Any] = []
    crew._watch(hand, lambda task, message: taken.append(message))
    crew._watch(hand, lambda task, message: taken.append(message))  # takes note of the beats
    if beats:
        theirs.beat()
    hand.moved_s -= 1000.0
    crew._watch(hand, lambda task, message: taken.append(message))
    assert [m.how for m in taken] == ([] if beats else ["hang"])
