"""Clean programs that once made the guard speak, and what it must say of them: nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _python_dispatch as dispatch

import sdc_guard
from tests.guard.training import FORWARD, Run, flip, hit, wrapped

NUM_SEEDS, NUM_CALLS = 6, 40


def small_edges() -> None:
    """Shapes at a kernel's edge, where rolled columns are summed in another order for some data."""
    torch.randn(5, 5).sum(0, keepdim=True)
    torch.randn(5, 65).sum(0, keepdim=True)
    torch.randn(8, 65).sum(0)
    torch.randn(5, 31) @ torch.randn(31, 5)
    torch.randn(1, 1).expand(5, 31) @ torch.randn(31, 5)


def overlapping_windows() -> None:
    """A rolled copy with overlapping strides would overwrite itself."""
    x = torch.randn(40).unfold(0, 5, 1)
    for result in (x * 2.5, x.sum(1), x.softmax(1), x.exp(), x.relu()):
        assert result.isfinite().all()


def single_elements_of_different_rank() -> None:
    one, none = torch.randn(1), torch.randn(())
    for result in (one * none, one / none, one == none, torch.maximum(one, none)):
        assert result.shape == (1,)


def no_dimension_and_a_dim() -> None:
    s = torch.tensor(3.0)
    for result in (s.sum(0), s.mean(0), s.amax(0), torch.linalg.vector_norm(s, dim=0)):
        assert result == 3.0


def imaginary_parts() -> None:
    """One has the negative bit, the other not; all else about them is equal."""
    z = torch.randn(64, dtype=torch.complex64)
    torch.view_as_real(z)[..., 1].clone()
    z.conj().imag.clone()


def not_a_number_in_half_precision() -> None:
    x = torch.randn(6, 70).bfloat16()
    x[2, 3:9] = float("nan")
    for result in (x / x.flip(1), x * -x, x - 1.0, x + x.flip(0)):
        assert result.isnan().any()


def unsigned_terms() -> None:
    torch.randint(0, 200, (7, 5), dtype=torch.uint8).sum(1, dtype=torch.float32)


def expanded_terms() -> None:
    (1 + torch.rand(1, 3)).expand(1701, 3).sum()
    (1 + torch.rand(1, 3)).expand(1701, 3).mean(0)


def half_over_an_integer_without_dimensions() -> None:
    for op in (torch.div, torch.mul, torch.add, torch.sub):
        op(torch.randn(5).half(), torch.tensor(2305))


PROGRAMS = (
    small_edges, unsigned_terms, expanded_terms, half_over_an_integer_without_dimensions,
    overlapping_windows, single_elements_of_different_rank, no_dimension_and_a_dim,
    imaginary_parts, not_a_number_in_half_precision,
)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_a_clean_program_is_left_in_peace(program: Callable[[], None]) -> None:
    for seed in range(NUM_SEEDS):
        torch.manual_seed(seed)
        guard = sdc_guard.Guard(budget="all")
        with guard:
            for _ in range(NUM_CALLS):
                program()
        assert [f.message for f in guard.findings] == []
        assert guard.coverage.guard_errors == 0
        assert guard.coverage.calls_checked >= NUM_CALLS


@pytest.fixture
def flushing() -> Iterator[None]:
    assert torch.set_flush_denormal(True)
    yield
    torch.set_flush_denormal(False)


@pytest.mark.usefixtures("flushing")
def test_flushed_subnormals_are_no_corruption() -> None:
    guard = sdc_guard.Guard(budget="all")
    with guard:
        for _ in range(6):
            torch.randn(300) * 1e-39
            (torch.randn(300) * 1e-20).norm()
            torch.sigmoid(torch.randn(100) * 100)
    assert [f.message for f in guard.findings] == []
    assert guard.coverage.guard_errors == 0
    assert any("flush" in gap for gap in guard.coverage.gaps)


def test_draws_are_not_counted_as_checked() -> None:
    guard = sdc_guard.Guard(budget="all")
    with guard:
        torch.randn(50)
        torch.empty(9).uniform_()
    for op in guard.coverage.ops:
        assert op.calls_checked == 0
        assert dict(op.not_tested) == {"random draws: only their range and mean are checked": 1}


def test_a_backward_with_a_kernel_of_its_own_runs_that() -> None:
    """``mish_backward`` is composite and has a CPU kernel: decomposed it gives other bits."""
    x = torch.linspace(-1, 2, 42, requires_grad=True)
    expected, = torch.autograd.grad(F.mish(x).sin().sum(), x)
    for budget in ("all", 0):
        with sdc_guard.Guard(budget=budget):
            got, = torch.autograd.grad(F.mish(x).sin().sum(), x)
        assert torch.equal(got, expected)


def test_a_skipped_step_that_raises_is_over_with_the_next() -> None:
    """A pre-hook behind ours raises because the gradients are hidden, once."""
    run = Run()
    raised: list[int] = []

    def needs_gradients(optimizer: Any, args: Any, kwargs: Any) -> None:
        if any(p.grad is None for p in run.model.parameters()):
            raised.append(1)
            raise RuntimeError("no gradients")

    run.optimizer.register_step_pre_hook(needs_gradients)
    guard = wrapped(run)
    run.step(0)
    with hit(flip(*FORWARD)), pytest.raises(RuntimeError, match="no gradients"):
        run.step(1)
    before = run.state()
    fresh: list[Tensor] = []
    for i in (2, 3):
        run.step(i)
        fresh = [p.grad.clone() for p in run.model.parameters() if p.grad is not None]
    assert len(raised) == 1
    stack = dispatch._get_current_dispatch_mode_stack()
    assert [m for m in stack if m is guard._mode] == [guard._mode]
    assert run.state() != before
    assert guard.coverage.steps_skipped == 1
    sdc_guard.unwrap(run.model)
    for parameter, grad in zip(run.model.parameters(), fresh, strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, grad)


def test_training_on_small_odd_layers_skips_nothing() -> None:
    for seed in range(NUM_SEEDS):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(8, 65), nn.ReLU(), nn.Linear(65, 5))
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        sdc_guard.wrap(model, budget="all", on_finding="skip")
        guard: sdc_guard.Guard = model.sdc_guard
        for _ in range(NUM_CALLS):
            optimizer.zero_grad()
            F.cross_entropy(model(torch.randn(5, 8)), torch.randint(0, 5, (5,))).backward()
            optimizer.step()
        assert guard.coverage.steps_skipped == 0
        assert [f.message for f in guard.findings] == []
        sdc_guard.unwrap(model)


def test_another_thread_does_not_end_the_step_of_this_one() -> None:
    """It computes with gradients while the optimizer steps, and what is found there is undone."""
    run = Run()
    guard = wrapped(run)
    run.step(0)
    before = run.state()
    computed: list[Tensor] = []

    def compute() -> None:
        with guard:
            computed.append(F.gelu(torch.ones(3, requires_grad=True)).sum())

    def meanwhile(optimizer: Any, args: Any, kwargs: Any) -> None:
        thread = threading.Thread(target=compute)
        thread.start()
        thread.join()

    run.optimizer.register_step_pre_hook(meanwhile)
    with hit(flip(torch.ops.aten.addcdiv_.default, 2)):
        run.step(1)
    assert computed
    assert run.state() == before
    assert guard.coverage.steps_skipped == 1
    sdc_guard.unwrap(run.model)
