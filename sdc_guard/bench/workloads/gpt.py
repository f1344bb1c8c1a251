"""The demo's GPT on the demo's text, in two sizes; AdamW.

``tiny`` takes a few milliseconds a step, ``demo`` is what ``sdc-guard demo`` trains.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdc_guard.bench.workload import Workload
from sdc_guard.bench.workloads.batches import random_numbers_of, text_batch
from sdc_guard.demo.model import CONFIGS, Gpt
from sdc_guard.demo.training import LEARNING_RATE

CPU = torch.device("cpu")


def build_gpt(
    config_name: str, *, autocast: torch.dtype | None, seed: int, device: torch.device
) -> Workload:
    """A GPT of ``demo.model.CONFIGS[config_name]``; batches are a pair of int64 [B, T]."""
    config = CONFIGS[config_name]
    with random_numbers_of(seed, CPU):
        model = Gpt(config).to(device)

    def batch(n: int) -> tuple[Tensor, Tensor]:
        return text_batch(
            seed, n, batch_size=config.batch_size, context=config.context, device=device)

    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    return Workload(model, optimizer, batch, _loss, autocast)


def _loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return model(*batch)  # type: ignore[no-any-return]
