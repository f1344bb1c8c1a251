"""Calls of the operators of a transformer's training step, made from fixed seeds.

Each entry maps an overload to a function that returns fresh ``(args, kwargs)``; the same operands
bit for bit each time it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def x(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * seed + len(shape))
    return torch.randn(shape, generator=generator).to(dtype)


def positive(*shape: int, seed: int = 0) -> Tensor:
    return x(*shape, seed=seed).abs() + 0.1


def ids(*shape: int, high: int = 7) -> Tensor:
    return torch.arange(torch.Size(shape).numel()).reshape(shape) * 5 % high


def _norm() -> tuple[Tensor, list[int], Tensor, Tensor, Tensor, Tensor]:
    data, weight, bias = x(6, 16), x(16, seed=1), x(16, seed=2)
    _, mean, rstd = torch.native_layer_norm(data, [16], weight, bias, 1e-5)
    return data, [16], mean, rstd, weight, bias


def _attention() -> tuple[Tensor, Tensor, Tensor]:
    return x(2, 3, 8, 16), x(2, 3, 8, 16, seed=1), x(2, 3, 8, 16, seed=2)


def _attention_backward() -> Arguments:
    q, k, v = _attention()
    out, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True)
    return (x(2, 3, 8, 16, seed=3), q, k, v, out, lse, 0.0, True), {}


def _lists(seed: int = 0) -> list[Tensor]:
    return [x(5, 3, seed=seed), x(7, seed=seed), x(2, 2, 2, seed=seed)]


def _adamw() -> Arguments:
    steps = [torch.tensor(3.0) for _ in range(3)]
    squares = [t.square() for t in _lists(3)]
    return (_lists(), _lists(1), _lists(2), squares, [], steps), {
        "lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.01, "eps": 1e-8,
        "amsgrad": False, "maximize": False,
    }


def _nll_backward() -> Arguments:
    scores, target = x(9, 7).log_softmax(1), ids(9)
    _, total = aten.nll_loss_forward(scores, target, None, 1, -100)
    return (torch.tensor(1.0), scores, target, None, 1, -100, total), {}


def call(*args: Any, **kwargs: Any) -> Arguments:
    return args, kwargs


def written(name: str) -> Callable[..., Any]:
    """The call as a user writes it, through torch's argument parser: numbers stay numbers."""
    return {"*": lambda a, b: a * b, "+=": lambda a, b: a.add_(b), "/": lambda a, b: a / b,
            "where": lambda c, a, b: torch.where(c, a, b), "-": lambda a, b: a - b}[name]


# An operator, and a call of it in which a number takes the place of a tensor.
NUMBER_CALLS: list[tuple[Any, Callable[..., Any], Callable[[], tuple[Any, ...]]]] = [
    (aten.mul.Tensor, written("*"), lambda: (x(6, 17), 0.1)),
    (aten.mul.Tensor, written("*"), lambda: (x(6, 17, dtype=torch.bfloat16), 0.1)),
    (aten.mul.Tensor, written("*"), lambda: (x(), 0.1)),
    (aten.mul.Tensor, written("*"), lambda: (x(dtype=torch.bfloat16), 0.1)),
    (aten.mul.Tensor, written("*"), lambda: (ids(6, 17), 0.1)),
    (aten.mul.Tensor, written("*"), lambda: (torch.tensor(3), 0.1)),
    (aten.mul.Tensor, written("*"), lambda: (ids(6, 17), True)),
    (aten.mul.Tensor, written("*"), lambda: (x(3), 2j)),
    (aten.mul.Tensor, torch.mul, lambda: (2, 3.5)),
    (aten.add_.Tensor, written("+="), lambda: (x(6, 17), 3)),
    (aten.add_.Tensor, written("+="), lambda: (torch.tensor(3.0), 1)),
    (aten.div.Tensor, written("/"), lambda: (ids(6, 17), 3)),
    (aten.div.Tensor, written("/"), lambda: (x(6, 17, dtype=torch.float16), 0.3)),
    (aten.sub.Tensor, written("-"), lambda: (x(), 0.3)),
    (aten.where.self, written("where"), lambda: (x(6, 17) > 0, x(6, 17), 0.3)),
    (aten.pow.Tensor_Tensor, torch.pow, lambda: (torch.tensor(2.5), x(6))),
    (aten.lerp.Tensor, torch.lerp, lambda: (x(3), x(3, seed=1), torch.tensor(0.3))),
]

