"""Models that several threads use: watched where a guard is entered, elsewhere said not to be."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import sdc_guard
from tests.fidelity.models import bits_of
from tests.guard.training import FORWARD, Run, batch, flip, hit, wrapped


def in_thread(fn: Callable[[], Any]) -> Any:
    box: list[Any] = []

    def body() -> None:
        try:
            box.append((fn(), None))
        except BaseException as error:
            box.append((None, error))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join(300)
    assert box, "the thread hangs"
    value, error = box[0]
    if error is not None:
        raise error
    return value


def test_a_step_computed_by_another_thread_is_said_to_be_unwatched() -> None:
    run, plain = Run(), Run()
    guard = wrapped(run)
    run.step(0)
    assert not any("not seen" in g for g in guard.coverage.gaps)
    run.optimizer.zero_grad()
    in_thread(lambda: run.backward(1))
    run.optimizer.step()
    assert any("forward was not seen" in g for g in guard.coverage.gaps)
    assert any(e["kind"] == "not_covered" for e in guard._events.events)
    for i in (0, 1):
        plain.step(i)
    assert run.state() == plain.state()


def test_a_backward_on_another_thread_is_said_to_be_unwatched() -> None:
    run = Run()
    guard = wrapped(run)
    x, y = batch(0)
    loss = F.cross_entropy(run.model(x), y)
    in_thread(loss.backward)
    run.optimizer.step()
    assert any("backward was not seen" in g for g in guard.coverage.gaps)


def test_a_loop_on_another_thread_is_said_to_be_unwatched_at_first_then_watched() -> None:
    run, plain = Run(), Run()
    guard = wrapped(run)

    def loop() -> None:
        torch.set_num_threads(1)
        run.step(0)
        assert any("forward was not seen" in g for g in guard.coverage.gaps)
        with hit(flip(*FORWARD)):
            run.step(1)
        run.step(2)

    in_thread(loop)
    assert len(guard.findings) == 1
    assert guard.coverage.steps_skipped == 1
    for i in (0, 2):
        plain.step(i)
    assert run.state() == plain.state()
    sdc_guard.unwrap(run.model)
    assert _get_current_dispatch_mode_stack() == []
    again = wrapped(run)
    run.step(3)
    assert again.coverage.calls_checked > 20


def test_a_guard_entered_on_several_threads_watches_each() -> None:
    run = Run()
    before = run.state()
    with sdc_guard.Guard(budget="all", on_finding="skip", model=run.model) as guard:

        def work() -> int:
            with guard:
                with hit(flip(*FORWARD)):
                    run.backward(0)
                return len(_get_current_dispatch_mode_stack())

        assert in_thread(work) == 1
        assert len(guard.findings) == 1
        run.optimizer.step()
        assert run.state() == before
        run.step(1)
        assert run.state() != before


def test_threads_that_compute_at_once_keep_their_numbers() -> None:
    run = Run()
    guard = wrapped(run, on_finding="record")
    with torch.no_grad():
        run.model.eval()
        expected = [bits_of(run.model(batch(i)[0])) for i in range(4)]

    def evaluate(i: int, out: dict[int, Any]) -> None:
        with torch.no_grad(), guard:
            for _ in range(10):
                out[i] = bits_of(run.model(batch(i)[0]))

    results: dict[int, Any] = {}
    threads = [threading.Thread(target=evaluate, args=(i, results)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert [results[i] for i in range(4)] == expected
    assert guard.findings == []
    assert guard.coverage.guard_errors == 0


def test_a_guard_on_another_thread_minds_its_own_steps() -> None:
    run, other = Run(), Run()
    with sdc_guard.Guard(budget="all", on_finding="skip") as guard:
        run.step(0)
        in_thread(lambda: other.step(0))
        assert guard.coverage.steps == 1
        assert other.state() == run.state()


def test_a_thread_that_cannot_start_is_recorded_and_training_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a call costs is measured on a thread of its own, where a system has one left."""
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    run, plain = Run(), Run()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        sdc_guard.wrap(run.model, budget=0.02)
        run.step(0)
    plain.step(0)
    guard = run.model.sdc_guard
    assert run.state() == plain.state()
    assert guard.coverage.guard_errors == 1
    sdc_guard.unwrap(run.model)
