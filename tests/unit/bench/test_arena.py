"""Trials: what counts as found, that each starts from the same numbers, and false alarms apart."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from sdc_guard import bits
from sdc_guard.bench import arena
from sdc_guard.bench.arena import NUM_STARTS, Arena
from sdc_guard.bench.cells import ELSEWHERE, FIRM, LOUD, MISSED, SOFT, FaultTrial
from sdc_guard.bench.detectors.base import Alarm
from sdc_guard.bench.detectors.ours import STEPS_TO_KNOW, GuardDetector
from sdc_guard.bench.workload import Workload, intra_op_threads
from tests.unit.bench.small import Scripted, alarm, flip, small_workload

ADDMM = "aten.addmm.default"
MODEL = "single bit"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with intra_op_threads(1):
        yield


@pytest.fixture(autouse=True)
def one_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena, "draw", lambda name, target, index, seed: flip())


def tried(*said: Alarm, always: tuple[Alarm, ...] = (), index: int = 0) -> FaultTrial:
    detector = Scripted(*said, always=always)
    trial = Arena(detector, small_workload, seed=0, warmup_steps=2).try_fault(MODEL, index)
    assert trial is not None
    return trial


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ([alarm(ADDMM)], FIRM),
        ([alarm("")], FIRM),
        ([alarm(ADDMM, firm=False)], SOFT),
        ([alarm("aten.mm.default")], ELSEWHERE),
        ([], MISSED),
    ],
)
def test_only_an_accusation_that_fits_is_firm(said: list[Alarm], outcome: str) -> None:
    trial = tried(*said)
    assert trial.outcome == outcome
    assert (trial.why == "") == (outcome in (FIRM, MISSED))
    assert trial.op == ADDMM
    assert trial.op_class == "product"


def test_what_is_also_said_without_the_fault_is_a_false_alarm_and_finds_nothing() -> None:
    trial = tried(always=(alarm(ADDMM),))
    assert (trial.outcome, trial.num_false) == (MISSED, 1)
    assert tried(alarm(ADDMM), always=(alarm(ADDMM),)).outcome == FIRM


def test_an_exception_is_loud(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Scripted()
    rig = Arena(detector, small_workload, seed=0, warmup_steps=2)

    def explode(workload: Workload) -> tuple[Alarm, ...]:
        workload.step()
        raise ValueError("an index out of range")

    monkeypatch.setattr(detector, "step", explode)
    trial = rig.try_fault(MODEL, 0)
    assert trial is not None
    assert trial.outcome == LOUD
    assert "an index out of range" in trial.why


def test_a_fault_that_changes_nothing_is_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena, "draw", lambda *_: flip(number=10**6))
    assert Arena(Scripted(), small_workload, seed=0, warmup_steps=2).try_fault(MODEL, 0) is None


def test_every_trial_starts_from_the_same_numbers() -> None:
    detector = Scripted()
    rig = Arena(detector, small_workload, seed=0, warmup_steps=2)
    workload = rig._prepared.workload
    before = [bits.raw(p.detach()).copy() for p in workload.model.parameters()]
    detector.losses.clear()
    for index in (3, 4, 3, 3 + NUM_STARTS):
        rig.try_fault(MODEL, index)
    first, other, again, _ = detector.losses
    assert first == again != other
    for old, parameter in zip(before, workload.model.parameters(), strict=True):
        assert (old == bits.raw(parameter.detach())).all()


def test_a_trial_leaves_no_setting_and_no_new_state_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build() -> Workload:
        workload = small_workload()
        model, optimizer = workload.model, workload.optimizer
        late = torch.nn.Parameter(torch.ones(3))
        optimizer.add_param_group({"params": [late], "lr": torch.tensor(0.5), "foreach": False})
        model.register_parameter("late", late)
        model.register_buffer("seen", torch.zeros(()))
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        optimizer.register_step_post_hook(lambda *_: schedule.step())
        loss = workload.loss

        def lately(model: torch.nn.Module, batch: object) -> torch.Tensor:
            model.seen = model.get_buffer("seen") + 1
            if workload.step_number <= 3:  # two steps of warm-up and the recorded one
                return loss(model, batch)
            return loss(model, batch) + late.sum()

        workload.loss = lately
        return workload

    rig = Arena(Scripted(), build, seed=0, warmup_steps=2)
    workload = rig._prepared.workload

    def settings() -> list[float]:
        return [float(group["lr"]) for group in workload.optimizer.param_groups]

    before = settings()
    num_states = len(workload.optimizer.state)
    for index in (2, 3):
        assert rig.try_fault(MODEL, index) is not None
        assert settings() == before
        assert len(workload.optimizer.state) == num_states
        assert float(workload.model.get_buffer("seen")) == 2


def test_the_first_numbers_of_a_trial_do_not_depend_on_the_detector() -> None:
    one, two = Scripted(), Scripted(always=(alarm(ADDMM),))
    for detector in (one, two):
        Arena(detector, small_workload, seed=0, warmup_steps=3).try_fault(MODEL, 5)
    assert one.losses[:3] == two.losses[:3]
    assert one.losses[-1] == two.losses[-1]


def test_a_repeated_fault_is_tried_until_it_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Scripted(alarm("aten.mm.default"), alarm(ADDMM))
    detector.steps_after_one = 5
    trial = Arena(detector, small_workload, seed=0, warmup_steps=2).try_fault(MODEL, 0)
    assert trial is not None
    assert (trial.outcome, trial.num_steps) == (FIRM, 2)


def test_clean_steps_count_alarms_and_checks() -> None:
    detector = Scripted(always=(alarm(ADDMM),))
    rig = Arena(detector, small_workload, seed=0, warmup_steps=2)
    rig.clean_steps(3)
    assert (len(rig.clean_alarms), rig.num_clean, detector.num_checks) == (5, 5, 5)


def test_the_guard_finds_the_flip_and_says_transient() -> None:
    rig = Arena(GuardDetector("all"), small_workload, seed=0, warmup_steps=6)
    trial = rig.try_fault(MODEL, 1)
    assert trial is not None
    assert trial.outcome == FIRM
    assert {a.cause for a in trial.alarms} == {"transient"}
    assert not rig.clean_alarms
    assert torch.is_grad_enabled()


def test_a_share_knows_its_sites_and_owes_nothing_when_trials_begin() -> None:
    detector = GuardDetector(0.05)
    Arena(detector, small_workload, seed=0, warmup_steps=STEPS_TO_KNOW + 2)
    guard = detector.guard
    assert guard.budget == 0.05
    assert guard._scheduler.spent_s == 0.0
    assert len(guard._pipeline._plans) > 20
    exhaustive = GuardDetector("all")
    Arena(exhaustive, small_workload, seed=0, warmup_steps=STEPS_TO_KNOW + 2)
    assert exhaustive.guard.budget == "all"
    assert exhaustive.guard._scheduler.spent_s > 0.0
