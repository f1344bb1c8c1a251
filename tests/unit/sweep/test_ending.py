"""Sweeps that are ended, and workers that are: a partial report, a verdict, never a clean exit."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from sdc_guard.document import exits
from sdc_guard.document.reading import read_document
from tests.unit.sweep.running import LONG, ONE_CORE, Started

SHORT_TESTS = ("--tests", "exact_product")
FIRST_CORE = min(os.sched_getaffinity(0))


@pytest.mark.parametrize("number", [
    signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_sweep_that_is_told_to_end_writes_what_it_has(tmp_path: Path, number: signal.Signals):
    with Started(tmp_path, *LONG, *ONE_CORE, *SHORT_TESTS, "--seed", "5") as sweep:
        sweep.until(lambda: sweep.checks)
        before = sweep.checks
        code, err = sweep.end(number)
    assert code == exits.INCONCLUSIVE, err
    report = read_document((tmp_path / "out" / "sweep.json").read_bytes(), "")
    assert report.sweep is not None
    assert report.sweep.is_partial
    assert report.sweep.checks >= before
    assert not report.runs[0].is_complete
    assert sweep.events()[0]["kind"] == "start"
    assert (sweep.events()[-1]["kind"], sweep.events()[-1]["is_interrupted"]) == ("end", True)


def test_a_second_signal_does_not_end_the_report(tmp_path: Path):
    """timeout(1) sends SIGTERM to the process, and to its group."""
    with Started(tmp_path, *LONG, *ONE_CORE, *SHORT_TESTS) as sweep:
        sweep.until(lambda: sweep.checks)
        sweep.process.send_signal(signal.SIGTERM)
        code, err = sweep.end(signal.SIGTERM)
    assert code == exits.INCONCLUSIVE, err
    assert sweep.report()["sweep"]["is_partial"]
    assert "Traceback" not in err


def test_a_lone_core_whose_probe_fails_is_asked_about_beside_another(tmp_path: Path):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core: there is no other to ask")
    counts = tmp_path / "counts"
    counts.mkdir()
    fault = {"core": FIRST_CORE, "ops": ["mm.default", "_int_mm.default"], "kind": "low bit",
             "rate": 1.0, "seed": 1, "counts": str(counts)}
    with Started(tmp_path, "--seconds", "8", *ONE_CORE, *SHORT_TESTS, fault=fault) as sweep:
        code, err = sweep.ended()
    assert code == exits.DIVERGENCE, err
    words = {c["unit"].rpartition(", ")[2]: c for c in sweep.report()["cells"]}
    here = words[f"core {FIRST_CORE}"]
    assert here["word"] == "FAIL", words
    assert "a probe with a known answer fails here again and again, and not on" in here["reason"]
    assert words["all cores"]["word"] == "SKIP", words


def test_a_killed_sweep_leaves_a_report_no_workers_and_the_next_one_goes_on(tmp_path: Path):
    with Started(tmp_path, *LONG, *ONE_CORE, "--tests", "F1,F2") as sweep:
        sweep.until(lambda: sweep.checks and sweep.workers() and any(
            e["kind"] == "visit" for e in sweep.events()))
        workers = sweep.workers()
        sweep.end(signal.SIGKILL)
    gone, alive = psutil.wait_procs(workers, timeout=60)
    assert gone
    assert not alive
    report = read_document((sweep.out / "sweep.json").read_bytes(), "")
    assert report.sweep is not None
    assert report.sweep.is_partial
    events = sweep.events()  # each line is whole
    visited = {(e["unit"], e["message"]["test"]) for e in events if e["kind"] == "visit"}
    with Started(tmp_path, *LONG, *ONE_CORE, "--tests", "F1,F2") as following:
        following.until(lambda: sum(e["kind"] == "start" for e in following.events()) == 2
                        and following.events()[-1]["kind"] == "visit")
        first = next(e for e in following.events()[len(events):] if e["kind"] == "visit")
        following.end(signal.SIGKILL)
    if len(visited) < 4:  # it was killed in its first round: what it did not reach comes first
        assert (first["unit"], first["message"]["test"]) not in visited


@pytest.mark.slow
def test_a_killed_worker_and_one_that_hangs_are_verdicts_and_the_sweep_goes_on(tmp_path: Path):
    with Started(tmp_path, *LONG, *ONE_CORE, *SHORT_TESTS, "--hang-s", "3") as sweep:
        sweep.until(lambda: sweep.checks and sweep.workers())
        sweep.workers()[0].kill()
        sweep.until(lambda: any(e["kind"] == "decision" for e in sweep.events()))
        before = sweep.checks
        sweep.until(lambda: sweep.checks > before and sweep.workers())
        stopped = sweep.workers()[0]
        stopped.suspend()
        sweep.until(lambda: sum(e["kind"] == "decision" for e in sweep.events()) > 1)
        assert not stopped.is_running()
        before = sweep.checks
        sweep.until(lambda: sweep.checks > before)
        code, err = sweep.end(signal.SIGINT)
    killed, hung = [e for e in sweep.events() if e["kind"] == "decision"][:2]
    assert (killed["word"], hung["word"]) == ("TOOL ERROR", "SUSPECT")
    assert "ended by SIGKILL" in killed["reason"]
    assert "hung: silent for" in hung["reason"]
    # Of one unit and test the worse word stands, and SUSPECT is worse than an error of ours.
    is_one_cell = killed["unit"] == hung["unit"]
    assert code == (exits.INCONCLUSIVE if is_one_cell else exits.INTERNAL_ERROR), err


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "word", "reason"), [
    ("raises", "FAIL", "RuntimeError: this core cannot do that"),
    ("segfault", "FAIL", "SIGSEGV")])
def test_a_test_that_raises_and_a_worker_that_crashes_are_no_end(
    tmp_path: Path, kind: str, word: str, reason: str
):
    counts = tmp_path / "counts"
    counts.mkdir()
    fault = {"core": FIRST_CORE, "ops": ["index_select.default"], "kind": kind, "rate": 1.0,
             "seed": 1, "counts": str(counts)}
    with Started(tmp_path, *LONG, *ONE_CORE, "--tests", "exact_gather,exact_product",
                 fault=fault) as sweep:
        sweep.until(lambda: any(c["test"] == "exact_product" and c["checks"]
                                for c in sweep.report().get("cells", ()))
                    and any(c["word"] == word for c in sweep.report()["cells"]))
        code, err = sweep.end(signal.SIGINT)
    cells = {(c["test"], c["word"]): c["reason"] for c in sweep.report()["cells"]}
    assert reason in cells["exact_gather", word]
    assert ("exact_product", "PASS") in cells
    assert code == exits.DIVERGENCE, err
