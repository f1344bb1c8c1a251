"""Calls at the sizes of the GPT that its training step does not make: other reductions, softmax of
explicit attention, batched products, the gradient's norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sdc_guard.bench.gpu.job import Setting

aten = torch.ops.aten
Made = tuple[Any, tuple[Any, ...]]


def more_calls(setting: Setting) -> tuple[Callable[[], Made], ...]:
    """Functions that make the operands of one call each, on the device: (overload, arguments)."""
    gpt = setting.sizes.gpt
    tokens, width, heads = gpt.batch_size * gpt.context, gpt.width, gpt.num_heads
    generator = torch.Generator(setting.device)
    generator.manual_seed(setting.seed)

    def normal(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.randn(shape, generator=generator, device=setting.device).to(dtype)

    def sum_of_all() -> Made:
        return aten.sum.default, (normal(tokens, width, dtype=torch.float32),)

    def sum_of_rows() -> Made:
        return aten.sum.dim_IntList, (normal(tokens, width), [1])

    def sum_of_columns() -> Made:
        return aten.sum.dim_IntList, (normal(tokens, 4 * width), [0])

    def mean_of_rows() -> Made:
        return aten.mean.dim, (normal(tokens, width, dtype=torch.float32), [1])

    def largest_of_rows() -> Made:
        return aten.amax.default, (normal(tokens, width), [1])

    def norm_of_a_gradient() -> Made:
        gradient = normal(gpt.vocab_size, width, dtype=torch.float32)
        return aten.linalg_vector_norm.default, (gradient,)

    def softmax_of_scores() -> Made:
        scores = normal(gpt.batch_size * heads, gpt.context, gpt.context)
        return aten._softmax.default, (scores, -1, False)

    def norm_in_fp32() -> Made:
        weight, bias = (normal(width, dtype=torch.float32) for _ in range(2))
        x = normal(tokens, width, dtype=torch.float32)
        return aten.native_layer_norm.default, (x, [width], weight, bias, 1e-5)

    def batched_product() -> Made:
        q = normal(gpt.batch_size * heads, gpt.context, width // heads)
        k = normal(gpt.batch_size * heads, gpt.context, width // heads)
        return aten.bmm.default, (q, k.transpose(1, 2))

    def product_in_fp32() -> Made:
        x = normal(tokens, width, dtype=torch.float32)
        return aten.mm.default, (x, normal(width, 4 * width, dtype=torch.float32))

    def convolution() -> Made:
        edge = 56 if setting.form == "full" else 5
        channels = 64 if setting.form == "full" else 3
        images = normal(8 * gpt.batch_size, channels, edge, edge)
        weight = normal(channels, channels, 3, 3)
        return aten.convolution.default, (
            images, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)

    return (sum_of_all, sum_of_rows, sum_of_columns, mean_of_rows, largest_of_rows,
            norm_of_a_gradient, softmax_of_scores, norm_in_fp32, batched_product, product_in_fp32,
            convolution)
