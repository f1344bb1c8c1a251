"""Ends that nobody planned: exceptions, a full or read-only disk, Ctrl-C, ``kill -9``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import sdc_guard
from sdc_guard.evidence.eventlog import read_events
from tests.guard.training import FORWARD, Run, flip, hit

ROOT = Path(__file__).resolve().parents[2]


def kinds(out: Path) -> list[str]:
    """Of all events but those that tell of time going by."""
    return [e["kind"] for e in read_events(out / "events.rank0.jsonl")
            if e["kind"] not in ("progress", "modules")]


def script(body: str) -> list[str]:
    """A training loop in a process of its own; ``{...}`` of the body is left as it is."""
    head = """
        import signal, sys, torch, sdc_guard
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
        torch.set_num_threads(1)
        from tests.guard.training import FORWARD, Run, flip, hit
        out = sys.argv[1]
        run = Run()
    """
    return [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(body)]


def environment() -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "kernels")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def run_script(body: str, out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*script(body), str(out)], env=environment(), cwd=ROOT, timeout=300,
                          capture_output=True, text=True, check=False)


def test_an_exception_inside_a_guard_is_written_and_passed_on(tmp_path: Path) -> None:
    run, plain = Run(), Run()
    guard = sdc_guard.Guard(budget="all", on_finding="skip", model=run.model, out=tmp_path)

    def loop() -> None:
        with guard:
            run.step(0)
            run.optimizer.zero_grad()
            run.backward(1)
            raise ZeroDivisionError("division by zero")

    with pytest.raises(ZeroDivisionError):
        loop()
    assert _get_current_dispatch_mode_stack() == []
    events = list(read_events(tmp_path / "events.rank0.jsonl"))
    (event,) = [e for e in events if e["kind"] == "exception"]
    assert event["error"].startswith("ZeroDivisionError: division by zero")
    assert event["step"] == 1
    assert events[-1]["kind"] == "summary"
    plain.step(0)
    plain.optimizer.zero_grad()
    plain.backward(1)
    assert run.state() == plain.state()
    with guard:
        run.optimizer.step()
    plain.optimizer.step()
    assert run.state() == plain.state()


def test_an_exception_in_a_wrapped_loop_that_is_caught_changes_nothing() -> None:
    run, plain = Run(), Run()
    sdc_guard.wrap(run.model, budget="all", on_finding="skip")
    for each in (run, plain):
        each.step(0)
        with pytest.raises(RuntimeError):
            each.model(each.model.up.weight.new_ones(2, 99))
        each.step(1)
    assert run.state() == plain.state()
    assert run.model.sdc_guard.coverage.guard_errors == 0


def test_an_exception_that_ends_a_wrapped_run_is_written(tmp_path: Path) -> None:
    done = run_script("""
        sdc_guard.wrap(run.model, budget="all", on_finding="skip", out=out)
        run.step(0)
        raise KeyError("the user's own")
    """, tmp_path)
    assert done.returncode == 1
    assert "KeyError" in done.stderr
    assert "sdc_guard" not in done.stderr.split("KeyError")[-1]
    assert kinds(tmp_path) == ["header", "exception", "summary"]


def test_a_wrapped_run_that_just_ends_writes_its_summary(tmp_path: Path) -> None:
    done = run_script("""
        sdc_guard.wrap(run.model, budget="all", on_finding="skip", out=out)
        run.step(0)
    """, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    events = list(read_events(tmp_path / "events.rank0.jsonl"))
    assert kinds(tmp_path) == ["header", "summary"]
    assert events[-1]["coverage"]["steps"] == 1


def wait_for(condition: Any, process: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline_s, "the run does not get there"
        time.sleep(0.05)


ENDLESS = """
    sdc_guard.wrap(run.model, budget="all", on_finding="skip", out=out)
    with hit(flip(*FORWARD)):
        run.step(0)
    i = 0
    while True:
        i += 1
        run.step(i)
