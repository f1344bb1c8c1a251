"""Detectors that watch numbers of a step: gradient statistics and the global norm's z-score."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from sdc_guard.bench.detectors.base import Alarm, Detector
from sdc_guard.bench.detectors.gradient_norm import GlobalNormZScore, GradientStatistics
from sdc_guard.bench.workload import Workload, intra_op_threads
from sdc_guard.inject.faults import RepeatedFlip, TransientFlip
from tests.unit.bench.detectors import small

aten = torch.ops.aten
ALL = [GradientStatistics, GlobalNormZScore]
IDS = ["statistics", "z-score"]
SAMPLED, NOT_SAMPLED = "first.weight", "first.bias"


@pytest.fixture(autouse=True)
def own_conditions() -> Iterator[None]:
    with intra_op_threads(1), torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        yield


def warm(detector: Detector, steps: int = 12) -> Workload:
    work = small.workload()
    detector.begin(work)
    for _ in range(steps):
        assert detector.step(work) == ()
    detector.mark()
    return work


def with_gradient_times(
    detector: Detector, work: Workload, factor: float, name: str = SAMPLED
) -> tuple[Alarm, ...]:
    parameter = dict(work.model.named_parameters())[name]
    handle = parameter.register_hook(lambda gradient: gradient * factor)
    try:
        return detector.step(work)
    finally:
        handle.remove()


@pytest.mark.parametrize("make", ALL, ids=IDS)
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_clean_steps_are_silent_and_training_is_the_same(
    make: Callable[[], Detector], autocast: torch.dtype | None
) -> None:
    detector, alarms = make(), []
    detector.begin(small.workload())
    watched = small.trained(
        lambda work: alarms.extend(detector.step(work)), 16, autocast=autocast)
    assert alarms == []
    assert watched == small.trained(Workload.step, 16, autocast=autocast)


@pytest.mark.parametrize(("factor", "verdict", "firm"), [
    (1e8, "gradient anomaly", True), (float("nan"), "gradient anomaly", True),
    (float("inf"), "gradient anomaly", True), (1e4, "suspected", False)])
def test_a_jump_of_a_sampled_gradient_is_an_alarm(factor: float, verdict: str, firm: bool) -> None:
    detector = GradientStatistics()
    work = warm(detector)
    (alarm,) = with_gradient_times(detector, work, factor)
    assert (alarm.verdict, alarm.firm) == (verdict, firm)
    assert SAMPLED in alarm.detail


def test_small_jumps_and_other_gradients_are_let_pass() -> None:
    detector = GradientStatistics()
    work = warm(detector)
    assert with_gradient_times(detector, work, 20.0) == ()
    detector.reset()
    assert with_gradient_times(detector, work, 1e8, NOT_SAMPLED) == ()


def test_a_flip_in_the_top_exponent_bit_is_an_alarm() -> None:
    detector = GradientStatistics()
    work = warm(detector)
    with RepeatedFlip(aten.mm.default, (small.HIDDEN, small.INPUTS), 0, 5, 30) as fault:
        (alarm,) = detector.step(work)
    assert fault.injected
    assert alarm.firm


def test_what_is_suspected_does_not_enter_the_mean() -> None:
    detector = GradientStatistics()
    work = warm(detector)
    before = dict(detector._means)
    with_gradient_times(detector, work, 1e4)
    assert detector._means[SAMPLED] == before[SAMPLED]
    assert detector._means != before
    detector.reset()
    assert detector._means == before


@pytest.mark.parametrize("factor", [1e3, float("nan"), float("inf")])
def test_a_jump_of_the_global_norm_is_an_alarm(factor: float) -> None:
    detector = GlobalNormZScore()
    work = warm(detector)
    norms = list(detector._norms)
    (alarm,) = with_gradient_times(detector, work, factor)
    assert alarm.firm
    assert list(detector._norms) == norms


def test_the_global_norm_returns_to_what_it_knew() -> None:
    detector = GlobalNormZScore()
    work = warm(detector)
    norms = list(detector._norms)
    detector.step(work)
    assert list(detector._norms) != norms
    detector.reset()
    assert list(detector._norms) == norms


def test_the_global_norm_needs_a_history() -> None:
    detector = GlobalNormZScore()
    work = warm(detector, 3)
    assert with_gradient_times(detector, work, 1e3) == ()


@pytest.mark.parametrize("make", ALL, ids=IDS)
def test_norms_are_not_counted_as_calls_of_the_user(make: Callable[[], Detector]) -> None:
    with TransientFlip(aten.linalg_vector_norm.default, 0, 0, 0, 20, counts="user") as fault:
        make().step(small.workload())
    assert not fault.injected
    assert fault.num_calls > 0
