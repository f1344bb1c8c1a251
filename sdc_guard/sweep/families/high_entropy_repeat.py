"""F3: operators on data of many kinds, again and again, with no answer from outside.

The first result of a visit stands in for the answer, and its digest is compared with those of the
unit's peers.  Every operator here gives equal bits for equal operands on one thread: sums have one
order, and operands lie at one alignment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, gelu, layer_norm, softmax

from sdc_guard.sweep.declared import CORE, GPU, Case, Made, Oracle, Place, SweepTest
from sdc_guard.sweep.entropy import KINDS
from sdc_guard.sweep.families.exact_product import multiply
from sdc_guard.sweep.placed import placed

DTYPES = ("float32", "bfloat16", "float64", "float16")
Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Op:
    """An operator, the shapes of its operands and of its result, on a core and on a GPU."""

    run: Callable[..., Tensor]
    op: str
    operands: tuple[tuple[Shape, ...], tuple[Shape, ...]]
    results: tuple[Shape, Shape]
    dtypes: tuple[str, ...] = DTYPES
    flops: int = 1
    """For each element of the result."""


def _softmax(x: Tensor) -> Tensor:
    return softmax(x, dim=-1)


def _layer_norm(x: Tensor) -> Tensor:
    return layer_norm(x, (x.shape[-1],))


def _sum(x: Tensor) -> Tensor:
    return torch.sum(x, dim=-1)


def _convolve(x: Tensor, weight: Tensor) -> Tensor:
    with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        return conv2d(x, weight, padding=1)


ROWS = ((129, 257), (1025, 2049))
_UNARY = ((ROWS[0],), (ROWS[1],))
OPS = {
    "exp": _Op(run=torch.exp, op="aten.exp", operands=_UNARY, results=ROWS),
    "gelu": _Op(run=gelu, op="aten.gelu", operands=_UNARY, results=ROWS),
    "softmax": _Op(run=_softmax, op="aten.softmax", operands=_UNARY, results=ROWS),
    "layer_norm": _Op(run=_layer_norm, op="aten.layer_norm", operands=_UNARY, results=ROWS),
    "sum": _Op(run=_sum, op="aten.sum", operands=_UNARY, results=((129,), (1025,)), flops=257),
    "conv2d": _Op(run=_convolve, op="aten.convolution", dtypes=("float32", "bfloat16"), operands=(
        ((2, 8, 13, 13), (16, 8, 3, 3)), ((8, 64, 29, 29), (64, 64, 3, 3))),
        results=((2, 16, 13, 13), (8, 64, 29, 29)), flops=2 * 8 * 9),
}
MM = (((128, 256), (256, 192)), ((512, 1024), (1024, 768)))
MM_RESULTS = ((128, 192), (512, 768))


def _make(kind: str, dtype: str, name: str, random: np.random.Generator, place: Place) -> Made:
    which = place.kind == GPU
    shapes = MM[which] if name == "mm" else OPS[name].operands[which]
    run = multiply(dtype) if name == "mm" else OPS[name].run
    inputs = [KINDS[kind](random, shape, dtype) for shape in shapes]
    tensors = [placed(bits, dtype, place.device) for bits in inputs]
    result = MM_RESULTS[which] if name == "mm" else OPS[name].results[which]
    num_results = int(np.prod(result))
    each = 2 * shapes[0][1] if name == "mm" else OPS[name].flops
    return Made(
        run=lambda: (run(*tensors),), expected=None, inputs=inputs, flops=num_results * each,
        num_bytes=sum(b.nbytes for b in inputs) + num_results * inputs[0].itemsize)


def cases(place: Place) -> Sequence[Case]:
    """Products of every kind of data in every dtype; other operators in dtypes in turn."""
    return tuple(_cases(place))


def _cases(place: Place) -> Iterator[Case]:
    which = place.kind == GPU
    for turn, kind in enumerate(KINDS):
        for dtype in DTYPES:
            yield Case(label=f"mm {kind} {dtype}", op="aten.mm", dtype=dtype,
                       shape=MM_RESULTS[which], make=partial(_make, kind, dtype, "mm"))
        for number, (name, op) in enumerate(OPS.items()):
            dtype = op.dtypes[(turn + number) % len(op.dtypes)]
            yield Case(label=f"{name} {kind} {dtype}", op=op.op, dtype=dtype,
                       shape=op.results[which], make=partial(_make, kind, dtype, name))


TESTS = (SweepTest(
    name="high_entropy_repeat", family="F3", oracles=(Oracle.SELF, Oracle.PEER),
    kinds=(CORE, GPU), blames="core or GPU", dtypes=DTYPES, dwell_s=4.0,
    proves="Operators on random, wide, subnormal, sparse and patterned data gave the same bits "
    "each time, and the same as the other units.",
    cannot_prove="A unit that is always wrong is seen by its peers alone: with no peer, or with "
    "all of them wrong alike, a pass proves nothing about it.",
    cases=cases),)
