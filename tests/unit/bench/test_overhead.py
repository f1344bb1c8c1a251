"""Overhead and profile: that a known cost is measured, and that nothing stays wrapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sdc_guard.bench import overhead
from sdc_guard.bench.overhead import measure_overhead, render_overhead
from sdc_guard.bench.profile import PARTS, profile_step, render_profile
from sdc_guard.bench.results import make_stamp, write_text
from sdc_guard.bench.workload import intra_op_threads
from sdc_guard.calls import OpForm
from sdc_guard.check.relations import Piece
from sdc_guard.demo.training import TrainStep, build_step
from sdc_guard.errors import UsageError
from sdc_guard.guard import active_guard
from tests.simulated_clock import SimulatedClock, simulated

SLEEP_S = 0.05


def build() -> TrainStep:
    return build_step("tiny", dtype="fp32", seed=0)


class Sleeper:
    """A step of SLEEP_S, and of twice that under a guard."""

    def __init__(self, clock: SimulatedClock) -> None:
        self.clock = clock
        self.model = torch.nn.Linear(2, 2)
        self.optimizer = torch.optim.SGD(self.model.parameters())

    def step(self) -> torch.Tensor:
        self.clock.sleep(SLEEP_S * (2 if active_guard() is not None else 1))
        return torch.zeros(())


def test_a_known_overhead_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = simulated(overhead, monkeypatch)
    result = measure_overhead(
        lambda: Sleeper(clock), "sleep", budget=0, num_pairs=6, warmup_steps=1)
    assert result.ratio.value == pytest.approx(2.0)
    assert result.total_ratio.value == pytest.approx(2.0)
    assert result.plain_ms == pytest.approx(SLEEP_S * 1e3)
    assert result.guarded_ms == pytest.approx(2 * SLEEP_S * 1e3)
    assert result.ratio.low <= result.ratio.value <= result.ratio.high
    assert "sleep" in render_overhead([result])


def test_a_guarded_step_is_measured_with_its_coverage() -> None:
    result = measure_overhead(build, "tiny", num_pairs=2, steps_per_turn=2, warmup_steps=1)
    assert result.ratio.value > 1.1
    assert result.call_share > 0.9
    assert result.num_findings == 0
    assert active_guard() is None


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with intra_op_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("wrong", [{"num_pairs": 0}, {"steps_per_turn": 0}])
def test_nothing_to_measure_is_an_error(wrong: Any) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        measure_overhead(build, "tiny", **wrong)


def test_profile_accounts_for_the_guarded_time_and_unwraps_what_it_wrapped() -> None:
    call, agrees = OpForm.call, Piece.agrees
    with intra_op_threads(1):
        profile = profile_step(build, num_steps=2, warmup_steps=3)
    assert OpForm.call is call
    assert Piece.agrees is agrees
    ops = {op.op: op for op in profile.ops}
    assert ops["aten.mm"].calls_per_step == 19
    for op in profile.ops:
        assert set(op.parts_ms) == set(PARTS)
        assert op.extra_ms == pytest.approx(sum(op.parts_ms.values()), abs=1e-9)
    mm = ops["aten.mm"]
    assert mm.parts_ms["op again"] > 0.0
    assert sum(mm.relations.values()) == 2 * 19
    total_ms = sum(op.plain_ms + op.extra_ms for op in profile.ops)
    assert total_ms < profile.timed_ms
    # A timed step meets few new sites: the timers must not look like other call sites, each of
    # which would cost a plan and a reference.
    assert max(profile.new_sites) <= len(ops)
    table = render_profile(profile)
    assert "aten.mm" in table
    assert "all ops" in table


def test_a_profile_is_kept_below_its_stamp(tmp_path: Path) -> None:
    stamp = make_stamp("sdc-guard bench profile", 7)
    write_text(tmp_path / "new" / "profile.txt", stamp, "the table")
    text = (tmp_path / "new" / "profile.txt").read_text()
    assert text.startswith("- command: `sdc-guard bench profile`\n")
    assert "seed 7" in text
    assert text.endswith("\n\nthe table")
