"""Workloads: the same numbers each time, and nothing else changed; they learn; and what a user's
own workload must be."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import sdc_guard
from sdc_guard import bits
from sdc_guard.bench.workload import Workload, intra_op_threads
from sdc_guard.bench.workloads.batches import HELD_OUT, random_numbers_of, text_batch
from sdc_guard.bench.workloads.table import (
    DTYPES,
    WORKLOADS,
    build_workload,
    held_out_loss,
    load_workload,
)
from sdc_guard.demo.data import load_corpus
from sdc_guard.errors import UsageError

SMALL = [name for name in WORKLOADS if name != "gpt-demo"]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with intra_op_threads(1):
        yield


def losses(workload: Workload, num_steps: int) -> list[float]:
    return [workload.step().item() for _ in range(num_steps)]


def state_bits(workload: Workload) -> list[bytes]:
    return [bits.raw(value).tobytes() for value in workload.model.state_dict().values()]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SMALL)
def test_two_builds_train_to_equal_bits_whatever_was_drawn_before(name: str, dtype: str) -> None:
    first = build_workload(name, dtype, 3)
    first_losses = losses(first, 5)
    torch.rand(17)
    second = build_workload(name, dtype, 3)
    assert losses(second, 5) == first_losses
    assert state_bits(first) == state_bits(second)
    assert first.step_number == 5
    assert losses(build_workload(name, dtype, 4), 5) != first_losses


@pytest.mark.parametrize("name", WORKLOADS)
def test_random_state_is_left_as_it_was(name: str) -> None:
    before = torch.get_rng_state()
    workload = build_workload(name, "fp32", 0)
    workload.step()
    held_out_loss(workload, 1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", SMALL)
def test_a_workload_learns(name: str) -> None:
    workload = build_workload(name, "fp32", 0)
    start = held_out_loss(workload)
    losses(workload, 60)
    assert held_out_loss(workload) < 0.8 * start


@pytest.mark.parametrize("name", SMALL)
def test_bf16_is_an_autocast_over_parameters_in_fp32(name: str) -> None:
    workload, plain = build_workload(name, "bf16", 0), build_workload(name, "fp32", 0)
    assert {p.dtype for p in workload.model.parameters()} == {torch.float32}
    assert state_bits(workload) == state_bits(plain)
    batch = workload.batch(0)
    assert workload.forward_backward(batch).item() != plain.forward_backward(batch).item()
    assert all(p.grad is not None for p in workload.model.parameters())


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_batch_follows_from_its_number_alone(name: str) -> None:
    workload = build_workload(name, "fp32", 0)

    def contents(n: int) -> list[Any]:
        return [bits.raw(leaf).tobytes() if isinstance(leaf, Tensor) else leaf
                for leaf in tree_leaves(workload.batch(n))]

    third = contents(3)
    assert contents(4) != third
    assert contents(HELD_OUT) != contents(0)
    assert contents(3) == third


def test_held_out_text_comes_from_other_files() -> None:
    corpus = load_corpus()
    held_out = corpus.held_out.tobytes()
    for n, is_held_out in ((0, False), (HELD_OUT, True)):
        inputs, targets = text_batch(0, n, batch_size=4, context=200, device=CPU)
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
        found = [bytes(row.tolist()) in held_out for row in inputs]
        assert all(found) if is_held_out else not any(found)


@pytest.mark.parametrize("name", ["resnet", "lstm"])
def test_held_out_loss_changes_nothing_and_drops_nothing(name: str) -> None:
    """The one with buffers, and the one with dropout."""
    workload = build_workload(name, "bf16", 0)
    losses(workload, 2)
    before = state_bits(workload)
    frozen = next(m for m in workload.model.modules() if not list(m.children()))
    frozen.eval()
    first = held_out_loss(workload, 2)
    assert held_out_loss(workload, 2) == first
    assert held_out_loss(workload, 3) != first
    assert state_bits(workload) == before
    assert workload.step_number == 2
    assert [m.training for m in workload.model.modules()].count(False) == 1
    assert not frozen.training
    workload.model.eval()
    assert workload.loss(workload.model, workload.batch(HELD_OUT)).requires_grad
    with workload.autocasting():
        by_hand = [workload.loss(workload.model, workload.batch(HELD_OUT + n)).item()
                   for n in range(2)]
    assert first == sum(by_hand) / 2


def test_dropout_differs_from_step_to_step() -> None:
    workload = build_workload("lstm", "fp32", 0)
    inputs, targets, mask_seed = workload.batch(0)
    one, again, other = (workload.loss(workload.model, (inputs, targets, s)).item()
                         for s in (mask_seed, mask_seed, mask_seed + 1))
    assert one == again
    assert one != other


def test_the_guard_finds_nothing_and_changes_nothing() -> None:
    """A few steps of each; long clean runs are ``sdc-guard bench clean``."""
    for name in SMALL:
        plain, watched = (build_workload(name, "bf16", 1) for _ in range(2))
        guard = sdc_guard.Guard(budget="all", evidence="none")
        with guard:
            guarded = losses(watched, 2)
        assert guarded == losses(plain, 2), name
        assert state_bits(watched) == state_bits(plain), name
        assert [f.message for f in guard.findings] == [], name
        assert guard.coverage.guard_errors == 0, name


def test_random_numbers_are_put_back_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), random_numbers_of(1, CPU):
        int(torch.rand(3).sum()) / 0
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("arguments", "message"), [
    (("gpt", "fp32", 0), "unknown workload 'gpt'; known: gpt-tiny, gpt-demo, resnet, lstm"),
    (("lstm", "fp16", 0), "unknown dtype 'fp16'; known: fp32, bf16"),
    (("lstm", "fp32", -1), "seed is -1 and must be at least 0"),
])
def test_a_wrong_argument_is_named(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_workload(*arguments)


def test_held_out_loss_needs_a_batch() -> None:
    with pytest.raises(UsageError, match="num_batches is 0"):
        held_out_loss(build_workload("gnn", "fp32", 0), 0)


def test_cuda_without_a_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="sees no CUDA device"):
        build_workload("gnn", "fp32", 0, device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("name", SMALL)
def test_a_workload_trains_on_a_device(name: str) -> None:
    before = torch.cuda.get_rng_state()
    workload = build_workload(name, "bf16", 0, device="cuda")
    start = held_out_loss(workload)
    losses(workload, 60)
    assert workload.device.type == "cuda"
    assert held_out_loss(workload) < 0.8 * start
    assert torch.equal(torch.cuda.get_rng_state(), before)


USER = """
import torch
from torch import nn
from sdc_guard.bench.workload import Workload

