"""A recurrent language model over bytes (Zaremba et al. 2014, arXiv:1409.2329): embedding, LSTM,
dropout on what is not recurrent, a linear head; Adam.

The only workload with dropout.  Its masks follow from the batch, so that a step can be repeated.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdc_guard.bench.workload import Workload
from sdc_guard.bench.workloads.batches import draws, random_numbers_of, text_batch
from sdc_guard.demo.data import NUM_BYTE_VALUES

BATCH_SIZE, CONTEXT = 7, 21
EMBEDDING, HIDDEN = 45, 69
LAYERS, DROPOUT = 2, 0.1

Batch = tuple[Tensor, Tensor, int]
"""Inputs and targets, int64 [B, T], and the seed of the dropout masks."""


class LstmModel(nn.Module):
    """Bytes [B, T] in, logits of the next byte [B, T, 256] out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(NUM_BYTE_VALUES, EMBEDDING)
        self.lstm = nn.LSTM(EMBEDDING, HIDDEN, LAYERS, batch_first=True, dropout=DROPOUT)
        self.dropout = nn.Dropout(DROPOUT)
        self.head = nn.Linear(HIDDEN, NUM_BYTE_VALUES)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden_BTH, _ = self.lstm(self.dropout(self.embedding(tokens_BT)))
        return self.head(self.dropout(hidden_BTH))  # type: ignore[no-any-return]


def build_lstm(*, autocast: torch.dtype | None, seed: int, device: torch.device) -> Workload:
    """Batches are :data:`Batch`."""
    with random_numbers_of(seed, torch.device("cpu")):
        model = LstmModel().to(device)

    def batch(n: int) -> Batch:
        inputs_BT, targets_BT = text_batch(
            seed, n, batch_size=BATCH_SIZE, context=CONTEXT, device=device)
        return inputs_BT, targets_BT, int(draws(seed, n, stream=1).integers(2**32))

    return Workload(model, torch.optim.Adam(model.parameters(), lr=5e-3), batch, _loss, autocast)


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    inputs_BT, targets_BT, dropout_seed = batch
    with random_numbers_of(dropout_seed, inputs_BT.device):
        logits_BTV = model(inputs_BT)
    return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())
