"""What is remembered of a weight ends with an optimizer step, an all-gather, and any write."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

pytest.importorskip("triton", reason="triton has no wheel for this platform")

import sdc_guard
from sdc_guard import bits, device_witness
from sdc_guard.check import remembered
from sdc_guard.check.remembered import MAX_REMEMBERED, MIN_SWEPT, OperandMemory
from tests.guard.toy_kernel import Toy, installed


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    monkeypatch.setattr(device_witness, "kernel_is_alive", lambda device: True)
    with installed() as found:
        yield found


def guard() -> sdc_guard.Guard:
    return sdc_guard.Guard(budget="all", kernels="always", witnesses=("kernel",))


def same_sums(toy: Toy, act: Callable[[nn.Linear, torch.optim.Optimizer], object]) -> bool:
    """Are the sums of a weight, taken by one product, those of the next, with ``act`` between?"""
    layer = nn.Linear(6, 5, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    x = torch.ones(4, 6)
    with guard() as g:
        layer(x)
        act(layer, optimizer)
        layer(x)
    assert not g.findings
    assert g.coverage.guard_errors == 0
    return toy.remembered[0] is toy.remembered[-1]


def step(layer: nn.Linear, optimizer: torch.optim.Optimizer) -> None:
    layer.weight.grad = torch.ones_like(layer.weight)
    optimizer.step()


def resize(layer: nn.Linear, optimizer: torch.optim.Optimizer) -> None:
    storage = layer.weight.untyped_storage()
    values = layer.weight.detach().clone()
    storage.resize_(0)
    storage.resize_(4 * 6 * 5)
    with torch.no_grad():
        layer.weight.copy_(values)


def test_nothing_happens_and_the_sums_stay(toy: Toy) -> None:
    assert same_sums(toy, lambda layer, _: layer(torch.zeros(2, 6)))


@pytest.mark.parametrize("act", [
    step,
    lambda layer, _: layer.weight.data.mul_(2.0),
    lambda layer, _: layer.weight.data[0].zero_(),
    lambda layer, _: layer.weight.detach().view(-1).fill_(3.0),
    lambda layer, _: torch.ones(5, 6, out=layer.weight.data),
    lambda layer, _: torch._foreach_mul_([layer.weight.data], 2.0),
    lambda layer, _: setattr(layer.weight, "data", torch.ones(5, 6)),
    resize,
], ids=["optimizer step", ".data", "a row of .data", "a view", "out=", "foreach", "other memory",
        "resized storage"])
def test_a_write_ends_what_is_remembered(toy: Toy, act: Callable[..., object]) -> None:
    assert not same_sums(toy, act)


def test_a_custom_operator_may_have_written_anything(toy: Toy) -> None:
    @torch.library.custom_op("sdc_guard_test::silent", mutates_args=())
    def silent(x: Tensor) -> Tensor:
        return torch.empty(1)

    assert not same_sums(toy, lambda layer, _: silent(torch.ones(1)))


def test_a_write_that_no_operator_makes_accuses_nothing(toy: Toy) -> None:
    def write(layer: nn.Linear, optimizer: torch.optim.Optimizer) -> None:
        bits.raw(layer.weight)[...] = 0x40000000  # 2.0

    assert not same_sums(toy, write)
    # Once with what was remembered, which is stale, and once more without.
    assert toy.launched == 3


def test_freed_memory_that_is_given_out_again_is_another_operand() -> None:
    # One buffer lent twice: an allocator may or may not give the same memory out again.
    memory = OperandMemory()
    lent = bytearray(4 * 64)
    operand = torch.frombuffer(lent, dtype=torch.float32)
    address, known = operand.data_ptr(), memory.get(operand, "sums", object)
    assert memory.get(operand, "sums", object) is known
    del operand
    again = torch.frombuffer(lent, dtype=torch.float32)
    assert again.data_ptr() == address
    assert memory.get(again, "sums", object) is not known


def test_views_names_and_versions_are_kept_apart() -> None:
    memory = OperandMemory()
    weight = torch.ones(4, 6)
    one = memory.get(weight, "sums", object)
    assert memory.get(weight, "sums", object) is one
    assert memory.get(weight, "other", object) is not one
    assert memory.get(weight.t(), "sums", object) is not one
    assert memory.get(weight[1:], "sums", object) is not one
    assert memory.get(weight.view(torch.int32), "sums", object) is not one
    weight += 1.0
    assert memory.get(weight, "sums", object) is not one
    assert memory.hits == 1


def test_inference_tensors_are_not_remembered() -> None:
    memory = OperandMemory()
    with torch.inference_mode():
        weight = torch.ones(3)
    assert memory.get(weight, "sums", object) is not memory.get(weight, "sums", object)


def test_each_stream_has_sums_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = OperandMemory()
    weight = torch.ones(3)
    stream = 1
    monkeypatch.setattr(remembered, "stream_of", lambda tensor: stream)
    one = memory.get(weight, "sums", object)
    stream = 2
    assert memory.get(weight, "sums", object) is not one
    stream = 1
    assert memory.get(weight, "sums", object) is one


def test_sums_of_operands_that_are_gone_are_not_kept() -> None:
    memory = OperandMemory()
    weight = torch.ones(3)
    kept = memory.get(weight, "sums", object)
    for _ in range(10 * MIN_SWEPT):
        memory.get(torch.ones(1), "sums", object)
    assert len(memory) <= MIN_SWEPT + 1
    assert memory.get(weight, "sums", object) is kept
    memory.forget([weight])
    assert memory.get(weight, "sums", object) is not kept


def test_what_is_remembered_is_bounded() -> None:
    memory = OperandMemory()
    tensors = [torch.ones(1) for _ in range(MAX_REMEMBERED + 5)]
    for tensor in tensors:
        memory.get(tensor, "sums", object)
    assert len(memory) <= MAX_REMEMBERED


def _gathered_twice(file: str, answers: Any) -> None:
    """In a process of its own: an FSDP2 layer, whose weight is gathered again for each forward."""
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=0, world_size=1)
    device_witness.kernel_is_alive = lambda device: True
    layer = nn.Linear(6, 5, bias=False)
    fully_shard(layer)
    seen: list[tuple[int, int]] = []
    layer.register_forward_pre_hook(
        lambda module, args: seen.append((module.weight.data_ptr(), module.weight._version)))
    with installed() as toy, guard() as g:
        layer(torch.ones(4, 6))
        layer.reshard()
        layer(torch.ones(4, 6))
    dist.destroy_process_group()
    answers.put((seen, toy.launched, toy.remembered[0] is toy.remembered[-1],
                 g.coverage.guard_errors, len(g.findings)))


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(),
                    reason="torch is built without gloo")
def test_an_all_gather_of_fsdp_ends_it_and_keeps_the_version(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=_gathered_twice, args=(str(tmp_path / "store"), answers))
    process.start()
    seen, launched, same, errors, findings = answers.get(timeout=300)
    process.join(timeout=300)
    assert seen[0][1] == seen[1][1], "the version counter tells the two gatherings apart"
    assert (launched, errors, findings) == (2, 0, 0)
    assert not same
