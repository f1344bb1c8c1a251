"""A small model, its training step, and one fault in it: shared by the tests of the guard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sdc_guard
from sdc_guard.calls import form_of
from sdc_guard.inject.campaign import CallShape, record_calls
from sdc_guard.inject.faults import TransientFlip
from sdc_guard.ops import lookup
from tests.fidelity.models import bits_of

aten = torch.ops.aten
EXPONENT_BIT = 27
NUM_FEATURES, WIDTH, NUM_CLASSES, BATCH = 6, 8, 4, 5

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class Net(nn.Module):
    """BatchNorm comes first: it counts its batches before any op of the step makes a node."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(NUM_FEATURES)
        self.up = nn.Linear(NUM_FEATURES, WIDTH)
        self.down = nn.Linear(WIDTH, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(self.norm(x))))


def batch(i: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 + i)
    return (torch.randn(BATCH, NUM_FEATURES, generator=generator),
            torch.randint(0, NUM_CLASSES, (BATCH,), generator=generator))


def adamw(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-2)


@dataclass
class Run:
    """A model with an optimizer and its steps."""

    make_optimizer: MakeOptimizer = adamw
    closure: bool = False
    model: nn.Module = field(default_factory=Net)
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            for module in self.model.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
        self.optimizer = self.make_optimizer(
            [p for p in self.model.parameters() if p.requires_grad])

    def backward(self, i: int) -> Tensor:
        x, y = batch(i)
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        return loss

    def step(self, i: int) -> None:
        if self.closure:
            self.optimizer.step(lambda: self._closure(i))
            return
        self.optimizer.zero_grad()
        self.backward(i)
        self.optimizer.step()

    def _closure(self, i: int) -> Tensor:
        self.optimizer.zero_grad()
        return self.backward(i)

    def state(self) -> Any:
        return bits_of({"model": dict(self.model.state_dict()),
                        "optimizer": self.optimizer.state_dict()})


def flip(op: Any, number: int = 0, flat_index: int = 1, bit: int = EXPONENT_BIT,
         output: int = 0) -> TransientFlip:
    return TransientFlip(op, number, output, flat_index, bit, counts="user")


def wrapped(run: Run, **options: Any) -> sdc_guard.Guard:
    """Wrap the run's model; by default check every call and skip corrupt steps."""
    sdc_guard.wrap(run.model, **{"budget": "all", "on_finding": "skip", **options})
    return run.model.sdc_guard


FORWARD = (aten.addmm.default, 1)
"""The second Linear."""
BACKWARD = (aten.mm.default, 1)
"""The gradient of a Linear's weight or input."""


@contextmanager
def hit(fault: TransientFlip) -> Iterator[TransientFlip]:
    """The fault for the block's duration; it must have changed exactly one result."""
    with fault:
        yield fault
    assert len(fault.injected) == 1, f"{fault} hit {len(fault.injected)} results"


def guarded_calls(fn: Callable[[], object]) -> list[CallShape]:
    """The calls that ``fn`` makes on float32 results of ops that the guard can check."""
    return [call for call in record_calls(fn)
            if lookup(form_of(call.op).packet) is not None and call.drawable
            and not form_of(call.op).seeded
            and any(call.outputs[i].dtype is torch.float32 for i in call.drawable)]


def flip_of(call: CallShape) -> TransientFlip:
    """A flip in the last float32 result of a recorded call."""
    output = max(i for i in call.drawable if call.outputs[i].dtype is torch.float32)
    return TransientFlip(call.op, call.ordinal, output, 0, EXPONENT_BIT, counts="user")