"""


def _interrupted(process: subprocess.Popen[str], number: int) -> tuple[str, str]:
    """Signal until the process ends: Python drops an interrupt that meets a finaliser."""
    for _ in range(4):
        process.send_signal(number)
        try:
            return process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError("the process did not end after four interrupts")


@pytest.mark.parametrize(("number", "code"), [
    pytest.param(signal.SIGKILL, -9, id="kill-9"),
    pytest.param(signal.SIGINT, -2, id="ctrl-c", marks=pytest.mark.slow)])
def test_every_event_before_a_kill_is_readable(tmp_path: Path, number: int, code: int) -> None:
    log = tmp_path / "events.rank0.jsonl"
    process = subprocess.Popen([*script(ENDLESS), str(tmp_path)], env=environment(), cwd=ROOT,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: log.exists() and "step_skipped" in log.read_text(), process)
        _, stderr = _interrupted(process, number)
    finally:
        process.kill()
    assert process.returncode == code
    found = kinds(tmp_path)
    assert found[:3] == ["header", "finding", "step_skipped"]
    assert "torn" not in found
    if number == signal.SIGINT:
        assert "KeyboardInterrupt" in stderr
        assert found[3:] == ["exception", "summary"]
    bundles = list((tmp_path / "bundles").iterdir())
    assert len(bundles) == 1
    assert not bundles[0].name.startswith((".", "tmp"))


def test_ctrl_c_inside_a_check_leaves_training_as_it_was() -> None:
    run, plain = Run(), Run()
    guard = sdc_guard.Guard(budget="all", on_finding="skip", model=run.model)
    original = guard._mode._check

    def interrupted(*arguments: Any) -> None:
        if guard.coverage.steps and torch._C._current_autograd_node() is not None:
            raise KeyboardInterrupt
        original(*arguments)

    guard._mode._check = interrupted

    def loop() -> None:
        with guard:
            run.step(0)
            run.step(1)

    with pytest.raises(KeyboardInterrupt):
        loop()
    guard._mode._check = original
    assert _get_current_dispatch_mode_stack() == []
    plain.step(0)
    assert run.state()["optimizer"] == plain.state()["optimizer"]
    run.model.load_state_dict(plain.model.state_dict())
    with guard:
        run.step(2)
    plain.step(2)
    assert run.state() == plain.state()


def trained(out: Path) -> tuple[Run, sdc_guard.Guard]:
    run = Run()
    with sdc_guard.Guard(budget="all", on_finding="skip", model=run.model, out=out) as guard:
        run.step(0)
        with hit(flip(*FORWARD)):
            run.step(1)
        run.step(2)
    return run, guard


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    run, guard = trained(tmp_path / "file" / "runs")
    plain, _ = trained(tmp_path / "good")
    assert run.state() == plain.state()
    assert len(guard.findings) == 1
    assert guard.findings[0].evidence.bundle == ""
    assert guard.findings[0].evidence.note
    assert guard.coverage.guard_errors > 0
    assert {"finding", "step_skipped", "summary"} <= {e["kind"] for e in guard._events.events}


def test_a_disk_that_fills_up_stops_nothing(tmp_path: Path) -> None:
    done = run_script("""
        import resource
        guard = sdc_guard.Guard(budget="all", on_finding="skip", model=run.model, out=out)
        size = 0
        with guard:
            run.step(0)
            resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))
            for i in range(1, 9):
                with hit(flip(*FORWARD, flat_index=i)):
                    run.step(i)
            run.step(9)
            resource.setrlimit(resource.RLIMIT_FSIZE, (-1, resource.RLIM_INFINITY))
        plain = Run()
        plain.step(0)
        plain.step(9)
        assert run.state() == plain.state()
        assert len(guard.findings) >= 3
        assert guard.coverage.steps_skipped == 8
        assert guard.coverage.guard_errors > 0
        kinds = [e["kind"] for e in guard._events.events]
        assert kinds.count("step_skipped") == 8 and kinds[-1] == "summary", kinds
        print("unharmed")
    """, tmp_path)
    assert done.stdout.strip() == "unharmed", done.stderr
    assert kinds(tmp_path)[0] == "header"
    assert kinds(tmp_path)[-1] == "summary"
