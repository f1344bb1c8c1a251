"""Two gloo ranks: a fault on one of them is answered by both, nothing hangs, and without a fault
training is that of an unguarded run, bit for bit."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import ProcessRaisedException, spawn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import sdc_guard
from sdc_guard.errors import CorruptionDetected
from tests.fidelity.models import bits_of
from tests.guard.training import flip, hit

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(),
                                reason="torch is built without gloo")

aten = torch.ops.aten
NUM_RANKS = 2
NUM_STEPS = 50
WIDTH = 8
PLACES = {"forward": (aten.addmm.default, 1), "backward": (aten.mm.default, 1),
          "optimizer": (aten.addcdiv_.default, 2)}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, WIDTH)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.down = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.norm(self.up(x))))


class Setup:
    """One rank's model, sharded or replicated, with its optimizer and its own batches."""

    def __init__(self, kind: str, rank: int) -> None:
        torch.manual_seed(0)
        self.rank = rank
        self.model: nn.Module = Net()
        if kind == "ddp":
            self.runner: nn.Module = DistributedDataParallel(self.model)
        else:
            mesh = init_device_mesh("cpu", (NUM_RANKS,))
            for layer in (self.model.up, self.model.down):
                fully_shard(layer, mesh=mesh)
            self.runner = fully_shard(self.model, mesh=mesh)
        self.optimizer = torch.optim.AdamW(self.runner.parameters(), lr=1e-2, foreach=False)

    def backward(self, i: int) -> None:
        generator = torch.Generator().manual_seed(100 * i + self.rank)
        x = torch.randn(5, 6, generator=generator)
        y = torch.randint(0, 4, (5,), generator=generator)
        self.optimizer.zero_grad()
        F.cross_entropy(self.runner(x), y).backward()

    def step(self, i: int) -> None:
        self.backward(i)
        self.optimizer.step()

    def state(self) -> Any:
        """Bits of this rank's shards, of its buffers, and of its optimizer's state."""
        return bits_of([
            [_local(t) for t in (*self.model.parameters(), *self.model.buffers())],
            [{k: _local(v) for k, v in s.items()} for s in self.optimizer.state.values()]])

    def whole(self) -> Any:
        """Bits of the whole parameters, as every rank should hold them."""
        return bits_of([getattr(p.detach(), "full_tensor", p.detach)()
                        for p in self.model.parameters()])


def _local(value: Any) -> Any:
    return value.to_local() if hasattr(value, "to_local") else value


def _rank_main(rank: int, file: str, body: str, kind: str, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank,
                            world_size=NUM_RANKS, timeout=datetime.timedelta(seconds=60))
    try:
        globals()[body](Setup(kind, rank), *arguments)
        dist.barrier()
    finally:
        dist.destroy_process_group()


def run_ranks(tmp_path: Path, body: Callable[..., None], kind: str, *arguments: Any) -> None:
    """Run ``body(setup, *arguments)`` on every rank; a rank that hangs ends in gloo's timeout."""
    spawn(_rank_main, (str(tmp_path / "rendezvous"), body.__name__, kind, arguments),
          nprocs=NUM_RANKS)


def agreed(value: Any) -> bool:
    """True if every rank holds the same."""
    gathered: list[Any] = [None] * NUM_RANKS
    dist.all_gather_object(gathered, value)
    return all(other == gathered[0] for other in gathered)


def fault_on_one_rank(setup: Setup, policy: str) -> None:
    expected = Setup(kind_of(setup), setup.rank)
    sdc_guard.wrap(setup.model, budget="all", on_finding=policy)
    guard = setup.model.sdc_guard
    setup.step(0)
    done = [0]
    for number, (where, place) in enumerate(PLACES.items(), start=1):
        before = setup.state()
        raised = []

        def step(number: int = number, raised: list[Any] = raised) -> None:
            try:
                setup.step(number)
            except CorruptionDetected as error:
                raised.append(error.findings)

        if setup.rank == 1:
            with hit(flip(*place)):
                step()
        else:
            step()
        assert len(raised) == (policy == "raise"), where
        assert setup.state() == before, where
        assert guard.coverage.steps_skipped == number
        assert len(guard.findings) == (number if setup.rank == 1 else 0)
        assert agreed(setup.whole())
        setup.step(10 + number)
        done.append(10 + number)
        assert setup.state() != before
    assert guard.coverage.guard_errors == 0
    sdc_guard.unwrap(setup.model)
    for i in done:
        expected.step(i)
    assert setup.state() == expected.state()
    assert agreed(setup.whole())