def parts():
    model = nn.Linear(3, 1)
    def batch(n):
        return torch.randn(4, 3, generator=torch.Generator().manual_seed(n))
    def loss(model, batch):
        return model(batch).square().mean()
    return model, torch.optim.SGD(model.parameters(), lr=0.1), batch, loss

def whole():
    return Workload(*parts(), autocast=torch.bfloat16)

def three():
    return parts()[:3]

def number():
    return 7

def swapped():
    model, optimizer, batch, loss = parts()
    return optimizer, model, batch, loss

def no_batch():
    model, optimizer, batch, loss = parts()
    return model, optimizer, batch(0), loss

def detached():
    model, optimizer, batch, loss = parts()
    return model, optimizer, batch, lambda m, b: loss(m, b).detach()

def vector():
    model, optimizer, batch, loss = parts()
    return model, optimizer, batch, lambda m, b: m(b)

def as_float():
    model, optimizer, batch, loss = parts()
    return model, optimizer, batch, lambda m, b: loss(m, b).item()

def other_parameters():
    model, optimizer, batch, loss = parts()
    return nn.Linear(3, 1), torch.optim.SGD(nn.Linear(3, 1).parameters()), batch, loss

def moving():
    model, optimizer, batch, loss = parts()
    return model, optimizer, lambda n: torch.randn(4, 3), loss

def finite():
    model, optimizer, batch, loss = parts()
    return model, optimizer, [batch(n) for n in range(9)].__getitem__, loss

def growing():
    model, optimizer, batch, loss = parts()
    sizes = iter(range(1, 9))
    return model, optimizer, lambda n: torch.ones(next(sizes), 3), loss

def with_closure():
    model, optimizer, batch, loss = parts()
    return model, torch.optim.LBFGS(model.parameters()), batch, loss

def raising():
    raise RuntimeError("no data here")

not_a_function = 3
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module in the current folder, which is not on Python's path."""
    (tmp_path / "their_training.py").write_text(USER)
    (tmp_path / "needs_more.py").write_text("import no_such_package_anywhere")
    (tmp_path / "does_not_parse.py").write_text("def build(:")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    yield "their_training"
    sys.modules.pop("their_training", None)


@pytest.mark.parametrize("function", ["parts", "whole"])
def test_a_users_workload_is_loaded_from_the_current_folder(
    user_module: str, function: str
) -> None:
    before = torch.get_rng_state()
    build = load_workload(f"{user_module}:{function}")
    first, second = build(), build()
    assert first.autocast is (torch.bfloat16 if function == "whole" else None)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in first.model.parameters())
    start = held_out_loss(first)
    assert losses(first, 5) == losses(second, 5)
    assert held_out_loss(first) < start


@pytest.mark.parametrize(("target", "message"), [
    ("their_training", "give MODULE:FUNCTION"),
    ("no_such_module_here:build", "No module named 'no_such_module_here'; looked for"),
    ("needs_more:build", "No module named 'no_such_package_anywhere'; looked for"),
    ("their_training:missing", "'missing' in .*their_training.py is nothing, not a function"),
    ("their_training:not_a_function", "is a int, not a function"),
    ("their_training:number", "returned a int; return a Workload"),
    ("their_training:three", "returned a tuple of 3; return a Workload"),
    ("their_training:swapped", "returned a SGD as model, which must be a torch.nn.Module"),
    ("their_training:no_batch", "returned a Tensor as batch, which must be a function"),
    ("their_training:detached", "has no gradient"),
    ("their_training:vector", r"is a tensor of shape \(4, 1\)"),
    ("their_training:as_float", "is a float; it must be a tensor"),
    ("their_training:other_parameters", "gave no gradient to any of the optimizer's 2"),
    ("their_training:moving", r"batch\(0\) gave other numbers when it was asked again"),
    ("their_training:finite", r"batch\(1000000000\) raised IndexError"),
    ("their_training:with_closure", r"optimizer.step\(\) raised TypeError.* needs a closure"),
    ("their_training:raising", "raised RuntimeError: no data here; it must return a Workload"),
    ("does_not_parse:build", "importing 'does_not_parse' raised SyntaxError"),
    ("their_training:growing", r"batch\(0\) gave other numbers when it was asked again"),
])
def test_what_is_no_workload_is_refused(user_module: str, target: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_workload(target)
