"""Small calls of torch's optimizers are judged together at the end of the step, and no fault gets
through that way."""

from __future__ import annotations

import pytest
import torch

import sdc_guard
from sdc_guard.calls import form_of
from sdc_guard.check.batches import Slot
from sdc_guard.guard import Guard
from sdc_guard.inject.faults import RepeatedFlip, TransientFlip
from sdc_guard.records import Verdict
from tests.guard.training import NUM_FEATURES, WIDTH, Run, flip, hit, wrapped

aten = torch.ops.aten
OPS = (aten.add_.Tensor, aten.mul_.Tensor, aten.lerp_.Scalar, aten.addcmul_.default,
       aten.sqrt.default, aten.div.Tensor, aten.addcdiv_.default)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the ops whose calls wait for the end of a step."""
    names: list[str] = []
    keep = Slot.keep

    def counted(slot: Slot, result: object, note: object) -> bool:
        names.append(slot._form.op.name)
        return keep(slot, result, note)

    monkeypatch.setattr(Slot, "keep", counted)
    return names


def learned(run: Run) -> Guard:
    """A guard that has seen enough of a run for no reference to be due by chance."""
    guard = wrapped(run)
    for i in range(2):
        run.step(i)
    for plan in guard._pipeline._plans.values():
        plan.visits = 10**6 // len(plan.relations or "-") * len(plan.relations or "-")
    guard._scheduler.reference_s = 1e9
    return guard


def test_every_op_of_adamw_waits_and_the_bits_are_those_of_a_plain_run(kept: list[str]) -> None:
    plain, run = Run(), Run()
    guard = learned(run)
    for i in range(4):
        plain.step(i)
        if i > 1:
            run.step(i)
    assert run.state() == plain.state()
    assert set(kept) >= {str(op) for op in OPS}
    assert guard.findings == []
    checked = {op.op: (op.calls_checked, op.calls) for op in guard.coverage.ops}
    for op in OPS:
        done, made = checked[form_of(op).packet]
        assert done == made
    assert guard.coverage.guard_errors == 0
    sdc_guard.unwrap(run.model)


@pytest.mark.parametrize("op", OPS, ids=str)
@pytest.mark.parametrize("number", [1, 3])
def test_a_flip_in_a_call_that_waits_keeps_the_step_out(
    op: torch._ops.OpOverload, number: int, kept: list[str]
) -> None:
    run = Run()
    guard = learned(run)
    before = run.state()
    with hit(flip(op, number, flat_index=0)):
        run.step(2)
    assert str(op) in kept
    assert {f.op for f in guard.findings} == {str(op)}
    assert {f.verdict for f in guard.findings} == {Verdict.CORRUPTION}
    assert guard.findings[0].call.phase == "optimizer"
    assert guard.findings[0].call.source.startswith(__file__.replace("test_postponed", "training"))
    assert guard.coverage.steps_skipped == 1
    assert run.state() == before
    sdc_guard.unwrap(run.model)


@pytest.mark.parametrize("shape", [(NUM_FEATURES,), (WIDTH, NUM_FEATURES)])
@pytest.mark.parametrize("op", [aten.sqrt.default, aten.div.Tensor], ids=str)
def test_a_flip_in_the_same_place_of_every_call_is_found(
    op: torch._ops.OpOverload, shape: tuple[int, ...], kept: list[str]
) -> None:
    run = Run()
    guard = learned(run)
    with RepeatedFlip(op, shape, flat_index=1, bit=3):
        run.step(2)
    assert str(op) in kept
    assert {f.op for f in guard.findings} == {str(op)}
    sdc_guard.unwrap(run.model)


def test_a_flip_in_the_recomputation_accuses_it_and_not_the_call(kept: list[str]) -> None:
    run, plain = Run(), Run()
    guard = learned(run)
    for i in range(3):
        plain.step(i)
    with TransientFlip(aten.addcdiv.default, 0, flat_index=70, bit=20):
        run.step(2)
    assert "aten.addcdiv_.default" in kept
    assert all(not f.held_is_wrong for f in guard.findings)
    assert run.state() == plain.state()
    sdc_guard.unwrap(run.model)
