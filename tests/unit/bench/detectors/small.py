"""A workload of the tests: two linear layers with batch norm, layer norm and dropout."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from sdc_guard import bits
from sdc_guard.bench.workload import Workload

BATCH, INPUTS, HIDDEN = 8, 6, 10


class Net(nn.Module):
    """Has random numbers, a buffer that changes in the forward pass, and plain matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(INPUTS, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN)
        self.batch_norm = nn.BatchNorm1d(HIDDEN)
        self.dropout = nn.Dropout(0.25)
        self.second = nn.Linear(HIDDEN, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.nn.functional.gelu(self.norm(self.first(x)))
        return self.second(self.dropout(self.batch_norm(hidden)))


@cache
def batch(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 + n)
    return (torch.randn(BATCH, INPUTS, generator=generator),
            torch.randint(3, (BATCH,), generator=generator))


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, target = batch
    return nn.functional.cross_entropy(model(x), target)


def workload(*, autocast: torch.dtype | None = None, kind: str = "plain") -> Workload:
    """``kind`` of AdamW: ``plain``, ``foreach`` or ``fused``."""
    for n in range(40):  # drawn here, not in a step that is recorded
        batch(n)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, foreach=kind == "foreach",
                                  fused=kind == "fused")
    return Workload(model, optimizer, batch, loss, autocast=autocast)


def numbers(work: Workload) -> list[bytes]:
    """All bits of the training state, gradients and the random state included."""
    state: list[Any] = [*work.model.parameters(), *work.model.buffers()]
    state += [p.grad for p in work.model.parameters() if p.grad is not None]
    for parameter in work.model.parameters():
        held = work.optimizer.state.get(parameter, {})
        state += [held[key] for key in sorted(held)]
    tensors = [t.detach() for t in state] + [torch.get_rng_state()]
    return [bits.raw(t).tobytes() for t in tensors]


def trained(step: Any, steps: int, **options: Any) -> list[bytes]:
    """The numbers after ``steps`` calls of ``step(workload)`` from the start."""
    work = workload(**options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        for _ in range(steps):
            step(work)
        return numbers(work)
