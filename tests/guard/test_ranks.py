"""Two gloo ranks: a fault on one of them is answered by both, nothing hangs, and without a fault
training is that of an unguarded run, bit for bit."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import queue
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import sdc_guard
from sdc_guard import wrapping
from sdc_guard.errors import CorruptionDetected
from tests.fidelity.models import bits_of
from tests.guard.training import flip, hit

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(),
                                reason="torch is built without gloo")

aten = torch.ops.aten
NUM_RANKS = 2
NUM_STEPS = 50
WIDTH = 8
NOT_CHECKED = ("c10d.", "fsdp.", "aten.rand")
"""Collectives, what prepares their payloads, and random draws."""
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
        """Bits of this rank's shards, of its buffers, and of its optimizer's state.

        DDP overwrites the buffers of rank 1 by those of rank 0 at the start of each forward.
        """
        overwritten = self.rank > 0 and isinstance(self.runner, DistributedDataParallel)
        return bits_of([
            [_local(t) for t in self.model.parameters()],
            [] if overwritten else [_local(t) for t in self.model.buffers()],
            [{k: _local(v) for k, v in s.items()} for s in self.optimizer.state.values()]])

    def whole(self) -> Any:
        """Bits of the whole parameters, as every rank should hold them."""
        return bits_of([getattr(p.detach(), "full_tensor", p.detach)()
                        for p in self.model.parameters()])


def _local(value: Any) -> Any:
    return value.to_local() if hasattr(value, "to_local") else value


def _rank_main(rank: int, file: str, jobs: Any, answers: Any) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank,
                            world_size=NUM_RANKS, timeout=datetime.timedelta(seconds=300))
    while (job := jobs.get()) is not None:
        body, kind, arguments = job
        try:
            globals()[body](Setup(kind, rank), *arguments)
            for model in list(wrapping._guards):
                sdc_guard.unwrap(model)
            dist.barrier()
            answers.put((rank, ""))
        except BaseException:
            answers.put((rank, traceback.format_exc()))
            return
    dist.destroy_process_group()


class Ranks:
    """Two processes that stay for the tests of this file, since each takes seconds to start.

    A job that fails on a rank leaves the ranks out of step: they end, and new ones are started.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._num_starts = 0
        self._processes: list[Any] = []

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._num_starts += 1
        self._answers = context.Queue()
        self._jobs = [context.Queue() for _ in range(NUM_RANKS)]
        self._processes = [
            context.Process(target=_rank_main, daemon=True, args=(
                rank, str(self._folder / f"rendezvous{self._num_starts}"), jobs, self._answers))
            for rank, jobs in enumerate(self._jobs)]
        for process in self._processes:
            process.start()

    def run(self, body: Callable[..., None], kind: str, *arguments: Any) -> None:
        """``body(setup, *arguments)`` on every rank; a rank that hangs fails after a while."""
        if not self._processes:
            self._start()
        for jobs in self._jobs:
            jobs.put((body.__name__, kind, arguments))
        failures = []
        for _ in range(NUM_RANKS):
            try:
                rank, text = self._answers.get(timeout=300)
            except queue.Empty:
                rank, text = "?", "a rank does not answer: it hangs, or it died"
            if text:
                failures.append(f"rank {rank}: {text}")
                break
        if failures:
            self.stop(killed=True)
            raise AssertionError("\n".join(failures))

    def stop(self, killed: bool = False) -> None:
        for rank, process in enumerate(self._processes):
            if killed:
                process.kill()
            self._jobs[rank].put(None)
        for process in self._processes:
            process.join(300)
        self._processes = []


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    pool = Ranks(tmp_path_factory.mktemp("ranks"))
    yield pool
    pool.stop()


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
def test_both_ranks_answer_a_fault_on_one(ranks: Ranks, kind: str, policy: str) -> None:
    ranks.run(fault_on_one_rank, kind, policy)


def clean_training(setup: Setup) -> None:
    plain = Setup(kind_of(setup), setup.rank)
    for i in range(NUM_STEPS):
        plain.step(i)
    floor = {"ddp": 0.8, "fsdp": 0.5}[kind_of(setup)]
    for budget in ("all", 0.02):
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
            missed = {name for name, op in by_name.items() if op.not_tested}
            assert all(name.startswith(NOT_CHECKED) for name in missed), missed
            assert coverage.call_share > floor
        # What a share of 2 % buys in so few steps depends on the machine's load.
        assert coverage.calls > 0
        assert guarded.state() == plain.state()
        assert not any("not seen" in gap for gap in coverage.gaps)
        sdc_guard.unwrap(guarded.model)
    assert agreed(plain.whole())


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_without_a_fault_training_is_that_of_an_unguarded_run(ranks: Ranks, kind: str) -> None:
    ranks.run(clean_training, kind)


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


def test_a_model_that_is_sharded_after_wrap_is_guarded(ranks: Ranks) -> None:
    ranks.run(wrapped_before_sharding, "ddp")


def image_on_one_rank_only(setup: Setup) -> None:
    """Rank 0 has no memory for an image: then no rank undoes, all say so, and all stay equal."""
    sdc_guard.wrap(setup.model, budget="all", on_finding="skip",
                   memory_budget=1000 if setup.rank == 0 else 1 << 20)
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


def test_ranks_undo_together_or_not_at_all(ranks: Ranks) -> None:
    ranks.run(image_on_one_rank_only, "ddp")


def fails(setup: Setup) -> None:
    assert setup.rank == 0, "planted"


def test_a_failure_on_a_rank_fails_the_test(ranks: Ranks) -> None:
    with pytest.raises(AssertionError, match=r"rank 1: (?s:.*)planted"):
        ranks.run(fails, "ddp")
