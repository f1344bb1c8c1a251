"""Detectors that run a step again: loss watch, step replay; and what they put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from sdc_guard.bench.detectors.base import Detector
from sdc_guard.bench.detectors.images import BeforePass, BeforeStep
from sdc_guard.bench.detectors.loss_watch import LossWatch
from sdc_guard.bench.detectors.step_replay import StepReplay
from sdc_guard.bench.workload import Workload, intra_op_threads
from sdc_guard.errors import UsageError
from sdc_guard.inject.faults import RepeatedFlip, TransientFlip
from tests.unit.bench.detectors import small

aten = torch.ops.aten
SHAPE = (small.BATCH, small.HIDDEN)
ALL = [LossWatch, StepReplay, lambda: StepReplay(2)]
IDS = ["loss watch", "step replay", "every 2"]


@pytest.fixture(autouse=True)
def own_conditions() -> Iterator[None]:
    with intra_op_threads(1), torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        yield


def warm(detector: Detector, steps: int = 4) -> Workload:
    work = small.workload()
    detector.begin(work)
    for _ in range(steps):
        assert detector.step(work) == ()
    detector.mark()
    return work


class Wrong:
    """The loss of a step times a number, in the first ``times`` passes."""

    def __init__(self, work: Workload, factor: float, times: int) -> None:
        self.loss, self.factor, self.times = work.loss, factor, times
        work.loss = self

    def __call__(self, model: Any, batch: Any) -> torch.Tensor:
        self.times -= 1
        loss = self.loss(model, batch)
        return loss * self.factor if self.times >= 0 else loss


@pytest.mark.parametrize("make", ALL, ids=IDS)
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_clean_steps_are_silent_and_training_is_the_same(
    make: Callable[[], Detector], autocast: torch.dtype | None
) -> None:
    detector, alarms = make(), []
    detector.begin(small.workload())
    watched = small.trained(
        lambda work: alarms.extend(detector.step(work)), 6, autocast=autocast)
    assert alarms == []
    assert watched == small.trained(Workload.step, 6, autocast=autocast)


@pytest.mark.parametrize("make", ALL, ids=IDS)
@pytest.mark.parametrize(("op", "number", "index"), [
    (aten.add_.Tensor, 2, 4), (aten.addmm.default, 1, 2)], ids=["optimizer", "forward"])
def test_the_fault_strikes_the_call_of_the_user(
    make: Callable[[], Detector], op: Any, number: int, index: int
) -> None:
    """Calls made to watch and to run again are not counted: the forward pass makes one ``add_``
    (batch norm counts its batches), and the next are still the optimizer's."""
    plain = small.workload()
    for _ in range(4):
        plain.step()
    fault, again = (TransientFlip(op, number, 0, index, 3, counts="user") for _ in range(2))
    with fault:
        plain.step()
    torch.manual_seed(7)
    detector = make()
    work = warm(detector)
    with again:
        detector.step(work)
    (one,), (other,) = fault.injected, again.injected
    assert (one.shape, one.before, one.after) == (other.shape, other.before, other.after)


@pytest.mark.parametrize(("factor", "why"), [
    (float("nan"), "loss is NaN"), (float("inf"), "loss is Inf"), (1e3, "spiky loss")])
@pytest.mark.parametrize("comes_again", [False, True])
def test_an_odd_loss_is_rejected_and_run_again(factor: float, why: str, comes_again: bool) -> None:
    detector = LossWatch()
    work = warm(detector)
    Wrong(work, factor, times=2 if comes_again else 1)
    (alarm,) = detector.step(work)
    assert alarm.detail.startswith(why)
    assert alarm.cause == ("" if comes_again else "transient")
    assert alarm.firm is not (comes_again and why == "spiky loss")
    assert ("persistent" in alarm.verdict) is comes_again


def test_a_gradient_that_is_no_number_is_rejected() -> None:
    detector = LossWatch()
    work = warm(detector)
    parameter = next(iter(work.model.parameters()))
    parameter.register_hook(lambda gradient: gradient * float("inf"))
    (alarm,) = detector.step(work)
    assert alarm.detail.startswith("gradient norm is")
    assert alarm.firm


