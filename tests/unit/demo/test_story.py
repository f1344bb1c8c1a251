"""The three runs: same start, same batches; a fault that strikes, and a guard that catches it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sdc_guard.demo.fault import FAULTY_OP, FaultySum, faulty_sum
from sdc_guard.demo.report import CLEAN, GUARDED, UNGUARDED, DemoReport
from sdc_guard.demo.story import RUN_NAMES, Settings, run_demo
from sdc_guard.demo.telling import broken_replay
from sdc_guard.errors import UsageError
from sdc_guard.guard import active_guard
from sdc_guard.records import Cause, Verdict
from tests.meta.tree import ROOT

TINY = Settings(config="tiny", num_steps=24, num_windows=16, budget="all")
NEVER = 10**9


class Recorder:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.num_steps: dict[str, int] = dict.fromkeys(RUN_NAMES, 0)
        self.texts: list[str] = []

    def started(self, run: str, num_steps: int) -> None:
        self.events.append(("started", run))

    def stepped(self, run: str, step: int, loss: float) -> None:
        assert step == self.num_steps[run]
        self.num_steps[run] += 1

    def caught(self, run: str, text: str) -> None:
        self.texts.append(text)

    def finished(self, run: str, perplexity: float) -> None:
        self.events.append(("finished", run))


def tell(settings: Settings, out: Path) -> tuple[DemoReport, Recorder]:
    recorder = Recorder()
    return run_demo(replace(settings, out=out), recorder), recorder


def test_without_a_fault_all_three_runs_are_equal_to_the_bit(tmp_path: Path) -> None:
    report, recorder = tell(replace(TINY, rarity=NEVER), tmp_path)
    assert report.clean.losses == report.unguarded.losses == report.guarded.losses
    assert len({run.perplexity for run in report.runs}) == 1
    assert report.guard.findings == ()
    assert report.guard.coverage.calls_checked > 1000
    assert "the fault never struck the unguarded run" in report.shortcomings()
    assert recorder.events == [(what, run) for run in RUN_NAMES for what in ("started", "finished")]
    assert set(recorder.num_steps.values()) == {TINY.num_steps}


def test_with_the_fault_wrong_sums_are_caught_and_their_steps_skipped(tmp_path: Path) -> None:
    before = torch.ones(64, 32).sum(dim=0)
    report, recorder = tell(replace(TINY, rarity=40), tmp_path)
    guard = report.guard
    assert report.unguarded.firings
    assert report.guarded.firings
    assert report.clean.firings == ()
    assert report.clean.losses != report.unguarded.losses
    assert guard.caught.trials == len(report.guarded.firings)
    assert guard.caught.hits >= guard.caught.trials / 2
    assert guard.calls_checked.hits == guard.calls_checked.trials == report.guarded.op_calls
    assert set(guard.caught_steps) <= {f.step for f in report.guarded.firings}
    assert guard.coverage.steps_skipped >= len(guard.caught_steps)
    assert guard.unexplained == 0
    assert len(recorder.texts) == len(guard.caught_steps)
    catch = report.catch
    assert catch is not None
    assert catch.op == FAULTY_OP
    assert catch.verdict is Verdict.CORRUPTION
    assert catch.cause in (Cause.SOFTWARE, Cause.UNKNOWN)  # unknown where there is one core
    assert "demo/model.py:" in catch.source or "demo/training.py:" in catch.source
    assert Path(catch.evidence.bundle).is_file()
    assert torch.equal(torch.ones(64, 32).sum(dim=0), before)
    assert active_guard() is None
    events = next(tmp_path.glob("events*.jsonl")).read_text().splitlines()
    kinds = [json.loads(line)["kind"] for line in events]
    assert kinds.count("step_skipped") == guard.coverage.steps_skipped


def test_with_budget_zero_nothing_is_caught_and_the_report_says_so(tmp_path: Path) -> None:
    report, _ = tell(replace(TINY, rarity=40, budget=0.0), tmp_path)
    assert report.guard.caught.hits == 0
    assert report.guarded.losses == report.unguarded.losses
    assert any("caught none of" in line for line in report.shortcomings())


def test_the_fault_is_gone_even_if_the_watcher_fails(tmp_path: Path) -> None:
    class Failing(Recorder):
        def stepped(self, run: str, step: int, loss: float) -> None:
            if run == GUARDED:
                raise RuntimeError("the terminal went away")

    with pytest.raises(RuntimeError, match="terminal"):
        run_demo(replace(TINY, rarity=1, num_steps=1, out=tmp_path), Failing())
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    with faulty_sum(rarity=1):
        wrong = x.sum(dim=0)
    assert not torch.equal(x.sum(dim=0), wrong)
    assert active_guard() is None


def replay(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from sdc_guard.cli.main import main; main()", "replay", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])},
        capture_output=True, text=True, timeout=300, check=False)


def test_the_catch_is_replayed_wrong_with_the_broken_kernel_and_not_without(
    tmp_path: Path,
) -> None:
    report, _ = tell(replace(TINY, num_steps=60), tmp_path)
    catch = report.catch
    assert catch is not None
    (command,) = broken_replay(report)
    broken = replay(*shlex.split(command)[2:])
    assert broken.returncode == 1, broken.stdout + broken.stderr
    sound = replay(*shlex.split(catch.evidence.replay_command)[2:])
    assert sound.returncode in (0, 3), sound.stdout + sound.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"num_steps": 0}, "steps is 0"), ({"seed": -1}, "seed is -1"),
     ({"budget": "2%"}, "budget='2%'"), ({"config": "huge"}, "unknown config 'huge'")],
)
def test_wrong_settings_are_named(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    settings = replace(TINY, num_steps=1, out=tmp_path)
    with pytest.raises(UsageError, match=message):
        run_demo(replace(settings, **changes), Recorder())  # type: ignore[arg-type]


def test_run_names_are_those_of_the_report() -> None:
    assert RUN_NAMES == (CLEAN, UNGUARDED, GUARDED)
    assert FaultySum().firings == []
