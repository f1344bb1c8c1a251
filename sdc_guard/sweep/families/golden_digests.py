"""F4: digests of results recorded on other hardware, for exactly this software.

Operands are closed forms, the same for every seed, so that a digest belongs to a case and to what
is installed: ``sweep/golden.py`` holds what it is keyed by.  A digest for other software says
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sdc_guard.sweep.declared import (
    CORE,
    GPU,
    HOST,
    Bits,
    Case,
    Made,
    Oracle,
    Place,
    SweepTest,
)
from sdc_guard.sweep.exact import LAYOUTS, encode
from sdc_guard.sweep.placed import placed

NAME = "golden_digests"
FORM = 1
"""Of the operands; another form is another digest."""
DTYPES = ("float32", "bfloat16")
_ODD = np.uint64(0x9E3779B97F4A7C15)

Shape = tuple[int, ...]


def operand(shape: Shape, dtype: str, number: int) -> Bits:
    """Operand ``number``: drawn-looking mantissas of full length, and sizes of 2^-3 to 2, by
    integers alone."""
    index = np.arange(prod(shape), dtype=np.uint64) + np.uint64(number * 1_000_003 + 1)
    mixed = index * _ODD
    mixed = (mixed ^ (mixed >> np.uint64(29))) * _ODD
    digits = LAYOUTS[dtype].precision
    top = 1 << (digits - 1)
    mantissa = (mixed >> np.uint64(64 - digits)).astype(np.int64) | top
    is_negative = (mixed & np.uint64(1)) == 1
    exponent = (mixed >> np.uint64(1)).astype(np.int64) % 4 - digits - 2
    return encode(np.where(is_negative, -mantissa, mantissa), dtype, exponent).reshape(shape)


OPS: tuple[tuple[str, str, tuple[Shape, ...], Shape, Callable[..., Tensor]], ...] = (
    ("sum", "aten.sum", ((193, 1031),), (193,), lambda x: x.sum(1)),
    ("softmax", "aten._softmax", ((64, 517),), (64, 517), lambda x: x.softmax(1)),
    ("gelu", "aten.gelu", ((97, 331),), (97, 331), F.gelu),
    ("layer_norm", "aten.native_layer_norm", ((64, 517), (517,), (517,)), (64, 517),
     lambda x, weight, bias: F.layer_norm(x, (x.shape[1],), weight, bias)),
    ("mm", "aten.mm", ((129, 257), (257, 96)), (129, 96), torch.mm),
    ("conv2d", "aten.convolution", ((2, 16, 19, 23), (24, 16, 3, 3), (24,)), (2, 24, 19, 23),
     lambda x, weight, bias: F.conv2d(x, weight, bias, padding=1)),
    ("exp", "aten.exp", ((97, 331),), (97, 331), torch.exp),
    ("cumsum", "aten.cumsum", ((64, 517),), (64, 517), lambda x: x.cumsum(1)),
)


def _make(
    label: str, dtype: str, shapes: tuple[Shape, ...], call: Callable[..., Tensor],
    random: np.random.Generator, place: Place,
) -> Made:
    bits = [operand(shape, dtype, number) for number, shape in enumerate(shapes)]
    tensors = [placed(b, dtype, place.device) for b in bits]
    return Made(
        run=lambda: (call(*tensors),), expected=None, inputs=bits,
        num_bytes=sum(b.nbytes for b in bits), golden_key=f"{NAME}/{FORM} {label}")


def cases(place: Place) -> Sequence[Case]:
    """Every operator in both formats."""
    return tuple(
        Case(label=f"{name} {dtype} {'x'.join(map(str, shapes[0]))}", op=op, dtype=dtype,
             shape=shape, make=partial(
                 _make, f"{name} {dtype} {'x'.join(map(str, shapes[0]))}", dtype, shapes, call))
        for name, op, shapes, shape, call in OPS for dtype in DTYPES)


TESTS = (SweepTest(
    name=NAME, family="F4", oracles=(Oracle.GOLDEN, Oracle.PEER, Oracle.SELF),
    kinds=(CORE, GPU, HOST), blames="core or GPU", dtypes=DTYPES, dwell_s=1.0,
    proves="Common operators gave, where a digest is recorded for exactly this software and model "
    "of hardware, the bits that other hardware gave; elsewhere the same bits each time.",
    cannot_prove="Without a recorded digest it is a comparison with peers and with itself; a "
    "digest from a machine that was wrong in the same way proves nothing.",
    cases=cases),)
