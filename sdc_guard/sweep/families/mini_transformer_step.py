"""F9: one step of training of a small transformer, all of it compared: activations, the loss, the
gradient of every parameter, and every parameter after AdamW.

Weights and tokens are fixed, so that a golden digest of another machine with the same software can
be held against the result, and every unit's against its peers'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import (
    cross_entropy,
    embedding,
    gelu,
    layer_norm,
    linear,
    scaled_dot_product_attention,
)

from sdc_guard.sweep.declared import CORE, GPU, Case, Made, Oracle, Place, SweepTest
from sdc_guard.sweep.families._training import DTYPES, fixed, indices, operand, same_each_time


@dataclass(frozen=True, kw_only=True)
class Size:
    """Sequences, tokens in each, width D, heads H, words V, blocks."""

    batch: int
    length: int
    width: int
    heads: int
    words: int
    blocks: int = 2

    @property
    def num_weights(self) -> int:
        """Of all matrices that activations are multiplied with."""
        return self.blocks * 12 * self.width**2 + self.words * self.width


SMALL = Size(batch=2, length=24, width=32, heads=4, words=67)
LARGE = Size(batch=8, length=128, width=256, heads=8, words=1009)
RATE, BETAS, EPSILON, DECAY = 1e-2, (0.9, 0.95), 1e-8, 0.1

Weights = dict[str, Tensor]


def weights_of(random: np.random.Generator, size: Size, dtype: str, place: Place) -> Weights:
    """Fixed weights: matrices of about 1 / sqrt(D), gains about 1, no zeros."""
    width = size.width
    power = -(width.bit_length() // 2)
    found = {"words": operand(random, (size.words, width), dtype, place),
             "places": operand(random, (size.length, width), dtype, place, -2)}
    for number in range(size.blocks):
        block = f"block{number}."
        for name, shape in (("qkv", (3 * width, width)), ("out", (width, width)),
                            ("up", (4 * width, width)), ("down", (width, 4 * width))):
            found[f"{block}{name}"] = operand(random, shape, dtype, place, power)
            found[f"{block}{name}_bias"] = operand(random, shape[:1], dtype, place, -4)
        for name in ("norm1", "norm2"):
            found[f"{block}{name}"] = operand(random, (width,), dtype, place)
            found[f"{block}{name}_bias"] = operand(random, (width,), dtype, place, -4)
    found["norm"] = operand(random, (width,), dtype, place)
    found["norm_bias"] = operand(random, (width,), dtype, place, -4)
    return found


def forward(weights: Weights, tokens_BT: Tensor, size: Size) -> list[Tensor]:
    """The output of each block [B, T, D], the logits [B, T, V] first."""
    batch, length = tokens_BT.shape
    x_BTD = embedding(tokens_BT, weights["words"]) + weights["places"]
    outputs = []
    for number in range(size.blocks):
        block = f"block{number}."
        y_BTD = _normed(weights, f"{block}norm1", x_BTD)
        qkv_BTD = linear(y_BTD, weights[f"{block}qkv"], weights[f"{block}qkv_bias"])
        q_BHTE, k_BHTE, v_BHTE = (
            part.reshape(batch, length, size.heads, -1).transpose(1, 2)
            for part in qkv_BTD.split(size.width, dim=-1))
        mixed_BHTE = scaled_dot_product_attention(q_BHTE, k_BHTE, v_BHTE, is_causal=True)
        mixed_BTD = mixed_BHTE.transpose(1, 2).reshape(batch, length, size.width)
        x_BTD = x_BTD + linear(mixed_BTD, weights[f"{block}out"], weights[f"{block}out_bias"])
        y_BTD = _normed(weights, f"{block}norm2", x_BTD)
        up_BTF = gelu(linear(y_BTD, weights[f"{block}up"], weights[f"{block}up_bias"]))
        x_BTD = x_BTD + linear(up_BTF, weights[f"{block}down"], weights[f"{block}down_bias"])
        outputs.append(x_BTD)
    return [linear(_normed(weights, "norm", x_BTD), weights["words"]), *outputs]


def _normed(weights: Weights, name: str, x_BTD: Tensor) -> Tensor:
    return layer_norm(x_BTD, x_BTD.shape[-1:], weights[name], weights[f"{name}_bias"])


def step(start: Weights, tokens_BT: Tensor, targets_BT: Tensor, size: Size) -> list[Tensor]:
    """Logits, block outputs, loss; the gradients; the parameters after AdamW's first step."""
    with torch.enable_grad():
        weights = {name: w.detach().clone().requires_grad_() for name, w in start.items()}
        outputs = forward(weights, tokens_BT, size)
        loss = cross_entropy(outputs[0].reshape(-1, size.words), targets_BT.reshape(-1))
        gradients = torch.autograd.grad(loss, list(weights.values()))
    with torch.no_grad():
        after = [adamw(w.detach(), g) for w, g in zip(weights.values(), gradients, strict=True)]
    return [*(x.detach() for x in (*outputs, loss)), *gradients, *after]


def adamw(weight: Tensor, gradient: Tensor) -> Tensor:
    """The weight after the first step of AdamW (Loshchilov and Hutter, 2019), with the operators
    that an optimizer without a fused kernel calls."""
    mean = torch.zeros_like(weight).lerp_(gradient, 1 - BETAS[0])
    square = torch.zeros_like(weight).mul_(BETAS[1]).addcmul_(
        gradient, gradient, value=1 - BETAS[1])
    root = (square.sqrt() / (1 - BETAS[1]) ** 0.5).add_(EPSILON)
    return weight.mul(1 - RATE * DECAY).addcdiv_(mean, root, value=-RATE / (1 - BETAS[0]))


def _make(dtype: str, _: np.random.Generator, place: Place) -> Made:
    size = LARGE if place.kind == GPU else SMALL
    random = fixed()
    weights = weights_of(random, size, dtype, place)
    tokens_BT = indices(random, (size.batch, size.length), size.words, place)
    targets_BT = indices(random, (size.batch, size.length), size.words, place)

    def run() -> list[Tensor]:
        with same_each_time(place):
            return step(weights, tokens_BT, targets_BT, size)

    return Made(
        run=run, expected=None,
        # Forward 2 and backward 4 for each weight and token.
        flops=6 * size.num_weights * size.batch * size.length,
        num_bytes=sum(3 * w.numel() * w.element_size() for w in weights.values()),
        golden_key=f"mini_transformer_step {dtype} {size}")


def cases(place: Place) -> Sequence[Case]:
    """A step in each dtype."""
    size = LARGE if place.kind == GPU else SMALL
    return tuple(
        Case(label=f"step {dtype}", op="training step", dtype=dtype,
             shape=(size.batch, size.length, size.words), make=partial(_make, dtype))
        for dtype in DTYPES)


TESTS = (SweepTest(
    name="mini_transformer_step", family="F9",
    oracles=(Oracle.SELF, Oracle.PEER, Oracle.GOLDEN), kinds=(CORE, GPU), blames="core or GPU",
    dtypes=DTYPES, dwell_s=3.0,
    proves="A whole step of training gave the same bits each time, the same as the other units, "
    "and, where a golden digest is known, the same as other hardware.",
    cannot_prove="Without a golden digest or peers, a unit that is always wrong in the same way "
    "is not seen; one small model does not run every kernel.",
    cases=cases),)
