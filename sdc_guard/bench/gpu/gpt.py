"""The GPT whose training step is measured: plain modules, bf16 autocast, fused AdamW.

At full size it has the shape of GPT-2 medium (Radford et al. 2019): 24 blocks of width 1024 with 16
heads, 50257 tokens, the head's weight tied to the embedding, 355 million parameters; batches are 8
rows of 1024 tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdc_guard.bench.gpu.sizes import GptSizes
from sdc_guard.bench.workload import Workload

LEARNING_RATE = 1e-4
NUM_BATCHES = 4
INITIAL_STD = 0.02


class Block(nn.Module):
    """Attention and a GELU network, each behind a layer norm and added to what came in."""

    def __init__(self, sizes: GptSizes) -> None:
        super().__init__()
        self.num_heads = sizes.num_heads
        self.attention_norm = nn.LayerNorm(sizes.width)
        self.qkv = nn.Linear(sizes.width, 3 * sizes.width)
        self.proj = nn.Linear(sizes.width, sizes.width)
        self.mlp_norm = nn.LayerNorm(sizes.width)
        self.up = nn.Linear(sizes.width, 4 * sizes.width)
        self.down = nn.Linear(4 * sizes.width, sizes.width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        q, k, v = (
            part.view(B, T, self.num_heads, D // self.num_heads).transpose(1, 2)
            for part in self.qkv(self.attention_norm(x_BTD)).split(D, dim=2)
        )
        y_BHTd = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BTD = x_BTD + self.proj(y_BHTd.transpose(1, 2).reshape(B, T, D))
        return x_BTD + self.down(F.gelu(self.up(self.mlp_norm(x_BTD))))  # type: ignore[no-any-return]


class Gpt(nn.Module):
    """Tokens and targets [B, T] in, the mean cross entropy in nats out."""

    def __init__(self, sizes: GptSizes) -> None:
        super().__init__()
        self.tokens = nn.Embedding(sizes.vocab_size, sizes.width)
        self.positions = nn.Parameter(torch.empty(sizes.context, sizes.width))
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.num_layers))
        self.norm = nn.LayerNorm(sizes.width)
        self.head = nn.Linear(sizes.width, sizes.vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        for parameter in (self.tokens.weight, self.positions):
            nn.init.normal_(parameter, std=INITIAL_STD)

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        x_BTD = self.tokens(tokens_BT) + self.positions
        for block in self.blocks:
            x_BTD = block(x_BTD)
        logits_BTV = self.head(self.norm(x_BTD))
        return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())


def num_parameters(sizes: GptSizes) -> int:
    """Weights and biases, the tied one once."""
    block = 12 * sizes.width**2 + 13 * sizes.width
    return (sizes.num_layers * block + 2 * sizes.width
            + (sizes.vocab_size + sizes.context) * sizes.width)


def described(sizes: GptSizes) -> str:
    """One line for the page."""
    return (f"GPT of {num_parameters(sizes) / 1e6:.4g} M parameters: {sizes.num_layers} layers, "
            f"width {sizes.width}, {sizes.num_heads} heads, vocabulary {sizes.vocab_size}; bf16 "
            f"autocast, {sizes.batch_size} x {sizes.context} tokens, fused AdamW")


def build(sizes: GptSizes, *, device: str, seed: int) -> Workload:
    """A training of this GPT on random tokens; a few batches are made beforehand, so that a step
    makes no data."""
    torch.manual_seed(seed)
    with torch.device(device):
        model = Gpt(sizes)
        shape = (NUM_BATCHES, 2, sizes.batch_size, sizes.context)
        tokens = torch.randint(sizes.vocab_size, shape)
    batches = [(pair[0], pair[1]) for pair in tokens.unbind()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    return Workload(model, optimizer, lambda n: batches[n % NUM_BATCHES],
                    lambda model, batch: model(*batch), torch.bfloat16)
