"""F9: the operators of training one by one, forward and backward, with fixed operands.

Where the whole step of training differs, these say which operator does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sdc_guard.sweep.declared import CORE, GPU, Case, Made, Oracle, Place, SweepTest
from sdc_guard.sweep.families._training import DTYPES, fixed, indices, operand, same_each_time
from sdc_guard.sweep.families.mini_transformer_step import adamw

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Op:
    """``run`` takes the operands, then indices into ``num_rows`` rows, where it needs them.
    ``result`` is the shape of what it gives."""

    run: Callable[..., Tensor]
    operands: tuple[Shape, ...]
    result: Shape
    index: Shape | None = None
    num_rows: int = 0
    arguments: tuple[tuple[str, Any], ...] = ()


def _index_add(x: Tensor, rows: Tensor, index: Tensor) -> Tensor:
    return x.index_add(0, index, rows)


def _scatter_add(x: Tensor, source: Tensor, index: Tensor) -> Tensor:
    return x.scatter_add(0, index, source)


def _gather(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(0, index)


def _embedding(table: Tensor, index: Tensor) -> Tensor:
    return functional.embedding(index, table)


def _cross_entropy(logits: Tensor, index: Tensor) -> Tensor:
    return functional.cross_entropy(logits, index, reduction="none")


OPS: dict[str, _Op] = {
    "linear": _Op(run=functional.linear, operands=((65, 96), (80, 96), (80,)), result=(65, 80)),
    "conv2d": _Op(run=functional.conv2d, operands=((2, 12, 14, 14), (16, 12, 3, 3), (16,)),
                  result=(2, 16, 14, 14), arguments=(("padding", 1),)),
    "sdpa": _Op(run=functional.scaled_dot_product_attention, operands=((2, 4, 33, 16),) * 3,
                result=(2, 4, 33, 16), arguments=(("is_causal", True),)),
    "layer_norm": _Op(run=lambda x, gain, bias: functional.layer_norm(x, (96,), gain, bias),
                      operands=((65, 96), (96,), (96,)), result=(65, 96)),
    "group_norm": _Op(run=lambda x: functional.group_norm(x, 4), operands=((3, 16, 9, 9),),
                      result=(3, 16, 9, 9)),
    "softmax": _Op(run=functional.softmax, operands=((65, 129),), result=(65, 129),
                   arguments=(("dim", -1),)),
    "gelu": _Op(run=functional.gelu, operands=((65, 129),), result=(65, 129)),
    "silu": _Op(run=functional.silu, operands=((65, 129),), result=(65, 129)),
    "embedding": _Op(run=_embedding, operands=((97, 32),), result=(5, 41, 32), index=(5, 41),
                     num_rows=97),
    "cross_entropy": _Op(run=_cross_entropy, operands=((65, 97),), result=(65,), index=(65,),
                         num_rows=97),
    "sum": _Op(run=torch.sum, operands=((65, 513),), result=(65,), arguments=(("dim", 1),)),
    "mean": _Op(run=torch.mean, operands=((513, 65),), result=(65,), arguments=(("dim", 0),)),
    "var": _Op(run=torch.var, operands=((65, 257),), result=(65,), arguments=(("dim", 1),)),
    "logsumexp": _Op(run=torch.logsumexp, operands=((65, 129),), result=(65,),
                     arguments=(("dim", 1),)),
    "cumsum": _Op(run=torch.cumsum, operands=((65, 129),), result=(65, 129),
                  arguments=(("dim", 1),)),
    "index_add": _Op(run=_index_add, operands=((31, 64), (129, 64)), result=(31, 64),
                     index=(129,), num_rows=31),
    "scatter_add": _Op(run=_scatter_add, operands=((31, 64), (129, 64)), result=(31, 64),
                       index=(129, 64), num_rows=31),
    "gather": _Op(run=_gather, operands=((31, 64),), result=(129, 64), index=(129, 64),
                  num_rows=31),
}
ADAMW, ADAMW_SHAPE = "adamw", (129, 65)


def _make(name: str, dtype: str, _: np.random.Generator, place: Place) -> Made:
    op, random = OPS[name], fixed()
    operands = [operand(random, shape, dtype, place) for shape in op.operands]
    index = [] if op.index is None else [indices(random, op.index, op.num_rows, place)]
    upstream = operand(random, op.result, dtype, place)
    keywords = dict(op.arguments)

    def run() -> list[Tensor]:
        with same_each_time(place), torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in operands]
            result = op.run(*leaves, *index, **keywords)
            gradients = torch.autograd.grad(result, leaves, upstream)
        # The gradient of a plain addend is the upstream gradient itself, an operand.
        return [result.detach(),
                *(g.clone(memory_format=torch.contiguous_format) for g in gradients)]

    return Made(run=run, expected=None, golden_key=f"real_ops {name} {dtype} {op.operands}",
                num_bytes=2 * sum(x.numel() * x.element_size() for x in (*operands, upstream)))


def _make_adamw(dtype: str, _: np.random.Generator, place: Place) -> Made:
    random = fixed()
    weight, gradient = (operand(random, ADAMW_SHAPE, dtype, place) for _ in range(2))

    def run() -> list[Tensor]:
        with torch.no_grad():
            return [adamw(weight, gradient)]

    return Made(run=run, expected=None, golden_key=f"real_ops {ADAMW} {dtype} {ADAMW_SHAPE}",
                num_bytes=3 * weight.numel() * weight.element_size())


def cases(place: Place) -> Sequence[Case]:
    """Every operator in every dtype."""
    found = [Case(label=f"{name} {dtype}", op=f"aten.{name}", dtype=dtype, shape=op.result,
                  make=partial(_make, name, dtype)) for name, op in OPS.items()
             for dtype in DTYPES]
    found += [Case(label=f"{ADAMW} {dtype}", op="AdamW", dtype=dtype, shape=ADAMW_SHAPE,
                   make=partial(_make_adamw, dtype)) for dtype in DTYPES]
    return tuple(found)


TESTS = (SweepTest(
    name="real_ops", family="F9", oracles=(Oracle.SELF, Oracle.PEER, Oracle.GOLDEN),
    kinds=(CORE, GPU), blames="core or GPU", dtypes=DTYPES, dwell_s=3.0,
    proves="The operators of training, forward and backward, gave the same bits each time, the "
    "same as the other units, and, where a golden digest is known, the same as other hardware.",
    cannot_prove="Without a golden digest or peers, a unit that is always wrong in the same way "
    "is not seen; other shapes run other kernels.",
    cases=cases),)
