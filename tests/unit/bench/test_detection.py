"""Campaigns: what counts as found, what does not and why, and that trials leave nothing behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec
import pytest
import torch

from sdc_guard import bits
from sdc_guard.bench.detection import (
    Campaign,
    clean_run,
    continue_campaign,
    new_campaign,
    run_trials,
)
from sdc_guard.bench.trial import CORRUPTION, ELSEWHERE, LOUD, MISSED, NOT_INJECTED, Rig
from sdc_guard.bench.workload import intra_op_threads
from sdc_guard.demo.training import TrainStep, build_step
from sdc_guard.errors import UsageError
from sdc_guard.inject.faults import RepeatedFlip, TransientFlip

aten = torch.ops.aten


def build() -> TrainStep:
    return build_step("tiny", dtype="fp32", seed=0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with intra_op_threads(1):
        yield


@pytest.fixture(scope="module")
def rig() -> Rig:
    with intra_op_threads(1):
        return Rig(build(), warmup_steps=4, seed=0)


def blind(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig.guard._mode, "_check", lambda *_: None)


def flip(number: int = 0, bit: int = 22) -> TransientFlip:
    return TransientFlip(aten.mm.default, number, 0, 5, bit, counts="user")


def test_a_found_fault_is_corruption_and_names_its_op(rig: Rig) -> None:
    trial = rig.try_fault(3, flip(), max_steps=1)
    assert (trial.index, trial.op, trial.outcome) == (3, "aten.mm.default", CORRUPTION)
    assert trial.verdicts == {"corruption": 1}
    assert trial.causes == {"transient": 1}
    assert trial.fault is not None
    assert trial.fault.bit == 22


def test_what_a_blind_guard_does_not_see_is_missed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    blind(rig, monkeypatch)
    trial = rig.try_fault(0, flip(), max_steps=1)
    assert trial.outcome == MISSED
    assert trial.why
    assert any("visits" in site for site in trial.sites)


def test_a_finding_elsewhere_is_not_a_detection(rig: Rig) -> None:
    """The fault strikes mm; only a bystander's finding is told."""
    told: Any = rig.guard.on_finding
    rig.guard.on_finding = lambda finding: told(
        msgspec.structs.replace(
            finding, call=msgspec.structs.replace(finding.call, op="aten.other")))
    try:
        assert rig.try_fault(0, flip(), max_steps=1).outcome == ELSEWHERE
    finally:
        rig.guard.on_finding = told


def test_an_exception_is_loud_and_no_detection(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    blind(rig, monkeypatch)
    step = rig.training.step

    def failing() -> torch.Tensor:
        step()
        raise IndexError("index out of range")

    monkeypatch.setattr(rig.training, "step", failing)
    trial = rig.try_fault(0, flip(), max_steps=1)
    assert trial.outcome == LOUD
    assert "index out of range" in trial.why


def test_a_fault_that_never_strikes_is_not_counted(rig: Rig) -> None:
    trial = rig.try_fault(0, flip(number=10_000), max_steps=1)
    assert trial.outcome == NOT_INJECTED
    campaign = new_campaign("x", "transient", seed=0).with_trials([trial], [])
    assert campaign.corruption.injected == 0
    assert campaign.corruption.interval is None


@pytest.mark.parametrize("make", [
    flip, lambda: RepeatedFlip(aten.addcdiv_.default, (32,), 0, 3, 30),
], ids=["transient", "repeated"])
def test_a_trial_leaves_training_and_guard_as_they_were(rig: Rig, make: Any) -> None:
    def state() -> list[bytes]:
        tensors = [*rig.training.model.parameters(),
                   *(v for s in rig.training.optimizer.state.values() for v in s.values())]
        return [bits.raw(t).tobytes() for t in tensors]

    def learned() -> list[Any]:
        return [(plan.visits, [(r.name, r.passes, r.refused) for r in plan.relations])
                for plan in rig.guard._pipeline._plans.values()]

    rig.clean_step()
    rig = Rig(rig.training, warmup_steps=3, seed=0)
    before = state(), learned()
    fault = make()
    assert rig.try_fault(0, fault, max_steps=2).outcome == CORRUPTION
    assert fault.injected
    assert (state(), learned()) == before
    rig.clean_step()
    assert rig.false_alarms == []
    assert state() != before[0]


def test_campaigns_add_up_wherever_they_are_cut() -> None:
    empty = new_campaign("tiny", "transient", seed=5, warmup_steps=3)
    whole = continue_campaign(empty, build, 8)
    part = continue_campaign(empty, build, 3)
    assert part.done == ((0, 3),)
    resumed = continue_campaign(part, build, 8)
    assert resumed.done == whole.done == ((0, 8),)
    assert resumed.outcomes == whole.outcomes
    assert resumed.outcomes_by_op == whole.outcomes_by_op
    assert continue_campaign(resumed, build, 8) == resumed
    assert whole.corruption.injected == 8


@pytest.mark.slow
def test_two_processes_try_each_fault_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    empty = new_campaign("tiny", "transient", seed=5, warmup_steps=2)
    step = partial(build_step, "tiny", dtype="fp32", seed=0)
    campaign = continue_campaign(empty, step, 4, num_processes=2)
    assert campaign.done == ((0, 4),)
    assert sum(campaign.outcomes.values()) == 4


def test_a_repeated_fault_is_found_and_its_step_is_counted() -> None:
    campaign = continue_campaign(
        new_campaign("tiny", "repeated", seed=1, warmup_steps=6), build, 4)
    assert campaign.corruption.detected == sum(campaign.found_in_step.values()) >= 3
    assert campaign.causes.get("persistent hardware", 0) == 0


def test_false_alarms_between_faults_are_kept() -> None:
    """A fault that is always there shows in the clean steps as well."""
    empty = new_campaign("tiny", "transient", seed=5, warmup_steps=2)
    with RepeatedFlip(aten.exp.default, (4, 32, 256), 0, 3, 30):
        (batch,) = run_trials(empty, build, [0])
    assert batch[1]
    assert empty.with_trials(*batch).false_alarms == tuple(batch[1])


def test_clean_runs_count_checks_and_find_nothing() -> None:
    run = clean_run(build, "tiny", num_steps=3)
    assert run.num_findings == 0
    assert run.calls_checked > 500
    assert run.checks_by_witness["replay"] > 500
    assert 0 < run.alarms_per_check.high < 0.01


def test_a_clean_run_that_is_not_clean_says_so() -> None:
    with RepeatedFlip(aten.exp.default, (4, 32, 256), 0, 3, 30):
        run = clean_run(build, "tiny", num_steps=2)
    assert run.num_findings >= 1
    assert "aten.exp" in run.messages[0]


@pytest.mark.parametrize("call", [
    lambda: new_campaign("x", "stuck", seed=0),
    lambda: continue_campaign(new_campaign("x", "transient", seed=0), build, 0),
    lambda: clean_run(build, "x", num_steps=0),
])
def test_wrong_arguments_are_named(call: Any) -> None:
    with pytest.raises(UsageError, match=r"stuck|num=0|num_steps=0"):
        call()


def test_rates_distinguish_verdicts() -> None:
    campaign = Campaign(label="x", model="repeated", seed=0, warmup_steps=1, steps_repeated=3,
                        outcomes={"corruption": 7, "softer verdict": 2, "missed": 1,
                                  "not injected": 5})
    assert (campaign.corruption.detected, campaign.corruption.injected) == (7, 10)
    assert (campaign.named.detected, campaign.named.injected) == (9, 10)
