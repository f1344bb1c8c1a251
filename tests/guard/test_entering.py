"""Arguments that no run can have; guards entered twice, inside each other, or again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import sdc_guard
from sdc_guard.errors import CorruptionDetected, UsageError
from tests.guard.training import BACKWARD, FORWARD, Run, flip, hit


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": None}, r'budget=None: give a share of run time from 0 to 1'),
        ({"budget": -1}, r"budget=-1: "),
        ({"budget": "2%"}, r"budget='2%': .*0\.02 means 2 %"),
        ({"budget": True}, r"budget=True: "),
        ({"budget": 2}, r"budget=2: "),
        ({"budget": float("nan")}, r"budget=nan: "),
        ({"budget": [0.02]}, r"budget=\[0\.02\]: "),
        ({"budget": "ALL"}, r"budget='ALL': "),
        ({"on_finding": "foo"}, r"on_finding='foo': choose one of record, warn, raise, skip"),
        ({"on_finding": None}, r"on_finding=None: "),
        ({"on_finding": ["skip"]}, r"on_finding=\['skip'\]: "),
        ({"memory_budget": "1GB"}, r"memory_budget='1GB': give a number of bytes"),
        ({"memory_budget": -1}, r"memory_budget=-1: "),
        ({"memory_budget": 1.5}, r"memory_budget=1\.5: "),
        ({"memory_budget": True}, r"memory_budget=True: "),
        ({"act_on": ("nonsense",)}, r"act_on=\('nonsense',\): give a tuple of verdicts"),
        ({"act_on": "corruption"}, r"act_on='corruption': give a tuple"),
        ({"evidence": "some"}, r"evidence"),
        ({"optimizer": "adam"}, r"optimizer='adam': give an optimizer"),
        ({"optimizer": [1]}, r"optimizer=\[1\]: give an optimizer"),
        ({"seed": "x"}, r"seed='x': "),
        ({"out": 3}, r"out=3: "),
    ],
    ids=str,
)
def test_a_wrong_argument_is_a_clear_error_and_leaves_no_guard(
    options: dict[str, Any], message: str
) -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(UsageError, match=message):
        sdc_guard.Guard(**options)
    with pytest.raises(UsageError, match=message):
        sdc_guard.wrap(model, **options)
    assert not hasattr(model, "sdc_guard")
    assert _get_current_dispatch_mode_stack() == []


@pytest.mark.parametrize("options", [
    {"budget": 0}, {"budget": 1}, {"budget": 1.0}, {"budget": 0.0}, {"budget": "all"},
    {"memory_budget": 0}, {"act_on": ()}, {"act_on": ("precision", "nondeterminism")},
    {"optimizer": []}, {"out": None},
], ids=str)
def test_limits_are_inside(options: dict[str, Any]) -> None:
    with sdc_guard.Guard(**options) as guard:
        torch.ones(3).sum()
    assert guard.coverage.guard_errors == 0


def test_what_is_no_module_cannot_be_wrapped() -> None:
    with pytest.raises(UsageError, match=r"wrap\(\) takes a torch\.nn\.Module, not function"):
        sdc_guard.wrap(lambda x: x)


def test_wrapping_twice_and_unwrapping_twice_are_errors() -> None:
    run, other = Run(), Run()
    sdc_guard.wrap(run.model)
    with pytest.raises(UsageError, match="wrapped already"):
        sdc_guard.wrap(run.model)
    with pytest.raises(UsageError, match="another guard is active"):
        sdc_guard.wrap(other.model)
    sdc_guard.unwrap(run.model)
    with pytest.raises(UsageError, match="is not wrapped"):
        sdc_guard.unwrap(run.model)
    with pytest.raises(UsageError, match="is not wrapped"):
        sdc_guard.unwrap(other.model)
    assert not hasattr(nn.Module, "sdc_guard")
    sdc_guard.wrap(run.model, budget="all")
    run.step(0)
    assert run.model.sdc_guard.coverage.calls_checked > 20


def test_a_guard_is_entered_again_and_again() -> None:
    run, plain = Run(), Run()
    guard = sdc_guard.Guard(budget="all", on_finding="skip", model=run.model)
    for i in range(3):
        with guard:
            run.step(i)
        assert _get_current_dispatch_mode_stack() == []
    seen = guard.coverage.calls
    run.step(3)
    assert guard.coverage.calls == seen
    for i in range(4):
        plain.step(i)
    assert run.state() == plain.state()
    assert guard.coverage.steps == 3
    kinds = [e["kind"] for e in guard._events.events]
    assert kinds.count("summary") == 3


def test_a_guard_that_is_left_in_the_middle_of_a_step_keeps_its_judgement() -> None:
    run = Run()
    guard = sdc_guard.Guard(budget="all", on_finding="skip", model=run.model)
    with guard:
        run.step(0)
    before = run.state()
    run.optimizer.zero_grad()
    with guard, hit(flip(*FORWARD)):
        run.backward(1)
    with guard:
        run.backward(2)
    with guard:
        run.optimizer.step()
    assert run.state() == before
    assert guard.coverage.steps_skipped == 1
    with guard:
        run.step(3)
    assert run.state() != before


def test_a_guard_in_itself_is_entered_once() -> None:
    run = Run()
    guard = sdc_guard.Guard(budget="all", model=run.model)
    with guard:
        with guard:
            run.step(0)
            assert len(_get_current_dispatch_mode_stack()) == 1
        assert len(_get_current_dispatch_mode_stack()) == 1
        run.step(1)
    assert _get_current_dispatch_mode_stack() == []
    assert guard.coverage.steps == 2


def test_entering_the_guard_of_a_wrapped_model_does_not_end_it() -> None:
    run = Run()
    sdc_guard.wrap(run.model, budget="all", on_finding="skip")
    guard = run.model.sdc_guard
    with guard:
        run.step(0)
    before = run.state()
    with hit(flip(*BACKWARD)):
        run.step(1)
    assert run.state() == before
    assert guard.coverage.steps == 2
    sdc_guard.unwrap(run.model)
    assert _get_current_dispatch_mode_stack() == []


def test_a_guard_inside_a_guard_joins_the_outer_one() -> None:
    run = Run()
    inner = sdc_guard.Guard(budget=0, on_finding="raise")
    with sdc_guard.Guard(budget="all", on_finding="skip") as outer:
        with inner, inner:
            before = run.state()["optimizer"]
            with hit(flip(*FORWARD)):
                run.step(0)
            assert run.state()["optimizer"] == before
            assert len(_get_current_dispatch_mode_stack()) == 1
        assert len(_get_current_dispatch_mode_stack()) == 1
        run.step(1)
    assert inner.findings == outer.findings
    assert len(outer.findings) == 1
    assert inner.coverage == outer.coverage
    assert "corruption" in inner.summary()
    with inner:
        run.step(2)
    assert inner.findings == []
    assert inner.coverage.calls > 10
    assert inner.coverage.calls_checked == 0


def test_a_guard_inside_a_wrapped_loop_joins_it() -> None:
    run = Run()
    sdc_guard.wrap(run.model, budget="all", on_finding="skip")
    with sdc_guard.Guard(budget=0) as joined:
        run.step(0)
    assert joined.coverage.calls_checked > 20
    run.step(1)
    assert run.model.sdc_guard.coverage.steps == 2


def test_leaving_with_a_fault_that_no_step_answered_raises() -> None:
    layer = nn.Linear(6, 4)
    guard = sdc_guard.Guard(budget="all", on_finding="raise")
    with pytest.raises(CorruptionDetected) as caught, guard, hit(
        flip(torch.ops.aten.addmm.default)
    ):
        layer(torch.ones(5, 6))
    assert len(caught.value.findings) == 1
    assert _get_current_dispatch_mode_stack() == []
    with guard:
        layer(torch.ones(5, 6))


def test_budget_zero_watches_and_does_nothing() -> None:
    run = Run()
    with sdc_guard.Guard(budget=0, on_finding="skip", model=run.model) as guard:
        before = run.state()
        with hit(flip(*FORWARD)):
            run.step(0)
    assert guard.findings == []
    assert run.state() != before
    assert guard.coverage.calls_checked == 0
    assert guard.coverage.calls > 10
