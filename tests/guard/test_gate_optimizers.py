"""Every optimizer of ``torch.optim``, in each of its forms: a corrupt step leaves no trace."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sdc_guard
from sdc_guard.gate import Gate, GateCalls
from tests.guard.training import BACKWARD, Run, flip, flip_of, guarded_calls, hit
from tests.shares import one_of_each

OPTIMIZERS = sorted(
    name for name, value in vars(torch.optim).items()
    if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer)
    and value is not torch.optim.Optimizer)
NEEDS_MATRICES = {"Muon"}
NEEDS_SPARSE_GRADIENTS = {"SparseAdam"}
NEEDS_CLOSURE = {"LBFGS"}
MORE_OPTIONS = {"SGD": {"momentum": 0.9}, "LBFGS": {"max_iter": 3}, "RMSprop": {"momentum": 0.9}}


def forms(name: str) -> list[dict[str, bool]]:
    options = inspect.signature(getattr(torch.optim, name)).parameters
    found: list[dict[str, bool]] = [{"foreach": False}] if "foreach" in options else [{}]
    if "foreach" in options:
        found.append({"foreach": True})
    if "fused" in options:
        found.append({"fused": True})
    return found


def label(form: dict[str, bool]) -> str:
    return "single" if form == {"foreach": False} else next(iter(form), "plain")


CASES = [pytest.param(name, form, id=f"{name}-{label(form)}")
         for name in OPTIMIZERS for form in forms(name)]


class SparseNet(nn.Module):
    """An embedding with sparse gradients, and a head that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(16, 4, sparse=True)
        self.head = nn.Linear(4, 4).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rows((x[:, 0].abs() * 8).long() % 16) * 1.0)


class MatrixNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 8, bias=False), nn.Linear(8, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


def make_run(name: str, form: dict[str, bool], closure: bool = False) -> Run:
    options: dict[str, Any] = {"lr": 1e-2, **MORE_OPTIONS.get(name, {}), **form}
    model = (SparseNet() if name in NEEDS_SPARSE_GRADIENTS else
             MatrixNet() if name in NEEDS_MATRICES else None)
    return Run(lambda p: getattr(torch.optim, name)(p, **options),
               closure=closure or name in NEEDS_CLOSURE, **({"model": model} if model else {}))


def backward_fault(run: Run) -> Any:
    """A flip in the last checked matrix product or sum of the backward pass of such a run."""
    calls = [c for c in guarded_calls(lambda: run.backward(0))
             if str(c.op).startswith(("aten.mm.", "aten.sum.", "aten.mul.Tensor"))]
    return flip_of(calls[-1])


def test_the_list_is_that_of_torch() -> None:
    assert len(OPTIMIZERS) >= 14
    assert {"LBFGS", "SparseAdam", "AdamW", "SGD", "Adafactor"} <= set(OPTIMIZERS)
    assert sum("fused" in str(c.id) for c in CASES) >= 4


@pytest.mark.parametrize(
    ("name", "form"), one_of_each(CASES, lambda case: f"{case.values[0]} before"))
def test_a_fault_before_the_step_is_skipped(name: str, form: dict[str, bool]) -> None:
    run, plain = make_run(name, form), make_run(name, form)
    fault = backward_fault(make_run(name, form))
    sdc_guard.wrap(run.model, budget="all", on_finding="skip")
    run.step(0)
    before = run.state()
    with hit(fault):
        run.step(1)
    assert run.state() == before
    run.step(2)
    run.step(3)
    for i in (0, 2, 3):
        plain.step(i)
    assert run.state() == plain.state()
    coverage = run.model.sdc_guard.coverage
    assert coverage.steps_skipped == 1
    assert coverage.guard_errors == 0


def declared_gate(run: Run, corrupt: list[bool], told: list[str]) -> Gate:
    """A gate that is told by hand when a step was corrupt."""
    return Gate(GateCalls(
        is_active_here=lambda: True, is_corrupt=lambda: corrupt[0], protects=lambda: True,
        wants_inside=lambda: True, step_begins=lambda optimizer, closure: None,
        entering=lambda watched: None,
        leaving=lambda: None, rejected=told.append, step_done=lambda optimizer: None,
        given_up=lambda optimizer: None,
        not_undoable=lambda num_bytes: told.append("too large"),
        on_error=lambda where, error: told.append(f"{where}: {error}"),
    ), run.model, (), 1 << 20)


@pytest.mark.parametrize("first", [True, False], ids=["first-step", "later-step"])
@pytest.mark.parametrize(("name", "form"), CASES)
def test_a_fault_inside_the_step_is_undone(name: str, form: dict[str, bool], first: bool) -> None:
    run, plain = make_run(name, form), make_run(name, form)
    corrupt, told = [False], []
    gate = declared_gate(run, corrupt, told)
    gate.open()
    try:
        for i in () if first else (0, 1):
            run.step(i)
            plain.step(i)
        before = run.state()
        gate.begin_step()
        handle = run.optimizer.register_step_post_hook(lambda *_: corrupt.__setitem__(0, True))
        run.step(2)
        handle.remove()
        corrupt[0] = False
        assert told == ["inside"]
        assert run.state() == before
        run.step(3)
        plain.step(3)
        assert run.state() == plain.state()
    finally:
        gate.close()


def test_without_the_gate_such_a_step_leaves_its_trace() -> None:
    for name in OPTIMIZERS:
        run = make_run(name, {})
        before = run.state()
        run.step(2)
        assert run.state() != before, name


@pytest.mark.parametrize(
    ("name", "form"), one_of_each(CASES, lambda case: f"{case.values[0]} inside"))
def test_a_flip_in_the_optimizer_is_found_and_undone(name: str, form: dict[str, bool]) -> None:
    """Up to six ops of the step that the guard can check; at least one, except where the whole step
    is one fused or foreach kernel without an op file.  (A dense tensor plus a sparse one is a
    kernel of the sparse backend, which no fault reaches.)"""
    probe = make_run(name, form)
    probe.step(0)
    if probe.closure:
        calls = guarded_calls(lambda: probe.step(1))
    else:
        probe.optimizer.zero_grad()
        probe.backward(1)
        calls = guarded_calls(probe.optimizer.step)
    calls = [c for c in calls if c.outputs[max(c.drawable)].shape
             and not (name in NEEDS_SPARSE_GRADIENTS and c.op is torch.ops.aten.add_.Tensor)]
    calls = list({c.op: c for c in calls}.values())[:6]
    for call in calls:
        run = make_run(name, form)
        sdc_guard.wrap(run.model, budget="all", on_finding="skip")
        run.step(0)
        before = run.state()
        fault = flip_of(call)
        if run.closure:
            with hit(fault):
                run.step(1)
        else:
            run.optimizer.zero_grad()
            run.backward(1)
            with hit(fault):
                run.optimizer.step()
        guard = run.model.sdc_guard
        assert len(guard.findings) >= 1, fault
        assert run.state() == before, fault
        assert guard.coverage.steps_skipped == 1
        run.step(2)
        assert run.state() != before
        sdc_guard.unwrap(run.model)
    if form.get("foreach") is False:
        assert calls


@pytest.mark.parametrize("name", ["SGD", "AdamW", "LBFGS"])
@pytest.mark.parametrize("policy", ["skip", "raise"])
def test_a_closure_is_undone_and_the_next_step_is_applied(name: str, policy: str) -> None:
    run, plain = make_run(name, {}, closure=True), make_run(name, {}, closure=True)
    sdc_guard.wrap(run.model, budget="all", on_finding=policy)
    run.step(0)
    before = run.state()
    with hit(flip(*BACKWARD)):
        if policy == "raise":
            with pytest.raises(sdc_guard.CorruptionDetected):
                run.step(1)
        else:
            run.step(1)
    assert run.state() == before
    for i in (2, 3):
        run.step(i)
    for i in (0, 2, 3):
        plain.step(i)
    assert run.state() == plain.state()
    assert run.model.sdc_guard.coverage.steps_skipped == 1
