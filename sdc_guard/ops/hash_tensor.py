"""``hash_tensor``: the exclusive or of the bits of elements, which are widened to 64 bits first
(floating numbers to fp64).  Exact, whatever the order."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import SampleList, draw_values
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry

aten = torch.ops.aten


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    return Axes({path: (FIXED,) * t.dim() for path, t in call.tensors()},
                ((FIXED,) * held[0].dim(),))


def _flipped(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    """All elements in the opposite order."""
    x = call["self"]
    got = call.replaced(self=x.flip(tuple(range(x.dim())))).run()[0]
    signed = got.view(torch.int64)  # no kernel flips unsigned numbers
    return (signed.flip(tuple(range(got.dim()))).view(got.dtype),)


_FLIPPED = Symmetry("flip", (Move("custom", function=_flipped),),
                    frozenset({"address", "core", "tile", "lane"}), True)


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    return (_FLIPPED, RERUN)


def _samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    draw, op = draw_values(generator, dtype, "mixed"), aten.hash_tensor.default
    return [(op, (x, dims), {}) for x in (draw(9, 37), draw(37, 9).t(), draw(5, 70)[:, ::2])
            for dims in ([], [0], [-1])]


@checked(aten.hash_tensor, family="reduction", axes=_axes, symmetries=_symmetries,
         flops=lambda call, held: call["self"].numel(), samples=_samples)
def hash_tensor(call: HostCall) -> tuple[Reference | None, ...]:
    """Exclusive or of 64-bit patterns."""
    if not bits.has_values(call["self"].dtype) or call["mode"]:
        return (None,)
    x = call.array("self")
    wide = x.view(np.uint64) if x.dtype.kind == "f" else (
        x.astype(np.int64) if x.dtype.kind in "ib" else x).astype(np.uint64)
    if np.isnan(x.astype(np.float64)).any():
        return (None,)  # whose payload a conversion may change
    over = tuple(d % max(x.ndim, 1) for d in call["dim"]) or tuple(range(x.ndim))
    found = wide
    for d in sorted(over, reverse=True) if x.ndim else ():
        found = np.bitwise_xor.reduce(found, axis=d, keepdims=True)
    return (Reference(found.reshape(tuple(call.held[0].shape)), 0.0, 0.0, "exact"),)
