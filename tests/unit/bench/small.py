"""A workload of a few operators, and detectors that are right or wrong on purpose."""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor, nn

from sdc_guard.bench.arena import WARMUP_STEPS
from sdc_guard.bench.detectors.base import Alarm, Detector
from sdc_guard.bench.workload import Workload
from sdc_guard.inject.faults import Fault, TransientFlip


def small_workload() -> Workload:
    """A layer norm between two linear maps, with dropout."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 9), nn.LayerNorm(9), nn.Dropout(0.25), nn.Linear(9, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def batch(number: int) -> tuple[Tensor, Tensor]:
        generator = np.random.default_rng((7, number))
        return (torch.from_numpy(generator.standard_normal((5, 6), dtype=np.float32)),
                torch.from_numpy(generator.standard_normal((5, 3), dtype=np.float32)))

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (model(batch[0]) - batch[1]).square().mean()

    return Workload(model, optimizer, batch, loss)


def alarm(op: str, *, firm: bool = True, cause: str = "") -> Alarm:
    return Alarm(op=op, verdict="wrong", firm=firm, cause=cause, detail="told")


class Scripted(Detector):
    """Says ``always`` in each step, and ``said`` one by one in trials; the twin of a trial that
    shows what is said without the fault gets ``always`` alone."""

    name = "scripted"
    description = "for tests"

    def __init__(self, *said: Alarm, always: tuple[Alarm, ...] = ()) -> None:
        self.said = said
        self.num_said = 0
        self.always = always
        self.losses: list[float] = []
        self.num_resets = 0
        self.watches = False

    def step(self, workload: Workload) -> tuple[Alarm, ...]:
        self.losses.append(float(workload.step()))
        self.num_checks += 1
        if not self.watches:
            return self.always
        self.num_said += 1
        return (*self.always, *self.said[self.num_said - 1 : self.num_said])

    def mark(self) -> None:
        self.watches = not self.always

    def reset(self) -> None:
        self.num_resets += 1
        self.watches = not self.always or self.num_resets % 2 == 1


def flip(number: int = 0, bit: int = 30) -> Fault:
    """One bit of the output of a linear map."""
    return TransientFlip(torch.ops.aten.addmm.default, number, 0, 2, bit, counts="user")


def dying_workload() -> Workload:
    """Ends its process when it is asked for the batch that the trial with number 1 begins with."""
    workload = small_workload()
    batch = workload.batch

    def deadly(number: int) -> tuple[Tensor, Tensor]:
        if number == WARMUP_STEPS + 1:
            os._exit(9)
        return batch(number)

    workload.batch = deadly
    return workload


def faulty_workload() -> Workload:
    """The harness cannot put back the optimizer after the trial with number 2, the first that comes
    to that batch: no fault did that."""
    workload = small_workload()
    batch = workload.batch

    def failing(number: int) -> tuple[Tensor, Tensor]:
        if number == WARMUP_STEPS + 6:
            workload.optimizer.param_groups.append({"params": []})
        return batch(number)

    workload.batch = failing
    return workload


def not_finite_workload() -> Workload:
    """Its loss is NaN from the start."""
    workload = small_workload()
    loss = workload.loss
    workload.loss = lambda model, batch: loss(model, batch) * float("nan")
    return workload
