"""A corrupt step stays out of parameters, optimizer state and module buffers, bit for bit."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdc_guard
from sdc_guard.errors import CorruptionDetected
from sdc_guard.records import Verdict
from tests.guard.training import (
    BACKWARD,
    FORWARD,
    NUM_CLASSES,
    NUM_FEATURES,
    Run,
    adamw,
    flip,
    hit,
    wrapped,
)

aten = torch.ops.aten
INSIDE = (aten.addcdiv_.default, 2)


def plain_state(batches: tuple[int, ...], **options: Any) -> Any:
    run = Run(**options)
    for i in batches:
        run.step(i)
    return run.state()


@pytest.mark.parametrize(
    ("where", "place"), [("forward", FORWARD), ("backward", BACKWARD), ("optimizer", INSIDE)])
@pytest.mark.parametrize("first", [True, False], ids=["first-step", "later-step"])
def test_skip_leaves_the_bits_from_before_and_the_run_goes_on(
    where: str, place: Any, first: bool
) -> None:
    run = Run()
    guard = wrapped(run)
    if not first:
        run.step(0)
    before = run.state()
    with hit(flip(*place)):
        run.step(1)
    assert run.state() == before
    assert guard.coverage.steps_skipped == 1
    assert [f.verdict for f in guard.findings] == [Verdict.CORRUPTION]
    assert guard.findings[0].call.phase == where
    run.step(2)
    run.step(3)
    assert run.state() == plain_state((2, 3) if first else (0, 2, 3))
    assert guard.coverage.steps_skipped == 1
    assert guard.coverage.guard_errors == 0
    sdc_guard.unwrap(run.model)


@pytest.mark.parametrize("place", [FORWARD, BACKWARD, INSIDE],
                         ids=["forward", "backward", "optimizer"])
def test_raise_leaves_the_bits_from_before_and_the_run_can_go_on(place: Any) -> None:
    run = Run()
    guard = wrapped(run, on_finding="raise")
    run.step(0)
    before = run.state()
    with hit(flip(*place)), pytest.raises(CorruptionDetected) as caught:
        run.step(1)
    assert caught.value.findings == tuple(guard.findings)
    assert run.state() == before
    run.step(2)
    assert run.state() == plain_state((0, 2))
    sdc_guard.unwrap(run.model)


def test_an_unguarded_run_keeps_the_fault() -> None:
    run = Run()
    run.step(0)
    before = run.state()
    with hit(flip(*INSIDE)):
        run.step(1)
    assert run.state() != before
    assert run.state() != plain_state((0, 1))


def test_gradient_accumulation_drops_the_whole_step_and_applies_the_next() -> None:
    def accumulate(run: Run, batches: tuple[int, ...], fault: Any = None) -> None:
        run.optimizer.zero_grad()
        for i in batches:
            if fault is not None and i == batches[0]:
                with hit(fault):
                    run.backward(i)
            else:
                run.backward(i)
        run.optimizer.step()

    run, plain = Run(), Run()
    guard = wrapped(run)
    accumulate(run, (0, 1))
    before = run.state()
    accumulate(run, (2, 3, 4), flip(*BACKWARD))
    assert run.state() == before
    accumulate(run, (5, 6))
    accumulate(plain, (0, 1))
    accumulate(plain, (5, 6))
    assert run.state() == plain.state()
    assert guard.coverage.steps_skipped == 1
    sdc_guard.unwrap(run.model)


def two_optimizers(run: Run) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    norm, up, down = run.model.norm, run.model.up, run.model.down
    return (torch.optim.SGD([*norm.parameters(), *up.parameters()], lr=0.1, momentum=0.9),
            torch.optim.AdamW(down.parameters(), lr=1e-2))


def test_two_optimizers_after_one_backward_skip_together() -> None:
    def step(run: Run, optimizers: Any, i: int) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        run.backward(i)
        for optimizer in optimizers:
            optimizer.step()

    def state(run: Run, optimizers: Any) -> Any:
        return run.state()["model"], [str(o.state_dict()) for o in optimizers]

    run, plain = Run(), Run()
    pair, plain_pair = two_optimizers(run), two_optimizers(plain)
    guard = wrapped(run)
    step(run, pair, 0)
    before = state(run, pair)
    with hit(flip(*FORWARD)):
        step(run, pair, 1)
    assert state(run, pair) == before
    assert guard.coverage.steps_skipped == 2
    step(run, pair, 2)
    step(plain, plain_pair, 0)
    step(plain, plain_pair, 2)
    assert state(run, pair) == state(plain, plain_pair)
    assert not any("not seen" in gap for gap in guard.coverage.gaps)
    sdc_guard.unwrap(run.model)


@pytest.mark.parametrize("make", [
    lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=1, gamma=0.5),
    lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=10),
    lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=5),
], ids=["step", "one-cycle", "cosine"])
def test_schedulers_go_on_without_a_warning(make: Any) -> None:
    run, plain = Run(), Run()
    schedule, plain_schedule = make(run.optimizer), make(plain.optimizer)
    guard = wrapped(run)
    with hit(flip(*BACKWARD)):
        run.step(0)
    schedule.step()
    plain.optimizer.step()
    plain_schedule.step()
    for i in (1, 2):
        run.step(i)
        schedule.step()
        plain.step(i)
        plain_schedule.step()
    assert guard.coverage.steps_skipped == 1
    assert schedule.get_last_lr() == plain_schedule.get_last_lr()
    assert run.state()["model"] == plain.state()["model"]
    sdc_guard.unwrap(run.model)


def test_without_protection_a_clean_run_takes_no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[object] = []
    monkeypatch.setattr("sdc_guard.gate.OptimizerImage", taken.append)
    run = Run()
    wrapped(run, on_finding="record")
    run.step(0)
    sdc_guard.unwrap(run.model)
    assert not taken


def test_a_step_after_a_corrupt_one_that_is_not_watched_is_applied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under a small budget whole steps are left out; nothing is known about those."""
    run = Run()
    guard = wrapped(run)
    run.step(0)
    monkeypatch.setattr(guard._scheduler, "draw_duty", lambda: False)
    before = run.state()
    with hit(flip(*FORWARD)):
        run.step(1)
    assert run.state() == before
    run.step(2)
    run.step(3)
    assert run.state() == plain_state((0, 2, 3))
    assert guard.coverage.steps_skipped == 1
    assert "3 of 4 steps were not watched, to keep the budget" in guard.coverage.gaps


