"""What each policy does with a finding, and the same under a gradient scaler."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sdc_guard
from sdc_guard.errors import SdcGuardWarning
from sdc_guard.policy import Policy
from tests.guard.training import BACKWARD, FORWARD, Run, batch, flip, hit, wrapped
from tests.made_reports import made_finding

aten = torch.ops.aten
INSIDE = (aten.addcdiv_.default, 2)


def corrupt_once(**options: Any) -> tuple[Run, Any, sdc_guard.Guard]:
    run = Run()
    guard = wrapped(run, **options)
    before = run.state()
    with hit(flip(*FORWARD)):
        run.step(0)
    sdc_guard.unwrap(run.model)
    return run, before, guard


def test_act_on_decides_which_verdicts_skip() -> None:
    run, before, guard = corrupt_once(act_on=("precision",))
    assert run.state() != before
    assert guard.coverage.steps_skipped == 0
    assert len(guard.findings) == 1
    run, before, guard = corrupt_once(act_on=("corruption", "precision"))
    assert run.state() == before
    assert guard.coverage.steps_skipped == 1


def test_record_and_a_callable_let_the_step_through() -> None:
    told: list[sdc_guard.Finding] = []
    for policy in ("record", told.append):
        run, before, guard = corrupt_once(on_finding=policy)
        assert run.state() != before
        assert len(guard.findings) == 1
        assert guard.coverage.steps_skipped == 0
    assert told == guard.findings


def test_what_a_callable_raises_reaches_the_loop() -> None:
    def stop(finding: sdc_guard.Finding) -> None:
        raise StopIteration(finding.op)

    run = Run()
    guard = wrapped(run, on_finding=stop)
    with hit(flip(*FORWARD)), pytest.raises(StopIteration, match="addmm"):
        run.step(0)
    assert len(guard.findings) == 1
    run.step(1)
    sdc_guard.unwrap(run.model)


@pytest.mark.parametrize("raised", ["callable", "warning"])
def test_what_is_raised_for_a_fault_inside_an_optimizer_step_leaves_the_step_whole(
    raised: str,
) -> None:
    def stop(finding: sdc_guard.Finding) -> None:
        raise RuntimeError(finding.op)

    run, plain = Run(), Run()
    with hit(flip(*INSIDE)):
        plain.step(0)
    guard = wrapped(run, on_finding=stop if raised == "callable" else "warn")
    kind = RuntimeError if raised == "callable" else SdcGuardWarning
    with warnings.catch_warnings(), hit(flip(*INSIDE)):
        warnings.simplefilter("error", SdcGuardWarning)
        with pytest.raises(kind, match="addcdiv"):
            run.step(0)
    assert len(guard.findings) == 1
    assert run.state() == plain.state()
    run.step(1)
    plain.step(1)
    assert run.state() == plain.state()
    sdc_guard.unwrap(run.model)


def test_warn_warns() -> None:
    with pytest.warns(SdcGuardWarning, match=r"corruption in aten\.addmm"):
        corrupt_once(on_finding="warn")


def scaled_step(run: Run, scaler: Any, i: int) -> None:
    run.optimizer.zero_grad()
    x, y = batch(i)
    scaler.scale(F.cross_entropy(run.model(x), y)).backward()
    scaler.unscale_(run.optimizer)
    nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    scaler.step(run.optimizer)
    scaler.update()


@pytest.mark.parametrize("fused", [False, True], ids=["single", "fused"])
@pytest.mark.parametrize("place", [FORWARD, BACKWARD], ids=["forward", "backward"])
def test_grad_scaler_on_cpu(fused: bool, place: Any) -> None:
    def make(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=1e-2, fused=fused)

    run, plain = Run(make), Run(make)
    scaler, plain_scaler = (torch.amp.GradScaler("cpu", init_scale=16.0) for _ in range(2))
    guard = wrapped(run)
    scaled_step(run, scaler, 0)
    before = run.state()
    with hit(flip(*place, bit=24)):
        scaled_step(run, scaler, 1)
    assert run.state() == before
    assert guard.coverage.steps_skipped == 1
    scaled_step(run, scaler, 2)
    scaled_step(plain, plain_scaler, 0)
    scaled_step(plain, plain_scaler, 2)
    assert run.state() == plain.state()
    sdc_guard.unwrap(run.model)


def test_a_step_that_the_scaler_drops_is_one_with_the_next() -> None:
    run = Run()
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    guard = wrapped(run)
    scaled_step(run, scaler, 0)
    before = run.state()
    with torch.no_grad():
        hidden = run.model.up(F.batch_norm(batch(1)[0], None, None, training=True)).reshape(-1)
    near_one = int(torch.nonzero((hidden.abs() > 1.1) & (hidden.abs() < 1.9))[0])
    with hit(flip(aten.addmm.default, 0, near_one, bit=30)):  # Inf or NaN
        scaled_step(run, scaler, 1)
    assert scaler.get_scale() == 8.0
    scaled_step(run, scaler, 2)
    assert run.state() == before
    assert guard.coverage.steps_skipped == 1
    scaled_step(run, scaler, 3)
    assert run.state() != before
    sdc_guard.unwrap(run.model)


def test_a_fault_in_the_preparation_of_a_batch_keeps_its_step_out_and_no_other() -> None:
    run = Run()
    guard = wrapped(run)
    run.step(0)
    before = run.state()
    with hit(flip(aten.div.Tensor)):
        x = batch(1)[0] / 3.0
    run.optimizer.zero_grad()
    run.model(x).square().sum().backward()
    run.optimizer.step()
    assert run.state() == before
    assert guard.coverage.steps_skipped == 1
    run.step(2)
    assert run.state() != before
    assert guard.coverage.steps_skipped == 1


def test_a_fault_in_gradients_that_are_made_by_hand_keeps_the_step_out() -> None:
    run = Run()
    guard = wrapped(run)
    run.step(0)
    before = run.state()
    with hit(flip(aten.div.Tensor)):
        for parameter in run.model.parameters():
            parameter.grad = parameter.detach() / 3.0
    run.optimizer.step()
    assert run.state() == before
    assert guard.coverage.steps_skipped == 1


@pytest.mark.parametrize("evaluates", [False, True])
def test_raising_between_steps_leaves_the_buffers_as_they_are(evaluates: bool) -> None:
    run = Run()
    wrapped(run, on_finding="raise")
    run.step(0)
    run.step(1)
    before = run.state()
    with torch.set_grad_enabled(not evaluates), hit(flip(aten.div.Tensor)), \
            pytest.raises(sdc_guard.CorruptionDetected):
        batch(2)[0] / 3.0
    assert run.state() == before
    run.step(2)
    assert run.state() != before


def test_a_fault_of_every_step_is_logged_once_and_then_ever_more_rarely(
    caplog: pytest.LogCaptureFixture
) -> None:
    policy = Policy("record", ("corruption",))
    found = made_finding()
    other = made_finding(1)
    with caplog.at_level(logging.WARNING, logger="sdc_guard"):
        policy.take([found] * 120)
        policy.take([other])
    assert [record.getMessage() for record in caplog.records] == [
        found.message, f"{found.message} (finding 10 of this kind)",
        f"{found.message} (finding 100 of this kind)", other.message]
    assert len(policy.corrupt) == 121