def test_a_spike_is_one_below_zero_too() -> None:
    detector = LossWatch()
    work = warm(detector)
    Wrong(work, -1e3, times=1)
    (alarm,) = detector.step(work)
    assert alarm.detail.startswith("spiky loss")


def test_a_loss_below_ten_times_the_first_ones_is_let_pass() -> None:
    detector = LossWatch()
    work = warm(detector)
    Wrong(work, 2.0, times=1)
    assert detector.step(work) == ()


def test_the_loss_watch_learns_in_the_warm_up_only() -> None:
    detector = LossWatch()
    work = warm(detector)
    Wrong(work, 6.0, times=1)
    assert detector.step(work) == ()
    Wrong(work, 40.0, times=1)
    assert len(detector.step(work)) == 1
    detector.begin(work)
    Wrong(work, 40.0, times=1)
    assert detector.step(work) == ()


def flip_in_backward() -> TransientFlip:
    return TransientFlip(aten.native_layer_norm_backward.default, 0, 1, 3, 0, counts="user")


def test_a_replay_catches_the_last_bit_of_one_gradient() -> None:
    detector = StepReplay()
    work = warm(detector)
    with flip_in_backward() as fault:
        (alarm,) = detector.step(work)
    assert fault.injected
    assert (alarm.op, alarm.firm) == ("", True)
    assert alarm.detail.startswith("norm.weight has another hash")


def test_a_replay_misses_what_comes_again_and_what_strikes_the_optimizer() -> None:
    detector = StepReplay()
    work = warm(detector)
    with RepeatedFlip(aten.addmm.default, SHAPE, 0, 5, 20) as fault:
        assert detector.step(work) == ()
    assert len(fault.injected) == 2
    with TransientFlip(aten.addcdiv_.default, 0, 0, 2, 20, counts="user") as late:
        assert detector.step(work) == ()
    assert late.injected


def test_a_replay_catches_a_wrong_buffer() -> None:
    detector = StepReplay()
    work = warm(detector)
    with TransientFlip(aten.native_batch_norm.default, 0, 0, 3, 20, counts="user") as fault:
        detector.step(work)
    assert fault.injected
    work.model.register_buffer("counter", torch.zeros(()))
    passes = iter(range(10))
    loss = work.loss
    work.loss = lambda model, batch: (model.counter.fill_(float(next(passes))),
                                      loss(model, batch))[1]
    (alarm,) = detector.step(work)
    assert alarm.detail.startswith("counter")


def test_a_replay_catches_random_streams_that_part() -> None:
    detector = StepReplay()
    work = warm(detector)
    passes, loss = iter(range(10)), work.loss

    def drawing(model: Any, batch: Any) -> torch.Tensor:
        result = loss(model, batch)
        if next(passes) == 0:
            torch.rand(1)
        return result

    work.loss = drawing
    (alarm,) = detector.step(work)
    assert alarm.detail.startswith("the random state")


def test_a_replay_every_third_step_goes_on_counting() -> None:
    detector = StepReplay(3)
    work = warm(detector, 4)
    found = []
    for _ in range(6):
        with flip_in_backward():
            found.append(len(detector.step(work)))
        detector.reset()
    assert found == [0, 0, 1, 0, 0, 1]
    assert not detector.exhaustive


def test_a_replay_needs_an_interval() -> None:
    with pytest.raises(UsageError, match="interval=0"):
        StepReplay(0)


@pytest.mark.parametrize("steps", [0, 2])
def test_all_that_a_step_changes_is_put_back(steps: int) -> None:
    work = small.workload()
    for _ in range(steps):
        work.step()
    before, kept = small.numbers(work), BeforeStep(work)
    work.step()
    after = small.numbers(work)
    kept.put_back()
    assert small.numbers(work) == before != after
    work.step_number -= 1
    work.step()
    assert small.numbers(work) == after


def test_gradients_that_were_there_before_are_put_back() -> None:
    work = small.workload()
    work.forward_backward(work.next_batch())
    before, kept = small.numbers(work), BeforePass(work)
    work.forward_backward(work.next_batch())
    assert small.numbers(work) != before
    kept.put_back()
    assert small.numbers(work) == before
