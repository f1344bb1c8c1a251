"""Detectors that look at every op call: ours, rerun and compare, float64 recompute."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from sdc_guard.bench.detectors.base import Alarm, Detector
from sdc_guard.bench.detectors.float64 import Float64Recompute
from sdc_guard.bench.detectors.ours import GuardDetector
from sdc_guard.bench.detectors.rerun import RerunAndCompare
from sdc_guard.bench.workload import Workload, intra_op_threads
from sdc_guard.errors import UsageError
from sdc_guard.inject.campaign import draw_transients, record_calls
from sdc_guard.inject.faults import Fault, RepeatedFlip, TransientFlip
from tests.known_precision import is_known
from tests.unit.bench.detectors import small

aten = torch.ops.aten
SHAPE = (small.BATCH, small.HIDDEN)
NAMERS = [lambda: GuardDetector("all"), RerunAndCompare, Float64Recompute]
NAMES = ["ours", "rerun", "float64"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with intra_op_threads(1), torch.random.fork_rng(devices=[]):
        yield


def warm(detector: Detector, steps: int = 4, **options: Any) -> Workload:
    work = small.workload(**options)
    torch.manual_seed(7)
    detector.begin(work)
    for _ in range(steps):
        detector.step(work)
    detector.mark()
    return work


def caught(detector: Detector, fault: Fault, **options: Any) -> tuple[Alarm, ...]:
    work = warm(detector, **options)
    with fault:
        alarms = detector.step(work)
    detector.end()
    assert fault.injected
    return alarms


def transient(op: Any = aten.addmm.default, bit: int = 22, number: int = 0) -> TransientFlip:
    return TransientFlip(op, number, 0, 5, bit, counts="user")


@pytest.mark.parametrize("make", NAMERS, ids=NAMES)
def test_a_transient_flip_is_named(make: Callable[[], Detector]) -> None:
    (alarm,) = caught(make(), transient())
    assert alarm.op == "aten.addmm.default"
    assert alarm.firm


@pytest.mark.parametrize("make", NAMERS, ids=NAMES)
@pytest.mark.parametrize("number", [0, 1])
def test_the_fault_strikes_the_call_of_the_user(
    make: Callable[[], Detector], number: int
) -> None:
    """A detector's own calls of the op come in between, and neither count nor are struck."""
    plain = small.workload()
    torch.manual_seed(7)
    for _ in range(4):
        plain.step()
    fault, again = transient(number=number, bit=3), transient(number=number, bit=3)
    with fault:
        plain.step()
    plain_numbers = small.numbers(plain)
    detector = make()
    work = warm(detector)
    with again:
        detector.step(work)
    (one,), (other,) = fault.injected, again.injected
    assert (one.shape, one.before, one.after) == (other.shape, other.before, other.after)
    assert small.numbers(work) == plain_numbers


@pytest.mark.parametrize("make", NAMERS, ids=NAMES)
def test_clean_steps_are_silent_in_float32_and_training_is_the_same(
    make: Callable[[], Detector]
) -> None:
    detector, alarms = make(), []
    detector.begin(small.workload())
    watched = small.trained(lambda work: alarms.extend(detector.step(work)), 5)
    assert alarms == []
    assert watched == small.trained(Workload.step, 5)


@pytest.mark.parametrize("make", NAMERS, ids=NAMES)
def test_training_is_the_same_under_autocast_and_false_alarms_are_counted(
    make: Callable[[], Detector]
) -> None:
    detector, alarms = make(), []
    options = {"autocast": torch.bfloat16}
    detector.begin(small.workload(**options))
    watched = small.trained(lambda work: alarms.extend(detector.step(work)), 4, **options)
    assert watched == small.trained(Workload.step, 4, **options)
    if isinstance(detector, Float64Recompute):  # 1e-5 is far below what bf16 cancels to
        assert 0 < len(alarms) < detector.mode.num_compared / 10
        return
    assert [a for a in alarms if not is_known(f"{a.verdict}: {a.detail}")] == []


def test_rerun_catches_a_flip_of_the_last_bit_of_any_op() -> None:
    detector = RerunAndCompare()
    work = warm(detector)
    missed = []
    for fault in draw_transients(record_calls(small.workload().step), 60, seed=1):
        with fault:
            try:
                alarms = detector.step(work)
            except IndexError:
                continue
        if fault.injected and [a.op for a in alarms] != [str(fault.op)]:
            missed.append((str(fault.op), [a.op for a in alarms]))
        work = warm(detector, 1) if fault.injected else work
    assert {op for op, _ in missed} <= {"aten.bernoulli_.float"}


@pytest.mark.parametrize("make", NAMERS, ids=NAMES)
@pytest.mark.parametrize(("kind", "op", "output"), [
    ("foreach", aten._foreach_addcdiv_.ScalarList, 3), ("fused", aten._fused_adamw_.default, 5)])
