"""A language model of one transformer block with a mixture of experts; AdamW.

Each token goes to two of five experts (Shazeer et al. 2017, arXiv:1701.06538; gated experts as in
Mixtral, arXiv:2401.04088).  Tokens are gathered for each expert by ``index_select`` and added back
by ``index_add``, both in fp32 under autocast too; a loss for balance keeps every expert busy (Fedus
et al. 2021, arXiv:2101.03961, equation 4).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdc_guard.bench.workload import Workload
from sdc_guard.bench.workloads.batches import random_numbers_of, text_batch
from sdc_guard.demo.data import NUM_BYTE_VALUES

BATCH_SIZE, CONTEXT = 3, 29
WIDTH, HEADS, HIDDEN = 54, 3, 74
EXPERTS, CHOSEN = 5, 2
BALANCE = 0.01


class Attention(nn.Module):
    """Causal self-attention without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.proj = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        qkv_B3hTd = self.qkv(x_BTD).view(B, T, 3, HEADS, D // HEADS).permute(0, 2, 3, 1, 4)
        q, k, v = qkv_B3hTd.unbind(1)
        y_BhTd = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y_BhTd.transpose(1, 2).reshape(B, T, D))  # type: ignore[no-any-return]


class Experts(nn.Module):
    """Gated feed-forward networks, of which a token takes the :data:`CHOSEN` best."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.up = nn.Parameter(torch.randn(EXPERTS, 2 * HIDDEN, WIDTH) / WIDTH**0.5)
        self.down = nn.Parameter(torch.randn(EXPERTS, WIDTH, HIDDEN) / HIDDEN**0.5)

    def forward(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """What the experts add, float32 [N, D], and the loss for balance."""
        shares_NE = self.router(x_ND).float().softmax(dim=-1)
        weights_NK, chosen_NK = shares_NE.topk(CHOSEN, dim=-1)
        weights_NK = weights_NK / weights_NK.sum(dim=-1, keepdim=True)
        total_ND = torch.zeros_like(x_ND)
        for e in range(EXPERTS):
            token_M, rank_M = torch.where(chosen_NK == e)
            gate_MH, value_MH = F.linear(
                x_ND.index_select(0, token_M), self.up[e]).chunk(2, dim=-1)
            y_MD = F.linear(F.silu(gate_MH) * value_MH, self.down[e])
            y_MD = y_MD.float() * weights_NK[token_M, rank_M, None]
            total_ND = total_ND.index_add(0, token_M, y_MD)
        load_E = F.one_hot(chosen_NK, EXPERTS).sum(dim=1).float().mean(dim=0)
        return total_ND, EXPERTS * (load_E * shares_NE.mean(dim=0)).sum()


class MoeModel(nn.Module):
    """Bytes [B, T] in; logits of the next byte [B, T, 256] and the loss for balance out."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(NUM_BYTE_VALUES, WIDTH)
        self.positions = nn.Parameter(0.1 * torch.randn(CONTEXT, WIDTH))
        self.attention_norm, self.attention = nn.LayerNorm(WIDTH), Attention()
        self.experts_norm, self.experts = nn.LayerNorm(WIDTH), Experts()
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, NUM_BYTE_VALUES, bias=False)

    def forward(self, tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
        x_BTD = self.tokens(tokens_BT) + self.positions
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD))
        added_ND, balance = self.experts(self.experts_norm(x_BTD).flatten(0, 1))
        return self.head(self.norm(x_BTD + added_ND.view_as(x_BTD))), balance


def build_moe(*, autocast: torch.dtype | None, seed: int, device: torch.device) -> Workload:
    """Batches are a pair of int64 [B, T]."""
    with random_numbers_of(seed, torch.device("cpu")):
        model = MoeModel().to(device)

    def batch(n: int) -> tuple[Tensor, Tensor]:
        return text_batch(seed, n, batch_size=BATCH_SIZE, context=CONTEXT, device=device)

    return Workload(model, torch.optim.AdamW(model.parameters(), lr=3e-3), batch, _loss, autocast)


def _loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    inputs_BT, targets_BT = batch
    logits_BTV, balance = model(inputs_BT)
    nll: Tensor = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())
    return nll + BALANCE * balance  # type: ignore[no-any-return]
