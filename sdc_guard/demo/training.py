"""The training loop of the demo: AdamW, warm-up and cosine decay, one batch a step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sdc_guard.demo.data import Batches, Corpus, held_out_batches, load_corpus
from sdc_guard.demo.model import CONFIGS, Gpt, GptConfig
from sdc_guard.errors import UsageError

LEARNING_RATE = 2e-3
WARMUP_STEPS = 20
FINAL_SHARE_OF_RATE = 0.1
EVALUATION_BATCH = 32
MAX_NATS = 700.0
"""exp of more does not fit into a float64."""

_AUTOCAST = {"fp32": False, "bf16": True}


@dataclass
class TrainStep:
    """A model, its optimizer and its batches; :meth:`step` is one step of the user's own loop."""

    model: Gpt
    optimizer: torch.optim.Optimizer
    batches: Batches
    autocast: bool
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None

    def step(self) -> Tensor:
        """Forward, backward and optimizer step on the next batch; returns the detached loss."""
        inputs_BT, targets_BT = self.batches.next()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            loss = self.model(inputs_BT, targets_BT)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.schedule is not None:
            self.schedule.step()
        return loss.detach()  # type: ignore[no-any-return]


def build_step(
    config: GptConfig | str,
    *,
    dtype: str = "fp32",
    seed: int,
    fused: bool = False,
    num_steps: int | None = None,
) -> TrainStep:
    """A training step on real text that is ready to run.

    ``config`` is a :class:`GptConfig` or the name of one (``tiny``, ``demo``); ``dtype`` is
    ``fp32`` or ``bf16`` (autocast, parameters stay fp32); ``seed`` fixes parameters and batches;
    ``fused`` takes the fused AdamW kernel; ``num_steps`` switches the learning-rate schedule of
    the demo on, which ends there.  The global random state is left as it was.

    Raises:
        UsageError: for an unknown ``config`` or ``dtype``, or ``num_steps`` below 1.
    """
    if isinstance(config, str):
        if config not in CONFIGS:
            raise UsageError(f"unknown config {config!r}; known: {', '.join(CONFIGS)}")
        config = CONFIGS[config]
    if dtype not in _AUTOCAST:
        raise UsageError(f"unknown dtype {dtype!r}; known: {', '.join(_AUTOCAST)}")
    if num_steps is not None and num_steps < 1:
        raise UsageError(f"num_steps is {num_steps} and must be at least 1")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = Gpt(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=fused or None)
    batches = Batches(
        load_corpus(), batch_size=config.batch_size, context=config.context, seed=seed
    )
    schedule = None
    if num_steps is not None:
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: _rate_share(step, num_steps)
        )
    return TrainStep(model, optimizer, batches, _AUTOCAST[dtype], schedule)


def _rate_share(step: int, num_steps: int) -> float:
    """Share of the full learning rate at a step: linear warm-up, then half a cosine down."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    done = min(1.0, (step - WARMUP_STEPS) / max(1, num_steps - WARMUP_STEPS))
    return FINAL_SHARE_OF_RATE + (1 - FINAL_SHARE_OF_RATE) * (1 + math.cos(math.pi * done)) / 2


@torch.no_grad()
def held_out_perplexity(model: Gpt, corpus: Corpus, *, num_windows: int) -> float:
    """exp of the mean negative log-likelihood per held-out byte, all bytes weighing the same.

    Infinite where the mean is no number, or too large for a float.  Summed by ``cross_entropy``
    and in Python's float64: ``torch.sum`` has no part in it.
    """
    context = model.config.context
    total_nats, num_bytes = 0.0, 0
    for inputs_BT, targets_BT in held_out_batches(
        corpus, num_windows=num_windows, batch_size=EVALUATION_BATCH, context=context
    ):
        logits_BTV = model.logits(inputs_BT)
        mean = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())
        total_nats += mean.item() * targets_BT.numel()
        num_bytes += targets_BT.numel()
    nats_per_byte = total_nats / num_bytes
    return math.exp(nats_per_byte) if nats_per_byte < MAX_NATS else math.inf
