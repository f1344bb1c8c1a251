"""Triton kernels such as a user has: one tuned by Triton, one that nobody decorates."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

CONFIGS = [triton.Config({"BLOCK": block}, num_warps=1) for block in (16, 32, 64)]


def no_wider_than_twice(configs: list[Any], named_args: dict[str, Any], **_: Any) -> list[Any]:
    """A pruning: blocks of at most twice the row."""
    return [c for c in configs if c.kwargs["BLOCK"] < 2 * max(named_args["num"], 9)]


@triton.autotune(configs=CONFIGS, key=["num"],
                 prune_configs_by={"early_config_prune": no_wider_than_twice})
@triton.jit
def double_kernel(x_ptr, out_ptr, num, WRONG_BLOCK: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = place < num
    x = tl.load(x_ptr + place, mask=exists, other=0.0)
    if BLOCK == WRONG_BLOCK:  # a bug of one configuration
        x = tl.where(place == num - 1, 0.0, x)
    tl.store(out_ptr + place, 2.0 * x, mask=exists)


def grid_of(num: int) -> Any:
    return lambda meta: (triton.cdiv(num, meta["BLOCK"]),)


def launch_double(x: Tensor, wrong_block: int) -> Tensor:
    out = torch.full_like(x, torch.nan)
    double_kernel[grid_of(x.numel())](x, out, x.numel(), WRONG_BLOCK=wrong_block)
    return out


def doubled(x: Tensor) -> Tensor:
    return launch_double(x, 0)


def doubled_wrongly(x: Tensor) -> Tensor:
    return launch_double(x, 32)


@triton.jit
def bare_kernel(x_ptr, out_ptr, num, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + place, mask=place < num, other=0.0)
    tl.store(out_ptr + place, x + 1.0, mask=place < num)


def plus_one(x: Tensor) -> Tensor:
    out = torch.full_like(x, torch.nan)
    bare_kernel[(triton.cdiv(x.numel(), 32),)](x, out, x.numel(), BLOCK=32)
    return out


def plus_one_again(x: Tensor) -> Tensor:
    """The same kernel from another launcher, which no test decorates."""
    out = torch.full_like(x, torch.nan)
    bare_kernel[(triton.cdiv(x.numel(), 32),)](x, out, x.numel(), BLOCK=32)
    return out


@triton.jit
def functions_kernel(x_ptr, y_ptr, out_ptr, NUM: tl.constexpr):  # type: ignore[no-untyped-def]
    """What ``sdc_guard.bounds.approximate`` speaks of."""
    i = tl.arange(0, NUM)
    x = tl.load(x_ptr + i)
    y = tl.load(y_ptr + i)
    tl.store(out_ptr + i, x / y)
    tl.store(out_ptr + NUM + i, tl.sqrt(x) + tl.rsqrt(y))
    tl.store(out_ptr + 2 * NUM + i, tl.exp(x) * tl.exp2(y))
