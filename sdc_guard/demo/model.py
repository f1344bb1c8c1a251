"""A small GPT over bytes, written the way a training team writes one.

Pre-norm blocks with causal attention, learned positions, biases everywhere but in the head, and a
loss with habits of large runs: blanks weigh less than other bytes, and a z-loss keeps the
softmax normaliser near one.  The normaliser is therefore summed by hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdc_guard.demo.data import NUM_BYTE_VALUES
from sdc_guard.errors import UsageError


@dataclass(frozen=True)
class GptConfig:
    """Sizes of a model and of its batches."""

    width: int
    num_layers: int
    num_heads: int
    context: int
    batch_size: int
    blank_weight: float = 0.25
    z_loss: float = 1e-4

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise UsageError(
                f"width {self.width} is not a multiple of num_heads {self.num_heads}; "
                "choose sizes that divide"
            )


EMBEDDING_STD = 0.1
SEQUENCES_AT_A_TIME = 4

CONFIGS = {
    "quick": GptConfig(width=64, num_layers=2, num_heads=2, context=64, batch_size=16),
    "tiny": GptConfig(width=32, num_layers=2, num_heads=2, context=32, batch_size=4),
    "demo": GptConfig(width=192, num_layers=4, num_heads=6, context=64, batch_size=16),
}


class Attention(nn.Module):
    """Causal self-attention with several heads."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        q, k, v = (
            part.view(B, T, self.num_heads, D // self.num_heads).transpose(1, 2)
            for part in self.qkv(x_BTD).split(D, dim=2)
        )
        y_BHTd = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y_BHTd.transpose(1, 2).reshape(B, T, D))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Two linear maps with a GELU between them, four times as wide inside."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, 4 * config.width)
        self.down = nn.Linear(4 * config.width, config.width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x_BTD)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = Attention(config)
        self.mlp_norm = nn.LayerNorm(config.width)
        self.mlp = Mlp(config)

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD))
        return x_BTD + self.mlp(self.mlp_norm(x_BTD))  # type: ignore[no-any-return]


class Objective(nn.Module):
    """Cross entropy with a weight per target byte and a z-loss (Chowdhery et al. 2022, PaLM,
    section 5: ``z_loss * log(Z)^2``, which keeps the softmax normaliser Z near one)."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.blank_weight = config.blank_weight
        self.z_loss = config.z_loss

    def forward(self, logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
        """The weighted mean over each sequence in nats, [B]."""
        logits_BTV = logits_BTV.float()
        shifted_BTV = logits_BTV - logits_BTV.detach().amax(dim=-1, keepdim=True)
        log_z_BT = torch.sum(torch.exp(shifted_BTV), dim=-1).log()
        log_p_BTV = shifted_BTV - log_z_BT.unsqueeze(-1)
        nll_BT = F.nll_loss(
            log_p_BTV.flatten(0, 1), targets_BT.flatten(), reduction="none"
        ).view_as(targets_BT)
        loss_BT = nll_BT + self.z_loss * log_z_BT.square()
        weight_BT = torch.where(targets_BT == ord(" "), self.blank_weight, 1.0)
        return torch.sum(loss_BT * weight_BT, dim=-1) / torch.sum(weight_BT, dim=-1)


class Gpt(nn.Module):
    """Bytes in, logits of the next byte out."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(NUM_BYTE_VALUES, config.width)
        self.positions = nn.Parameter(torch.empty(config.context, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, NUM_BYTE_VALUES, bias=False)
        self.objective = Objective(config)
        self._initialise()

    def _initialise(self) -> None:
        """torch's own initial weights, but embeddings with standard deviation 0.1, and projections
        into the residual stream divided by sqrt(2 * num_layers) (Radford et al. 2019, GPT-2,
        section 2.3)."""
        nn.init.normal_(self.tokens.weight, std=EMBEDDING_STD)
        nn.init.normal_(self.positions, std=EMBEDDING_STD / 4)
        for module in self.modules():
            if isinstance(module, Block):
                for linear in (module.attention.proj, module.mlp.down):
                    linear.weight.data /= (2 * len(self.blocks)) ** 0.5

    def hidden(self, tokens_BT: Tensor) -> Tensor:
        """What the head reads, [B, T, D]."""
        x_BTD = self.tokens(tokens_BT) + self.positions[: tokens_BT.shape[1]]
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return self.norm(x_BTD)  # type: ignore[no-any-return]

    def logits(self, tokens_BT: Tensor) -> Tensor:
        """Logits of the next byte, [B, T, 256]."""
        return self.head(self.hidden(tokens_BT))  # type: ignore[no-any-return]

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """The training loss, a scalar: the mean over the sequences.

        Logits and loss are made for a few sequences at a time, because logits are the largest
        tensors of a step.
        """
        parts = zip(
            self.hidden(tokens_BT).split(SEQUENCES_AT_A_TIME),
            targets_BT.split(SEQUENCES_AT_A_TIME),
            strict=True,
        )
        return torch.cat([self.objective(self.head(x), t) for x, t in parts]).mean()