def kind_of(setup: Setup) -> str:
    return "ddp" if isinstance(setup.runner, DistributedDataParallel) else "fsdp"


@pytest.mark.parametrize("policy", ["skip", "raise"])
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_both_ranks_answer_a_fault_on_one(tmp_path: Path, kind: str, policy: str) -> None:
    run_ranks(tmp_path, fault_on_one_rank, kind, policy)


def clean_training(setup: Setup) -> None:
    plain = Setup(kind_of(setup), setup.rank)
    for i in range(NUM_STEPS):
        plain.step(i)
    for budget, floor in (("all", 0.8), (0.02, 0.0)):
        guarded = Setup(kind_of(setup), setup.rank)
        sdc_guard.wrap(guarded.model, budget=budget, on_finding="skip")
        for i in range(NUM_STEPS):
            guarded.step(i)
        guard = guarded.model.sdc_guard
        assert guard.findings == []
        coverage = guard.coverage
        assert coverage.guard_errors == 0, list(guard._events.events)
        assert coverage.steps == NUM_STEPS
        by_name = {op.op: op for op in coverage.ops}
        compute = [by_name[n] for n in ("aten.addmm", "aten.mm", "aten.gelu", "aten.addcdiv")]
        if budget == "all":
            # Two linear layers, forward and backward, and two tensors each in the optimizer:
            # under fully_shard their ops arrive as ops on this rank's shards.
            assert [op.calls for op in compute] == [
                2 * NUM_STEPS, 3 * NUM_STEPS, NUM_STEPS, 6 * NUM_STEPS]
            assert all(op.calls_checked == op.calls for op in compute)
            assert coverage.call_share > floor, by_name
        assert coverage.calls_checked > 0
        assert guarded.state() == plain.state()
        assert not any("not seen" in gap for gap in coverage.gaps)
        sdc_guard.unwrap(guarded.model)
    assert agreed(plain.whole())


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_without_a_fault_training_is_that_of_an_unguarded_run(tmp_path: Path, kind: str) -> None:
    run_ranks(tmp_path, clean_training, kind)


def wrapped_before_sharding(setup: Setup) -> None:
    model = Net()
    sdc_guard.wrap(model, budget="all", on_finding="skip")
    fully_shard(model, mesh=init_device_mesh("cpu", (NUM_RANKS,)))
    setup.model = setup.runner = model
    setup.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, foreach=False)
    setup.step(0)
    before = setup.state()
    if setup.rank == 0:
        with hit(flip(*PLACES["backward"])):
            setup.step(1)
    else:
        setup.step(1)
    assert setup.state() == before


def test_a_model_that_is_sharded_after_wrap_is_guarded(tmp_path: Path) -> None:
    run_ranks(tmp_path, wrapped_before_sharding, "ddp")


def image_on_one_rank_only(setup: Setup) -> None:
    """Rank 0 has no memory for an image: then no rank undoes, all say so, and all stay equal."""
    sdc_guard.wrap(setup.model, budget="all", on_finding="skip",
                   memory_budget=1500 if setup.rank == 0 else 1 << 20)
    guard = setup.model.sdc_guard
    setup.step(0)
    setup.backward(1)
    if setup.rank == 1:
        with hit(flip(*PLACES["optimizer"], bit=1)):
            setup.optimizer.step()
    else:
        setup.optimizer.step()
    kinds = [e["kind"] for e in guard._events.events]
    assert "step_not_undone" in kinds
    assert guard.coverage.steps_skipped == 0
    assert any("cannot be undone" in gap for gap in guard.coverage.gaps) == (setup.rank == 0)


def test_ranks_undo_together_or_not_at_all(tmp_path: Path) -> None:
    run_ranks(tmp_path, image_on_one_rank_only, "ddp")


def fails(setup: Setup) -> None:
    assert setup.rank == 0, "planted"


def test_a_failure_on_a_rank_fails_the_test(tmp_path: Path) -> None:
    with pytest.raises(ProcessRaisedException, match="planted"):
        run_ranks(tmp_path, fails, "ddp")
