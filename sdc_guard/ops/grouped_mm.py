"""Products of groups (``_grouped_mm``), as a mixture of experts makes them.

Operands of three dimensions hold one matrix for each group; one of two dimensions holds all of
them, one behind the other, and group g ends before ``offs[g]``:

    (M, K) x (G, K, N): rows of the left one;    out (M, N)
    (G, M, K) x (K, N): columns of the right one; out (M, N)
    (M, K) x (K, N): the inner dimension;        out (G, M, N)
    (G, M, K) x (G, K, N): no offsets;           out (G, M, N)

Each group is a product with the bound of :mod:`sdc_guard.ops._products`.  Rows or columns behind
the last offset are memory that the kernel does not write (seen in torch 2.13): they are not judged,
and a call that has any is not repeated.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds import products
from sdc_guard.calls import BoundCall
from sdc_guard.formats import is_covered_float
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._products import Call, factor, product_reference
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._symmetry import Move, Symmetry

aten = torch.ops.aten

Part = tuple[tuple[slice, ...], tuple[slice, ...], tuple[slice, ...]]


def _ends(call: BoundCall) -> list[int]:
    return [int(end) for end in bits.values(bits.on_host(call["offs"]))]


def _grouped_size(call: BoundCall) -> int:
    """Length of the dimension that the offsets divide; -1 where there are none."""
    a, b = call["self"], call["mat2"]
    if a.dim() == 3 and b.dim() == 3:
        return -1
    return int(b.shape[1] if a.dim() == 3 else a.shape[0] if b.dim() == 3 else a.shape[1])


def _is_filled(call: BoundCall) -> bool:
    """True if every element of the result is written."""
    size = _grouped_size(call)
    inner = call["self"].dim() == 2 and call["mat2"].dim() == 2
    return size < 0 or inner or _ends(call)[-1:] == [size]


def parts(call: BoundCall) -> Iterator[Part]:
    """For each group, which part of the left factor, of the right one and of the result it is."""
    a, b = call["self"], call["mat2"]
    every = slice(None)
    if a.dim() == 3 and b.dim() == 3:
        yield (every,), (every,), (every,)
        return
    start = 0
    for g, end in enumerate(_ends(call)):
        here, group = slice(start, end), slice(g, g + 1)
        if b.dim() == 3:
            yield (here,), (group,), (here,)
        elif a.dim() == 3:
            yield (group,), (every, here), (every, here)
        else:
            yield (every, here), (here,), (group,)
        start = end


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    named = {path: (FIXED,) * t.dim() for path, t in call.tensors()}
    return Axes(named, ((FIXED,) * held[0].dim(),))


def _repeated(call: BoundCall, visit: int) -> tuple[Tensor | None, ...]:
    if not _is_filled(call):
        return (None,)
    images = {name: bits.snapshot(call[name]) for name in ("self", "mat2")}
    return call.replaced(**images).run()


REPEATED = Symmetry("repeat on images", (Move("custom", function=_repeated),),
                    frozenset({"address"}), True)


def _flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """2 m n k over all groups, as if they were of one size."""
    a, b = call["self"], call["mat2"]
    if a.dim() == 2 and b.dim() == 2:
        return 2 * int(a.shape[0] * a.shape[1] * b.shape[1])
    return 2 * held[0].numel() * int(a.shape[-1])


def samples(generator: torch.Generator, dtype: torch.dtype) -> list[Call]:
    """Groups of several sizes, one of them empty; strides are multiples of 16 bytes."""
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return []
    op = aten._grouped_mm.default
    offs = torch.tensor([8, 8, 24, 32], dtype=torch.int32)
    stack, other = (factor(generator, dtype, 4, 16, 24) for _ in range(2))
    return [
        (op, (factor(generator, dtype, 32, 16), stack, offs), {}),
        (op, (factor(generator, dtype, 40, 16), stack, offs), {}),
        (op, (stack, factor(generator, dtype, 24, 32), offs), {}),
        (op, (factor(generator, dtype, 16, 32), factor(generator, dtype, 32, 24), offs), {}),
        (op, (stack, other.transpose(1, 2)), {}),
    ]


@checked(aten._grouped_mm, family="product", axes=_axes, symmetries=(REPEATED,), flops=_flops,
         samples=samples)
def grouped_mm(call: HostCall) -> tuple[Reference | None, ...]:
    """|C - AB| <= gamma_k |A||B| + rounding(C) in every group, any order."""
    held = call.held[0]
    if not is_covered_float(held.dtype) or call.get("bias") is not None:
        return (None,)
    shape = tuple(held.shape)
    expected, size = np.zeros(shape), np.zeros(shape)
    bound = np.full(shape, np.inf)
    a, b = call.array("self"), call.array("mat2")
    out = call.out_format()
    for left, right, where in parts(call.call):
        value, error, abs_product = product_reference(call, a[left], b[right])
        limit = products.product_bound(value, error, out) + out.tiny
        target = expected[where].shape
        expected[where] = value.reshape(target)
        size[where], bound[where] = abs_product.reshape(target), limit.reshape(target)
    return (Reference(expected, bound, bound, products.FORMULA, size),)