CALLS: list[tuple[Any, Callable[[], Arguments]]] = [
    (aten.mm.default, lambda: call(x(9, 16), x(12, 16, seed=1).t())),
    (aten.mm.default, lambda: call(x(9, 16, dtype=torch.bfloat16), x(16, 5, dtype=torch.bfloat16))),
    (aten.mm.out, lambda: call(x(9, 16), x(16, 5, seed=1), out=torch.empty(9, 5))),
    (aten.addmm.default, lambda: call(x(5), x(9, 16), x(16, 5), beta=0.5, alpha=2)),
    (aten.addmm.default, lambda: call(x(5), x(9, 16), x(16, 5))),
    (aten.bmm.default, lambda: call(x(3, 9, 16), x(3, 16, 5))),
    (aten.baddbmm.default, lambda: call(x(3, 9, 5), x(3, 9, 16), x(3, 16, 5), alpha=0.25)),
    (aten.sum.dim_IntList, lambda: call(x(9, 16), [1])),
    (aten.sum.dim_IntList, lambda: call(x(9, 16), None, True, dtype=torch.float64)),
    (aten.sum.default, lambda: call(x(9, 16))),
    (aten.sum.default, lambda: call(ids(9, 16), dtype=torch.int32)),
    (aten.sum.IntList_out, lambda: call(x(9, 16), [0], out=torch.empty(16))),
    (aten.mean.default, lambda: call(x(9, 16))),
    (aten.mean.dim, lambda: call(x(9, 16), [-1], True)),
    (aten.native_layer_norm.default, lambda: call(x(6, 16), [16], x(16), x(16, seed=1), 1e-5)),
    (aten.native_layer_norm.default, lambda: call(x(6, 16), [16], None, None, 1e-5)),
    (aten.native_layer_norm_backward.default,
     lambda: call(x(6, 16, seed=5), *_norm(), [True, True, True])),
    (aten.native_layer_norm_backward.default,
     lambda: call(x(6, 16, seed=5), *_norm(), [True, False, False])),
    (aten._softmax.default, lambda: call(x(6, 16), -1, False)),
    (aten._log_softmax.default, lambda: call(x(6, 16), 1, False)),
    (aten._softmax_backward_data.default,
     lambda: call(x(6, 16), x(6, 16, seed=1).softmax(1), 1, torch.float32)),
    (aten._log_softmax_backward_data.default,
     lambda: call(x(6, 16), x(6, 16, seed=1).log_softmax(1), 1, torch.float32)),
    (aten._scaled_dot_product_flash_attention_for_cpu.default,
     lambda: call(*_attention(), 0.0, True)),
    (aten._scaled_dot_product_flash_attention_for_cpu.default,
     lambda: call(*_attention(), attn_mask=x(8, 8), scale=0.3)),
    (aten._scaled_dot_product_flash_attention_for_cpu_backward.default, _attention_backward),
    (aten.gelu.default, lambda: call(x(6, 17))),
    (aten.gelu.default, lambda: call(x(6, 17), approximate="tanh")),
    (aten.gelu_backward.default, lambda: call(x(6, 17), x(6, 17, seed=1), approximate="tanh")),
    (aten.silu.default, lambda: call(x(6, 17))),
    (aten.silu_backward.default, lambda: call(x(6, 17), x(6, 17, seed=1))),
    (aten.relu.default, lambda: call(x(6, 17))),
    (aten.relu_.default, lambda: call(x(6, 17))),
    (aten.threshold_backward.default, lambda: call(x(6, 17), x(6, 17, seed=1), 0)),
    (aten.add.Tensor, lambda: call(x(6, 17), x(17, seed=1), alpha=-0.5)),
    (aten.add.Tensor, lambda: call(x(6, 17), 2)),
    (aten.add.out, lambda: call(x(6, 17), x(17), alpha=3, out=torch.empty(6, 17))),
    (aten.add_.Tensor, lambda: call(x(6, 17), x(17, seed=1))),
    (aten.add_.Tensor, lambda: call(x(6, 17).t(), 1.5)),
    (aten.add.Scalar, lambda: call(x(6, 17), 1.5, 2)),
    (aten.mul.Tensor, lambda: call(x(6, 17), x(6, 1, seed=1))),
    (aten.mul.Tensor, lambda: call(x(6, 17, dtype=torch.bfloat16), 0.1)),
    (aten.mul_.Tensor, lambda: call(x(6, 17), 0.999)),
    (aten.mul.Scalar, lambda: call(x(6, 17), 0.1)),
    (aten.mul.Scalar, lambda: call(ids(6, 17), True)),
    (aten.div.Tensor, lambda: call(x(6, 17), positive(17))),
    (aten.div_.Scalar, lambda: call(x(6, 17), 3)),
    (aten.sub.Tensor, lambda: call(x(6, 17), x(6, 17, seed=1))),
    (aten.neg.default, lambda: call(x(6, 17))),
    (aten.sqrt.default, lambda: call(positive(6, 17))),
    (aten.rsqrt.default, lambda: call(positive(6, 17))),
    (aten.exp.default, lambda: call(x(6, 17))),
    (aten.tanh.default, lambda: call(x(6, 17))),
    (aten.pow.Tensor_Scalar, lambda: call(x(6, 17), 3)),
    (aten.where.self, lambda: call(x(6, 17) > 0, x(6, 17), x(17, seed=1))),
    (aten.masked_fill.Scalar, lambda: call(x(6, 17), x(6, 17) > 0, float("-inf"))),
    (aten.addcmul_.default, lambda: call(x(6, 17), x(6, 17, seed=1), x(6, 17, seed=2), value=0.1)),
    (aten.addcdiv_.default, lambda: call(x(6, 17), x(6, 17, seed=1), positive(6, 17), value=-0.1)),
    (aten.lerp_.Scalar, lambda: call(x(6, 17), x(6, 17, seed=1), 0.1)),
    (aten.embedding.default, lambda: call(x(7, 16), ids(3, 5))),
    (aten.embedding_dense_backward.default,
     lambda: call(x(3, 5, 16), ids(3, 5), 7, -1, False)),
    (aten.index.Tensor, lambda: call(x(7, 16), [None, ids(5)])),
    (aten.nll_loss_forward.default, lambda: call(x(9, 7).log_softmax(1), ids(9), None, 1, -100)),
    (aten.nll_loss_backward.default, _nll_backward),
    (aten.native_dropout.default, lambda: call(x(6, 17), 0.25, True)),
    (aten.native_dropout_backward.default, lambda: call(x(6, 17), x(6, 17, seed=1) > 0, 1.25)),
    (aten.bernoulli_.float, lambda: call(torch.empty(6, 17), 0.25)),
    (aten.bernoulli_.float,
     lambda: call(torch.empty(6, 17), generator=torch.Generator().manual_seed(3))),
    (aten.clone.default, lambda: call(x(6, 17).t())),
    (aten.clone.default,
     lambda: call(x(2, 3, 4, 5), memory_format=torch.channels_last)),
    (aten.copy_.default, lambda: call(torch.empty(6, 17), x(17, 6).t())),
    (aten.copy_.default, lambda: call(torch.empty(6, 17, dtype=torch.bfloat16), x(17))),
    (aten._to_copy.default, lambda: call(x(6, 17), dtype=torch.bfloat16)),
    (aten._to_copy.default,
     lambda: call(x(6, 17).t(), dtype=torch.float64, layout=torch.strided,
                  device=torch.device("cpu"), memory_format=torch.preserve_format)),
    (aten.cat.default, lambda: call([x(6, 17), x(6, 3, seed=1)], 1)),
    (aten.stack.default, lambda: call([x(6, 17), x(6, 17, seed=1)], -1)),
    (aten.fill_.Scalar, lambda: call(torch.empty(6, 17), 0.1)),
    (aten.zero_.default, lambda: call(x(6, 17))),
    (aten.ones_like.default, lambda: call(x(6, 17).t(), memory_format=torch.preserve_format)),
    (aten.new_zeros.default, lambda: call(x(6), [3, 4], dtype=torch.float16, pin_memory=False)),
    (aten.full.default, lambda: call([3, 4], 0.1, device=torch.device("cpu"), pin_memory=False)),
    (aten.arange.start, lambda: call(2, 9, device=torch.device("cpu"), pin_memory=False)),
    (aten.max.dim, lambda: call(x(6, 17), 1)),
    (aten.topk.default, lambda: call(x(6, 17), 3)),
    (aten._foreach_add_.Scalar, lambda: call(_lists(), 1)),
    (aten._foreach_add_.List, lambda: call(_lists(), _lists(1), alpha=0.5)),
    (aten._foreach_mul_.Scalar, lambda: call(_lists(), 0.999)),
    (aten._foreach_lerp_.Scalar, lambda: call(_lists(), _lists(1), 0.1)),
    (aten._foreach_addcmul_.Scalar, lambda: call(_lists(), _lists(1), _lists(2), 0.1)),
    (aten._foreach_addcdiv_.ScalarList,
     lambda: call(_lists(), _lists(1), [t.abs() + 1 for t in _lists(2)], [-0.1, 0.2, -0.3])),
    (aten._foreach_sqrt.default, lambda: call([t.abs() for t in _lists()])),
    (aten._foreach_div_.ScalarList, lambda: call(_lists(), [0.5, 3.0, 7])),
    (aten._foreach_norm.Scalar, lambda: call(_lists(), 2)),
    (aten._fused_adamw_.default, _adamw),
]
