"""Workers as processes: ready and pinned, heard, and told apart by how they end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from sdc_guard.sweep import crew as crews
from sdc_guard.sweep.crew import (
    FATAL,
    TAIL_BYTES,
    UNKNOWN_EXIT,
    Crew,
    Hand,
    Lost,
    NotStarted,
    _tail,
)
from sdc_guard.sweep.declared import CORE, HOST
from sdc_guard.sweep.forking import ONE_THREAD
from sdc_guard.sweep.looking import wait_ready
from sdc_guard.sweep.messages import Beat, Confirm, Confirmed, Done, Message, Visit
from sdc_guard.sweep.units import Unit, chosen_units

FIRST = min(os.sched_getaffinity(0))
UNIT = Unit(CORE, f"core {FIRST}", FIRST)
LIMIT_S = 300.0
VISIT = Visit(test="exact_product", seed=1, limit_s=0.05, case="float32 33x65x17 TN")


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    made = Crew(tmp_path_factory.mktemp("logs"), hang_s=LIMIT_S)
    yield made
    made.close()


@pytest.fixture
def hand(crew: Crew) -> Iterator[Hand]:
    started = crew.start(UNIT)
    assert wait_ready(crew, started, LIMIT_S), started.hello
    yield started
    if started.lost is None:
        crew.stop(started)


def heard(crew: Crew, hand: Hand) -> list[Message | Lost]:
    """What it says up to the end of its task."""
    found: list[Message | Lost] = []
    end_s = time.monotonic() + LIMIT_S
    while not (found and isinstance(found[-1], (Done, Confirmed, Lost))):
        assert time.monotonic() < end_s
        found += [message for speaker, message in crew.listen(0.1) if speaker is hand]
    return found


def test_a_worker_is_pinned_and_does_what_it_is_told(crew: Crew, hand: Hand):
    assert hand.hello is not None
    assert hand.hello.affinity == (FIRST,)
    assert hand.hello.ran_on == FIRST
    assert hand.hello.pid == hand.process.pid
    crew.send(hand, VISIT)
    *beats, done = heard(crew, hand)
    assert all(isinstance(b, Beat) for b in beats)
    assert isinstance(done, Done)
    assert (done.error, done.canary, done.core) == ("", "caught", FIRST)
    assert [c.case for c in done.cases if c.checks] == [VISIT.case]
    assert hand.task is None
    crew.send(hand, Confirm(test=VISIT.test, case=VISIT.case, seed=1, times=3))
    (said,) = heard(crew, hand)
    assert isinstance(said, Confirmed)
    assert (said.wrong, said.tried, said.error) == (0, 3, "")


def test_an_unknown_case_is_an_error_and_no_end(crew: Crew, hand: Hand):
    crew.send(hand, Confirm(test=VISIT.test, case="none", seed=1, times=1))
    (said,) = heard(crew, hand)
    assert isinstance(said, Confirmed)
    assert said.error
    assert hand.lost is None


@pytest.mark.parametrize(("number", "is_outside"), [
    (signal.SIGSEGV, False), (signal.SIGILL, False), (signal.SIGKILL, True),
    (signal.SIGTERM, True)])
def test_a_worker_that_a_signal_ends_is_lost_once(
    crew: Crew, hand: Hand, number: signal.Signals, is_outside: bool
):
    assert hand.process.pid is not None
    crew.send(hand, Visit(test=VISIT.test, seed=1, limit_s=LIMIT_S))
    os.kill(hand.process.pid, number)
    lost = heard(crew, hand)[-1]
    assert isinstance(lost, Lost)
    assert (lost.signal_name, lost.is_hang, lost.is_from_outside) == (
        number.name, False, is_outside)
    assert lost.words == f"ended by {number.name}"
    assert hand.lost is lost
    assert crew.listen(0.0) == []
    if number == signal.SIGSEGV:
        assert "Segmentation fault" in lost.tail


def test_a_worker_that_is_silent_hangs_and_was_not_ended_from_outside(crew: Crew, hand: Hand):
    assert hand.process.pid is not None
    os.kill(hand.process.pid, signal.SIGSTOP)
    crew.send(hand, VISIT, limit_s=0.2)
    lost = heard(crew, hand)[-1]
    assert isinstance(lost, Lost)
    assert (lost.is_hang, lost.is_from_outside) == (True, False)
    assert lost.words.startswith("hung: silent for")
    assert not hand.process.is_alive()


def test_one_that_waits_is_not_taken_for_hung(crew: Crew, hand: Hand):
    hand.limit_s = 0.0
    assert crew.listen(0.0) == []
    assert hand.lost is None


def test_a_task_for_a_dead_worker_is_a_loss_and_no_error(crew: Crew, hand: Hand):
    hand.process.kill()
    hand.process.join(timeout=LIMIT_S)
    crew.send(hand, VISIT)
    assert isinstance(heard(crew, hand)[-1], Lost)


def test_a_core_that_is_not_there_is_a_problem_that_the_worker_tells(crew: Crew):
    absent = crew.start(Unit(CORE, "core 4000", 4000))
    assert not wait_ready(crew, absent, LIMIT_S)
    assert absent.hello is not None
    assert "cannot be pinned to [4000]" in absent.hello.problem
    crew.stop(absent)


def test_what_a_signal_s_report_begins_with_is_kept_however_much_follows(tmp_path: Path):
    log = tmp_path / "log"
    log.write_bytes(b"warning\n" + FATAL + b": Segmentation fault\n" + b"  File x\n" * 5000)
    assert _tail(log).startswith("Fatal Python error: Segmentation fault")
    assert len(_tail(log)) == TAIL_BYTES
    log.write_bytes(b"x" * 9000 + b"the end")
    assert _tail(log).endswith("the end")
    assert len(_tail(log)) == TAIL_BYTES
    assert _tail(tmp_path / "absent") == ""


def test_a_worker_whose_parent_is_gone_was_ended_from_outside():
    lost = Lost("", UNKNOWN_EXIT, False, 0.0, "")
    assert lost.is_from_outside
    assert "the process that forked it is gone" in lost.words
    assert not Lost("", 1, False, 0.0, "").is_from_outside


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), EOFError()])
def test_a_worker_that_cannot_be_forked_is_told_and_no_verdict(
    crew: Crew, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    def refuses() -> None:
        raise error

    monkeypatch.setattr(crews, "begin", refuses)
    with pytest.raises(NotStarted, match=r"could not be started: .*ulimit"):
        crew.start(UNIT)


def test_time_in_which_this_process_was_stopped_itself_is_no_silence(
    crew: Crew, hand: Hand, monkeypatch: pytest.MonkeyPatch
):
    assert hand.process.pid is not None
    os.kill(hand.process.pid, signal.SIGSTOP)
    crew.send(hand, VISIT, limit_s=5.0)
    now_s = time.monotonic()
    assert crew.listen(0.0) == []
    clock = SimpleNamespace(monotonic=lambda: now_s + 3600.0)
    monkeypatch.setattr(crews, "time", clock)
    assert crew.listen(0.0) == [], "an hour in which nothing was listened to"
    monkeypatch.setattr(crews, "PAUSE_S", 1e9)
    clock.monotonic = lambda: now_s + 7200.0
    ((_, lost),) = crew.listen(0.0)
    assert isinstance(lost, Lost)
    assert lost.is_hang


def test_a_host_has_the_cores_that_were_chosen(crew: Crew):
    started = crew.start(Unit(HOST, "host", 0, cores=(FIRST,)))
    assert wait_ready(crew, started, LIMIT_S)
    assert started.hello is not None
    assert started.hello.affinity == (FIRST,)
    crew.stop(started)
    whole = chosen_units(str(FIRST), "cpu")[-1]
    assert (whole.kind, whole.allowed_cores) == (HOST, (FIRST,))


def test_the_host_has_all_cores_and_variables_reach_the_worker(crew: Crew):
    whole = crew.start(Unit(HOST, "host", 0), (("SDC_TEST", "1"),), tells_environment=True)
    assert wait_ready(crew, whole, LIMIT_S)
    assert whole.hello is not None
    assert set(whole.hello.affinity) == os.sched_getaffinity(0)
    assert whole.hello.environment["torch"]
    crew.stop(whole)


def test_starting_leaves_our_own_variables_as_they_were(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(ONE_THREAD[0], "7")
    monkeypatch.delenv(ONE_THREAD[1], raising=False)
    crew.stop(crew.start(UNIT))
    assert os.environ[ONE_THREAD[0]] == "7"
    assert ONE_THREAD[1] not in os.environ


def test_closing_ends_those_that_wait_and_those_at_work(tmp_path: Path):
    own = Crew(tmp_path, hang_s=LIMIT_S)
    hands = [own.start(UNIT) for _ in range(2)]
    assert all(wait_ready(own, h, LIMIT_S) for h in hands)
    own.send(hands[0], Visit(test=VISIT.test, seed=1, limit_s=LIMIT_S))
    own.close()
    assert not any(h.process.is_alive() for h in hands)
    assert own.hands == []
