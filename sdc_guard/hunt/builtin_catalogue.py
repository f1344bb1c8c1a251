"""Sample calls of functions that models spend their time in, for when torch's own catalogue cannot
be read, and of those that it only reaches through functions of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from sdc_guard.errors import UsageError
from sdc_guard.hunt.templates import Template, argument_of
from sdc_guard.hunt.trial import Trial

Draw = Callable[..., Tensor]
Call = tuple[tuple[Any, ...], dict[str, Any]]
FLOATS = ("float32", "bfloat16", "float16", "float64")

UNARY = ("abs", "neg", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt",
         "reciprocal", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "erf",
         "erfc", "sigmoid", "floor", "ceil", "round", "trunc", "sign", "square", "isnan", "clone")
BINARY = ("add", "sub", "mul", "div", "maximum", "minimum", "fmod", "remainder", "atan2", "pow",
          "eq", "lt", "copysign", "hypot", "logaddexp")
REDUCTIONS = ("sum", "mean", "prod", "amax", "amin", "var", "std", "logsumexp", "nansum", "norm",
              "argmax", "all", "any", "cumsum", "cumprod", "softmax", "log_softmax", "sort")
ACTIVATIONS = ("relu", "gelu", "silu", "elu", "softplus", "mish", "hardswish", "leaky_relu", "selu",
               "logsigmoid", "hardsigmoid")
NEEDS_DIM = frozenset({"amax", "amin", "logsumexp", "cumsum", "cumprod", "softmax", "log_softmax"})

OTHERS: dict[str, Callable[[Draw], Call]] = {
    "torch.mm": lambda d: ((d(7, 33), d(33, 5)), {}),
    "torch.bmm": lambda d: ((d(3, 5, 17), d(3, 17, 9)), {}),
    "torch.matmul": lambda d: ((d(2, 4, 19), d(19, 8)), {}),
    "torch.addmm": lambda d: ((d(5), d(7, 33), d(33, 5)), {}),
    "torch.baddbmm": lambda d: ((d(3, 5, 9), d(3, 5, 17), d(3, 17, 9)), {}),
    "torch.mv": lambda d: ((d(9, 33), d(33)), {}),
    "torch.dot": lambda d: ((d(65), d(65)), {}),
    "torch.outer": lambda d: ((d(9), d(17)), {}),
    "torch.einsum": lambda d: (("bij,bjk->bik", d(2, 5, 7), d(2, 7, 3)), {}),
    "torch.cat": lambda d: (([d(3, 5), d(3, 5)],), {"dim": 1}),
    "torch.stack": lambda d: (([d(3, 5), d(3, 5)],), {"dim": 0}),
    "torch.where": lambda d: ((d(5, 7) > 0, d(5, 7), d(5, 7)), {}),
    "torch.index_select": lambda d: ((d(9, 5), 0, torch.tensor([0, 8, 3])), {}),
    "torch.gather": lambda d: ((d(5, 7), 1, torch.tensor([[0, 6], [3, 1]])), {}),
    "torch.topk": lambda d: ((d(4, 33), 3), {"dim": -1}),
    "torch.addcmul": lambda d: ((d(4, 9), d(4, 9), d(4, 9)), {"value": 0.5}),
    "torch.addcdiv": lambda d: ((d(4, 9), d(4, 9), d(4, 9)), {"value": 0.5}),
    "torch.lerp": lambda d: ((d(4, 9), d(4, 9), 0.25), {}),
    "torch.clamp": lambda d: ((d(4, 9),), {"min": -0.5, "max": 0.5}),
    "torch.tril": lambda d: ((d(9, 7),), {}),
    "torch.linalg.vector_norm": lambda d: ((d(5, 33),), {"ord": 2, "dim": -1}),
    "torch.nn.functional.linear": lambda d: ((d(4, 17), d(9, 17), d(9)), {}),
    "torch.nn.functional.conv1d": lambda d: ((d(2, 3, 19), d(5, 3, 4), d(5)), {}),
    "torch.nn.functional.conv2d": lambda d: ((d(2, 3, 9, 8), d(5, 3, 3, 3), d(5)), {"padding": 1}),
    "torch.nn.functional.layer_norm": lambda d: ((d(4, 33), [33], d(33), d(33)), {}),
    "torch.nn.functional.rms_norm": lambda d: ((d(4, 33), [33], d(33)), {}),
    "torch.nn.functional.group_norm": lambda d: ((d(2, 6, 9), 3, d(6), d(6)), {}),
    "torch.nn.functional.embedding": lambda d: ((torch.tensor([[0, 3], [7, 3]]), d(8, 5)), {}),
    "torch.nn.functional.cross_entropy": lambda d: ((d(5, 9), torch.tensor([0, 8, 3, 3, 1])), {}),
    "torch.nn.functional.mse_loss": lambda d: ((d(5, 9), d(5, 9)), {}),
    "torch.nn.functional.smooth_l1_loss": lambda d: ((d(5, 9), d(5, 9)), {}),
    "torch.nn.functional.avg_pool2d": lambda d: ((d(2, 3, 9, 8), 2), {}),
    "torch.nn.functional.max_pool2d": lambda d: ((d(2, 3, 9, 8), 2), {}),
    "torch.nn.functional.scaled_dot_product_attention":
        lambda d: ((d(2, 3, 9, 8), d(2, 3, 7, 8), d(2, 3, 7, 8)), {}),
    "torch.nn.functional.interpolate":
        lambda d: ((d(2, 3, 5, 6),), {"scale_factor": 2.0, "mode": "bilinear"}),
}
"""Calls that need shapes of their own, from what draws tensors."""


def _calls() -> Iterator[tuple[str, str, Callable[[Draw], Call]]]:
    for name in UNARY:
        yield f"torch.{name}", "elementwise", lambda d: ((d(5, 17),), {})
    for name in ACTIVATIONS:
        yield f"torch.nn.functional.{name}", "elementwise", lambda d: ((d(5, 17),), {})
    for name in BINARY:
        yield f"torch.{name}", "elementwise", lambda d: ((d(5, 17), d(5, 17)), {})
    for name in REDUCTIONS:
        if name not in NEEDS_DIM:
            yield f"torch.{name}", "reduction", lambda d: ((d(65),), {})
        yield f"torch.{name}", "reduction", lambda d: ((d(5, 33),), {"dim": 1})
    for name, call in OTHERS.items():
        yield name, "elementwise" if name in ("torch.where", "torch.addcmul") else "", call


def builtin_templates(left_out: frozenset[str] = frozenset()) -> Iterator[Template]:
    """Templates of all these functions, in every floating format, but for targets ``left_out``."""
    generator = torch.Generator().manual_seed(0)
    for target, rule, call in _calls():
        if target in left_out:
            continue
        for dtype in FLOATS:
            def draw(*shape: int, its: str = dtype) -> Tensor:
                return torch.randn(*shape, generator=generator).to(
                    getattr(torch, its)).requires_grad_()
            args, kwargs = call(draw)
            yield _template(target, rule, args, kwargs)


def _template(target: str, rule: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Template:
    def is_free(path: tuple[int, ...], tensor: Tensor) -> bool:
        return tensor.is_floating_point() or tensor.dtype is torch.bool
    try:
        trial = Trial(
            target=target, backward=True,
            args=tuple(argument_of(a, is_free=is_free) for a in args),
            kwargs={k: argument_of(v, is_free=is_free) for k, v in kwargs.items()})
    except UsageError as error:
        raise AssertionError(f"the sample call of {target} cannot be written down") from error
    return Template(name=target.removeprefix("torch."), trial=trial, source="built-in", rule=rule)
