"""A GPT-like model of a few thousand parameters and one training step of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

NUM_TOKENS, WIDTH, HEADS, LENGTH = 17, 16, 2, 6


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm_in, self.norm_mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm_in(x)).view(b, t, 3, HEADS, d // HEADS).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        x = x + functional.dropout(self.out(y.reshape(b, t, d)), 0.1)
        return x + self.down(functional.gelu(self.up(self.norm_mlp(x))))


class TinyGPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(NUM_TOKENS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.Sequential(Block(), Block())
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, NUM_TOKENS, bias=False)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places(torch.arange(LENGTH))
        logits = self.head(self.norm(self.blocks(x)))
        return functional.cross_entropy(logits.view(-1, NUM_TOKENS), targets.view(-1))


def make_step(*, autocast: bool = False, **adamw: Any) -> tuple[Callable[[], float], nn.Module]:
    """A step function and its model, both fresh; the same numbers each time."""
    torch.manual_seed(0)
    model = TinyGPT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, **adamw)
    ids = torch.arange(3 * LENGTH).reshape(3, LENGTH) * 7 % NUM_TOKENS
    targets = (ids + 3) % NUM_TOKENS

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(ids, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step, model