def test_optimizers_that_write_to_lists_of_tensors_are_checked(
    make: Callable[[], Detector], kind: str, op: Any, output: int
) -> None:
    detector = make()
    work = warm(detector, kind=kind)
    assert detector.step(work) == ()
    with TransientFlip(op, 0, output, 2, 29, counts="user") as fault:
        alarms = detector.step(work)
    assert fault.injected
    assert {alarm.op for alarm in alarms} == {str(op)}


def test_rerun_misses_what_comes_again() -> None:
    assert caught(RerunAndCompare(), RepeatedFlip(aten.addmm.default, SHAPE, 0, 5, 30)) == ()


def test_rerun_says_what_it_leaves_out() -> None:
    detector = RerunAndCompare()
    warm(detector, 2)
    assert set(detector.mode.left_out) == {"aten.bernoulli_.float: draws random numbers"}
    assert detector.mode.num_compared > 50


def test_float64_catches_a_large_error_that_comes_again() -> None:
    alarms = caught(Float64Recompute(), RepeatedFlip(aten.addmm.default, SHAPE, 0, 5, 26))
    assert {alarm.op for alarm in alarms} == {"aten.addmm.default"}


def test_float64_misses_what_is_within_its_tolerance() -> None:
    assert caught(Float64Recompute(), transient(bit=2)) == ()


def test_float64_leaves_no_op_of_the_small_workload_out() -> None:
    detector = Float64Recompute()
    warm(detector, 2)
    assert set(detector.mode.left_out) == {"aten.bernoulli_.float: draws random numbers"}


def test_ours_tells_cause_and_op_of_a_repeated_fault() -> None:
    alarms = caught(GuardDetector("all"), RepeatedFlip(aten.addmm.default, SHAPE, 0, 5, 30))
    cause = "software" if len(os.sched_getaffinity(0)) > 1 else ""  # one core tells no cause
    assert {(a.op, a.verdict, a.cause) for a in alarms} == {
        ("aten.addmm.default", "corruption", cause)}


@pytest.mark.parametrize("budget", ["all", 1.0])
def test_ours_returns_to_what_it_knew(budget: float | str) -> None:
    detector = GuardDetector(budget)
    work = warm(detector, 3)

    def learned() -> Any:
        pipeline = detector.guard._pipeline
        return ([[(r.name, r.passes, r.refused) for r in p.relations]
                 for p in pipeline._plans.values()], len(pipeline.findings), set(pipeline.refused))

    def visits() -> int:
        return sum(plan.visits for plan in detector.guard._pipeline._plans.values())

    before, seen = learned(), visits()
    for _ in range(4):
        with transient():
            detector.step(work)
    after = learned()
    detector.reset()
    known = learned()
    assert known[1:] == before[1:]
    if budget == "all":
        assert known == before != after
        assert visits() == seen
    else:
        assert known[0][: len(before[0])] == before[0]
        assert all(passes == 0 for plan in known[0][len(before[0]):] for _, passes, _ in plan)
        assert visits() > seen


def test_causes_of_one_trial_are_not_copied_into_the_next() -> None:
    """A cause is sought for the first findings of a kind only; each trial is a first one."""
    detector = GuardDetector("all")
    work = warm(detector)
    causes = []
    for _ in range(8):
        with RepeatedFlip(aten.addmm.default, SHAPE, 0, 5, 30):
            detector.step(work)
        detector.reset()
    with transient(bit=30):
        causes = [alarm.cause for alarm in detector.step(work) if alarm.op == "aten.addmm.default"]
    assert causes == ["transient"]


def test_ours_under_a_share_lets_its_scheduler_go_on() -> None:
    detector = GuardDetector(0.02)
    work = warm(detector)
    scheduler = detector.guard._scheduler
    elapsed_s, generator = scheduler.elapsed_s, scheduler.generator.bit_generator.state
    scheduler.generator.random()
    detector.step(work)
    detector.reset()
    assert scheduler.elapsed_s > elapsed_s
    assert scheduler.generator.bit_generator.state != generator
    assert detector.coverage.calls > 0
    assert not detector.exhaustive


def test_ours_keeps_what_was_found_before_an_exception() -> None:
    detector = GuardDetector("all")
    work = warm(detector)
    work.update = lambda: 1 / 0  # type: ignore[method-assign, assignment]
    with transient(), pytest.raises(ZeroDivisionError):
        detector.step(work)
    assert [alarm.op for alarm in detector.alarms] == ["aten.addmm.default"]


def test_ours_says_what_was_forgotten() -> None:
    with pytest.raises(UsageError, match="call begin"):
        GuardDetector("all").step(small.workload())
    detector = GuardDetector("all")
    detector.begin(small.workload())
    with pytest.raises(UsageError, match="call mark"):
        detector.reset()