# Torch's own compiler uses torch.jit.script_method while it is imported.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
def test_buffers_that_compiled_code_writes_come_back() -> None:
    run, plain = Run(), Run()
    for each in (run, plain):
        each.model.forward = torch.compile(each.model.forward)
        each.step(0)
    wrapped(run)
    before = run.state()
    with hit(flip(aten._log_softmax_backward_data.default)):
        run.step(1)
    assert run.state() == before
    assert any("compiled regions" in gap for gap in run.model.sdc_guard.coverage.gaps)
    for each in (run, plain):
        each.step(2)
    assert run.state() == plain.state()


class Wrapper(torch.optim.Optimizer):
    """An optimizer around another one, as SAM and Lookahead are."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 1e-2})
        self.base = torch.optim.SGD(self.param_groups, lr=0.1, momentum=0.9)

    def step(self, closure: Any = None) -> None:
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p.mul_(0.999)
        self.base.step()

    def state_dict(self) -> Any:
        return self.base.state_dict()


def test_an_optimizer_inside_an_optimizer_is_one_step() -> None:
    run = Run(Wrapper)
    guard = wrapped(run)
    run.step(0)
    for place in (BACKWARD, (aten.mul_.Tensor, 1)):
        before = run.state()
        with hit(flip(*place)):
            run.step(1)
        assert run.state() == before
        assert all(p.grad is not None for p in run.model.parameters())
    run.step(2)
    assert run.state() == plain_state((0, 2), make_optimizer=Wrapper)
    assert guard.coverage.steps == 4
    assert guard.coverage.steps_skipped == 2
    sdc_guard.unwrap(run.model)


def test_parameters_that_came_after_wrap_are_guarded() -> None:
    run = Run()
    wrapped(run)
    run.model.down = nn.Linear(run.model.down.in_features, NUM_CLASSES)
    optimizer = adamw(list(run.model.down.parameters()))
    before = run.state()["model"]
    with hit(flip(*FORWARD)):
        run.backward(0)
    optimizer.step()
    assert run.state()["model"] == before
    sdc_guard.unwrap(run.model)


def test_what_no_image_holds_is_said_and_raise_still_raises() -> None:
    run = Run()
    guard = wrapped(run, memory_budget=1000)
    run.step(0)
    before = run.state()
    with hit(flip(*FORWARD)):
        run.step(1)
    assert run.state() == before
    with hit(flip(*INSIDE)):
        run.step(2)
    assert run.state() != before
    events = list(guard._events.events)
    assert [e["where"] for e in events if e["kind"] == "step_skipped"] == ["before"]
    assert [e["where"] for e in events if e["kind"] == "step_not_undone"] == ["applied"]
    assert guard.coverage.steps_skipped == 1
    assert any("cannot be undone" in gap and "memory_budget is 1000" in gap
               for gap in guard.coverage.gaps)
    assert any(e["kind"] == "not_covered" for e in events)
    sdc_guard.unwrap(run.model)


class Replaces(nn.Module):
    """Puts new tensors in the place of its buffers, as some moving averages do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(NUM_FEATURES))
        self.register_buffer("late", None)
        self.head = nn.Linear(NUM_FEATURES, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out = self.head(x - self.mean)
        with torch.no_grad():
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
            self.late = x.mean(0)
        return out


def test_buffers_that_are_replaced_come_back() -> None:
    run = Run(model=Replaces())
    wrapped(run)
    before, mean = run.state(), run.model.mean
    with hit(flip(aten.addmm.default)):
        run.step(0)
    assert run.model.mean is mean
    assert run.model.late is None
    assert run.state() == before
    run.step(1)
    assert run.model.late is not None
    sdc_guard.unwrap(run.model)


def test_a_step_that_raises_gives_the_gradients_back_and_is_forgotten() -> None:
    class Fails(torch.optim.SGD):
        fails = True

        @torch.optim.Optimizer.profile_hook_step
        def step(self, closure: Any = None) -> None:
            if self.fails:
                raise OSError("planted")

    run = Run(lambda p: Fails(p, lr=0.1))
    with sdc_guard.Guard(budget="all", on_finding="skip", model=run.model) as guard:
        with hit(flip(*BACKWARD)):
            run.backward(0)
        with pytest.raises(OSError, match="planted"):
            run.optimizer.step()
        run.optimizer.fails = False
        run.optimizer.step()
        assert all(p.grad is not None for p in run.model.parameters())
    assert guard.coverage.guard_errors == 0


def test_clean_steps_raise_no_warning_and_find_nothing() -> None:
    run = Run()
    guard = wrapped(run)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for i in range(5):
            run.step(i)
    assert guard.findings == []
    assert guard.coverage.guard_errors == 0
    assert guard.coverage.steps == 5
    assert guard.coverage.gaps == tuple(g for g in guard.coverage.gaps if "relation" in g)
    sdc_guard.unwrap(run.model)
