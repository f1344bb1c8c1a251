"""KernelOverride: who it reaches, how it nests, what it restores, what it refuses."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from sdc_guard.errors import UsageError
from sdc_guard.inject.override import CallInfo, KernelOverride, Results, refusal

aten = torch.ops.aten
MM = aten.mm.default


def add_one(info: CallInfo, results: Results) -> None:
    results[0].numpy()[...] += 1


def operands() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.eye(3), torch.full((3, 3), 2.0)


class PassOn(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_transform_changes_the_result_and_exit_restores_it() -> None:
    a, b = operands()
    with KernelOverride(MM, add_one):
        assert torch.equal(a @ b, b + 1)
    assert torch.equal(a @ b, b)


def test_exit_after_an_exception_restores_the_kernel() -> None:
    a, b = operands()
    with pytest.raises(RuntimeError, match="user"), KernelOverride(MM, add_one):
        raise RuntimeError("user")
    assert torch.equal(a @ b, b)


def test_can_be_entered_again_and_counts_from_zero() -> None:
    a, b = operands()
    override = KernelOverride(MM, add_one)
    for _ in range(3):
        with override:
            assert override.active
            a @ b
            a @ b
            assert override.num_calls == 2
        assert not override.active
        assert torch.equal(a @ b, b)


def test_reaches_calls_under_a_mode_and_with_modes_disabled() -> None:
    a, b = operands()
    with KernelOverride(MM, add_one) as override, PassOn():
        assert torch.equal(a @ b, b + 1)
        with _disable_current_modes():
            assert torch.equal(a @ b, b + 1)
        assert override.num_calls == 2


def test_reaches_the_backward_pass_and_keeps_gradients() -> None:
    a, b = operands()
    a.requires_grad_()
    with KernelOverride(MM, add_one) as override:
        (a @ b).sum().backward()
        assert override.num_calls == 2
    assert a.grad is not None
    assert torch.equal(a.grad, torch.full((3, 3), 7.0))


def test_reaches_calls_in_inference_mode_and_composite_callers() -> None:
    a, b = operands()
    with KernelOverride(MM, add_one), torch.inference_mode():
        assert torch.equal(torch.nn.functional.linear(a, b), b + 1)


def test_several_ops_at_once_leave_each_other_alone() -> None:
    a, b = operands()
    mul = KernelOverride(aten.mul.Tensor, add_one)
    with KernelOverride(MM, add_one) as mm:
        with mul:
            assert torch.equal(a @ b, b + 1)
            assert torch.equal(b * b, b.square() + 1)
        assert torch.equal(b * b, b.square())
        assert torch.equal(a @ b, b + 1)
        assert (mm.num_calls, mul.num_calls) == (2, 1)


def test_one_overload_leaves_its_siblings_alone() -> None:
    a, b = operands()
    with KernelOverride(MM, add_one) as override:
        assert torch.equal(torch.mm(a, b, out=torch.empty(3, 3)), b)
        assert torch.equal(torch.addmm(a, a, b), a + b)
        assert override.num_calls == 0


def test_an_overload_whose_kernel_calls_another_is_reached_too() -> None:
    x = torch.ones(2, 3)
    with KernelOverride(aten.sum.dim_IntList, add_one) as override:
        assert x.sum().item() == 7
        assert x.mean(1).tolist() == [1, 1]
        assert override.num_calls == 1


def test_numbers_as_operands_with_torch_dispatch_disabled_or_under_a_mode() -> None:
    x = torch.ones(3)
    with KernelOverride(aten.mul.Tensor, add_one) as override:
        with torch._C._DisableTorchDispatch():
            assert (x * 2).tolist() == [3, 3, 3]
        with PassOn():
            assert (x * 2).tolist() == [3, 3, 3]
        assert override.num_calls == 2


def test_second_override_of_an_op_is_refused_and_the_first_stays() -> None:
    a, b = operands()
    first = KernelOverride(MM, add_one)
    with first:
        with pytest.raises(UsageError, match="already active"), KernelOverride(MM, add_one):
            pass
        with pytest.raises(UsageError, match="already active"), first:
            pass
        assert torch.equal(a @ b, b + 1)
    assert torch.equal(a @ b, b)


def test_an_override_by_someone_else_beneath_comes_back() -> None:
    a, b = operands()
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library.impl("mm", lambda x, y: torch.full((3, 3), 10.0), "CPU")
    try:
        with KernelOverride(MM, add_one):
            assert (a @ b).unique().tolist() == [11.0]
        assert (a @ b).unique().tolist() == [10.0]
    finally:
        library._destroy()
    assert torch.equal(a @ b, b)


def test_calls_from_inside_the_hooks_reach_the_original_kernel_uncounted() -> None:
    a, b = operands()
    seen = []

    def look(info: CallInfo, results: Results) -> None:
        seen.append(torch.equal(info.rerun(info.call)[0], a @ b))
        results[0].zero_()

    with KernelOverride(MM, look) as override:
        assert torch.equal(a @ b, torch.zeros(3, 3))
        assert override.num_calls == 1
    assert seen == [True]


def test_before_sees_operands_that_the_op_overwrites_later() -> None:
    seen: list[float] = []

    def before(info: CallInfo) -> None:
        info.note = info.call["self"].item()

    def after(info: CallInfo, results: Results) -> None:
        seen.extend((info.note, info.call["self"].item(), results[0].item()))

    with KernelOverride(aten.add_.Tensor, after, before=before):
        torch.ones(1).add_(4)
    assert seen == [1.0, 5.0, 5.0]


def test_errors_of_the_original_kernel_keep_their_type_and_text() -> None:
    table, ids = torch.ones(3, 2), torch.tensor([7])
    with pytest.raises(IndexError) as plain:
        torch.embedding(table, ids)
    with (
        KernelOverride(aten.embedding.default, add_one),
        pytest.raises(IndexError) as overridden,
    ):
        torch.embedding(table, ids)
    assert str(overridden.value) == str(plain.value)


def test_counter_loses_no_call_of_many_threads() -> None:
    a, b = operands()
    numbers: list[int] = []
    with KernelOverride(MM, lambda info, _: numbers.append(info.call_number)) as override:
        threads = [threading.Thread(target=lambda: [a @ b for _ in range(50)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert override.num_calls == 400
    assert sorted(numbers) == list(range(400))


def test_hooks_of_one_thread_do_not_hide_calls_of_another() -> None:
    a, b = operands()
    inside, go_on = threading.Event(), threading.Event()
    seen: list[int] = []

    def wait(info: CallInfo, results: Results) -> None:
        seen.append(info.call_number)
        if info.call_number == 0:
            inside.set()
            assert go_on.wait(300)

    with KernelOverride(MM, wait):
        thread = threading.Thread(target=lambda: a @ b)
        thread.start()
        assert inside.wait(300)
        a @ b
        go_on.set()
        thread.join()
    assert seen == [0, 1]


@pytest.mark.parametrize(
    ("op", "device", "words"),
    [
        (aten.linear.default, "CPU", "composite on CPU"),
        (aten.mm, "CPU", "must be an overload"),
        (aten.detach.default, "CPU", "makes a view"),
        (MM, "TPU", "must be one of CPU, CUDA"),
        (aten._cudnn_rnn.default, "CPU", "no kernel on CPU"),
    ],
)
def test_refuses_what_it_cannot_override(op: Any, device: str, words: str) -> None:
    assert words in refusal(op, device)
    with pytest.raises(UsageError, match=words):
        KernelOverride(op, add_one, device)


def test_the_first_override_of_a_process_does_not_warn() -> None:
    # Tests run with warnings as errors, but only the process's very first override could warn.
    import subprocess
    import sys

    code = (
        "import torch\n"
        "from sdc_guard.inject.override import KernelOverride\n"
        "with KernelOverride(torch.ops.aten.mm.default, lambda info, results: None) as o:\n"
        "    torch.eye(2) @ torch.eye(2)\n"
        "    assert o.num_calls == 1\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
