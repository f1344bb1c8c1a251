"""The guard beside copies, pickles, workers, threads and other people's dispatch modes."""

from __future__ import annotations

import copy
import io
import multiprocessing
import os
import pickle
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils.data import DataLoader, Dataset

import sdc_guard
from tests.fidelity.models import bits_of
from tests.guard.training import BACKWARD, FORWARD, Net, Run, adamw, batch, flip, hit, wrapped


def test_a_copy_of_a_wrapped_model_is_a_plain_model() -> None:
    run = Run()
    guard = wrapped(run)
    run.step(0)
    average = copy.deepcopy(run.model)
    assert average.sdc_guard is None
    assert type(average) is Net
    assert vars(average).keys() == vars(Net()).keys()
    with torch.no_grad():
        for kept, p in zip(average.parameters(), run.model.parameters(), strict=True):
            kept.lerp_(p, 0.1)
    ema = torch.optim.swa_utils.AveragedModel(
        run.model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    run.step(1)
    ema.update_parameters(run.model)
    assert guard.findings == []
    assert guard.coverage.guard_errors == 0


def test_a_wrapped_model_and_its_optimizer_are_saved_as_plain_ones() -> None:
    run, plain = Run(), Run()
    wrapped(run)
    run.step(0)
    plain.step(0)
    for save, load in ((torch.save, lambda f: torch.load(f, weights_only=False)),
                       (pickle.dump, pickle.load)):
        buffer = io.BytesIO()
        save({"model": run.model, "optimizer": run.optimizer}, buffer)
        assert b"sdc_guard" not in buffer.getvalue()
        buffer.seek(0)
        loaded = load(buffer)
        assert bits_of(dict(loaded["model"].state_dict())) == plain.state()["model"]
        assert bits_of(loaded["optimizer"].state_dict()) == plain.state()["optimizer"]
    run.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
    run.model.load_state_dict(copy.deepcopy(run.model.state_dict()))
    run.step(1)
    plain.step(1)
    assert run.state() == plain.state()


class Samples(Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> tuple[Tensor, int, int]:
        x = torch.full((3,), float(i)).exp().sum() + torch.ones(3)
        return x, os.getpid(), len(_get_current_dispatch_mode_stack())


def test_forked_workers_are_left_alone_and_that_is_said() -> None:
    run = Run()
    guard = wrapped(run)
    expected = [Samples()[i][0] for i in range(8)]
    loader = DataLoader(Samples(), batch_size=2, num_workers=1,
                        multiprocessing_context=multiprocessing.get_context("fork"))
    rows = list(loader)
    pids = {int(p) for _, row, _ in rows for p in row}
    assert os.getpid() not in pids
    assert all(int(n) == 0 for _, _, depth in rows for n in depth)
    assert bits_of(list(torch.cat([x for x, _, _ in rows]))) == bits_of(expected)
    assert any("forked" in gap for gap in guard.coverage.gaps)
    with hit(flip(*FORWARD)):
        run.step(0)
    assert len(guard.findings) == 1


def test_a_forked_child_may_guard_on_its_own() -> None:
    run = Run()
    wrapped(run)

    def child(queue: Any) -> None:
        torch.set_num_threads(1)
        own = Run()
        guard = wrapped(own)
        with hit(flip(*BACKWARD)):
            own.step(0)
        queue.put((len(guard.findings), guard.coverage.steps_skipped))

    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    assert queue.get(timeout=300) == (1, 1)
    process.join(300)
    assert process.exitcode == 0


def test_two_players_with_one_guard_around() -> None:
    """A GAN's loop: two models, two optimizers, each with its own forward and backward."""
    def play(guard: Any, fault_at: int | None) -> Any:
        torch.manual_seed(3)
        maker, judge = nn.Linear(4, 6), nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 1))
        maker_opt, judge_opt = adamw(list(maker.parameters())), adamw(list(judge.parameters()))
        states = []
        for i in range(3):
            for players, optimizer, sign in ((False, judge_opt, -1.0), (True, maker_opt, 1.0)):
                fake = maker(torch.randn(5, 4))
                loss = sign * judge(fake if players else fake.detach()).sum()
                optimizer.zero_grad()
                if fault_at == i and players:
                    with hit(flip(*BACKWARD)):
                        loss.backward()
                else:
                    loss.backward()
                before = bits_of(optimizer.state_dict())
                optimizer.step()
                states.append(before == bits_of(optimizer.state_dict()))
        return states, bits_of([dict(maker.state_dict()), dict(judge.state_dict())])

    _, plain = play(None, None)
    with sdc_guard.Guard(budget="all", on_finding="skip") as guard:
        skipped, clean = play(guard, None)
        assert clean == plain
        assert skipped == [False] * 6
        skipped, _ = play(guard, 1)
        assert skipped == [False, False, False, True, False, False]
    assert guard.coverage.steps == 12
    assert guard.coverage.steps_skipped == 1


def test_unwrap_leaves_nothing_behind() -> None:
    from torch.optim import optimizer as hooks

    def surroundings() -> Any:
        return (list(_get_current_dispatch_mode_stack()), dict(hooks._global_optimizer_pre_hooks),
                dict(hooks._global_optimizer_post_hooks), hasattr(nn.Module, "sdc_guard"),
                torch.get_num_threads(), torch.get_float32_matmul_precision(),
                torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled(),
                torch.backends.mkldnn.enabled, torch.get_default_dtype(),
                {int(t): sorted(os.sched_getaffinity(int(t)))
                 for t in os.listdir("/proc/self/task")},
                sorted(vars(run.model)), len(run.model._forward_hooks),
                [len(p._backward_hooks or ()) for p in run.model.parameters()],
                torch.get_rng_state().tolist())

    run = Run()
    run.step(0)
    before = surroundings()
    wrapped(run)
    with hit(flip(*FORWARD)):
        run.step(1)
    run.step(2)
    sdc_guard.unwrap(run.model)
    assert surroundings() == before
    run.step(3)
    assert surroundings() == before


def test_without_grad_ops_are_watched_and_no_step_begins() -> None:
    run = Run()
    guard = wrapped(run)
    run.step(0)
    run.model.eval()
    with torch.no_grad(), hit(flip(*FORWARD)):
        run.model(batch(1)[0])
    assert len(guard.findings) == 1
    run.model.train()
    before = run.state()
    run.step(2)
    assert run.state() != before, "a fault in an evaluation is none of the next step's"
    assert guard.coverage.steps_skipped == 0
