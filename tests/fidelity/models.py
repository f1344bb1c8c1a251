"""Training loops that tests run with and without the guard, and the state they leave behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sdc_guard.demo.training import build_step


@dataclass
class Job:
    """A model, its optimizer and one training step."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: Callable[[], Tensor]
    compiled: bool = False


def _job(
    model: nn.Module,
    data: Callable[[int], tuple[Tensor, Tensor]],
    loss_of: Callable[[nn.Module, Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer | None = None,
) -> Job:
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=1e-3)
    counter = iter(range(10**9))

    def step() -> Tensor:
        x, y = data(next(counter))
        optimizer.zero_grad()
        loss = loss_of(model, x, y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Job(model, optimizer, step)


def _batch(i: int, *shape: int, classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 + i)
    x = torch.randn(*shape, generator=generator)
    return x, torch.randint(0, classes, (shape[0],), generator=generator)


def gpt(dtype: str) -> Job:
    built = build_step("tiny", dtype=dtype, seed=0)
    return Job(built.model, built.optimizer, built.step)


def conv_net() -> Job:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Conv2d(8, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    return _job(
        model,
        lambda i: _batch(i, 8, 3, 12, 12),
        lambda m, x, y: F.cross_entropy(m(x), y),
        optimizer,
    )


class _Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(6, 16, num_layers=2, dropout=0.1, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


def lstm() -> Job:
    torch.manual_seed(0)
    return _job(_Lstm(), lambda i: _batch(i, 4, 7, 6), lambda m, x, y: F.cross_entropy(m(x), y))


class _Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, 16)
            )
            for _ in range(3)
        )
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.blocks):
            x = x + checkpoint(block, x, use_reentrant=bool(i % 2))
        return self.head(x)


def checkpointed() -> Job:
    torch.manual_seed(0)

    def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x.requires_grad_()), y)

    return _job(_Checkpointed(), lambda i: _batch(i, 8, 16), loss_of)


def compiled() -> Job:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 5))
    runner: Any = torch.compile(model)
    job = _job(model, lambda i: _batch(i, 8, 16), lambda m, x, y: F.cross_entropy(runner(x), y))
    job.compiled = True
    return job


BUILDERS: dict[str, Callable[[], Job]] = {
    "gpt-fp32": lambda: gpt("fp32"),
    "gpt-bf16": lambda: gpt("bf16"),
    "conv-batchnorm-dropout": conv_net,
    "lstm": lstm,
    "activation-checkpointing": checkpointed,
    "compiled": compiled,
}


def bits_of(value: Any) -> Any:
    """Nested state with every tensor as raw bytes, so that equality means equal bits."""
    if isinstance(value, Tensor):
        t = value.detach().cpu().contiguous()
        return (
            str(t.dtype),
            tuple(t.shape),
            t.view(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b"",
        )
    if isinstance(value, dict):
        return {k: bits_of(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [bits_of(v) for v in value]
    return value


def state_of(job: Job, losses: list[Tensor]) -> dict[str, Any]:
    """Parameters, buffers, gradients, optimizer state, losses and the random state."""
    return bits_of(
        {
            "model": dict(job.model.state_dict()),
            "grads": [p.grad for p in job.model.parameters()],
            "optimizer": job.optimizer.state_dict(),
            "losses": losses,
            "rng": torch.get_rng_state(),
        }
    )
