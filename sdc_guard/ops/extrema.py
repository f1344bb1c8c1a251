"""``amax`` and ``amin``: the largest and smallest element, exact, in any order.

Place: because the order does not matter, rolling the operand along any dimension keeps every bit,
reduced dimensions (the same result) and kept ones (the rolled result) alike; rows split.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.ops._axes import FIXED
from sdc_guard.ops._kernel_vector_norms import EXACT, extreme_check, run_of
from sdc_guard.ops._kernels import KernelRun
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values
from sdc_guard.ops._symmetry import Move, Symmetry, roll, split
from sdc_guard.ops.norm import norm_axes, reduced

aten = torch.ops.aten


def _rolled(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    """The operand rolled along its longest reduced dimension, in its own layout."""
    x = call["self"]
    dim = max(reduced(call), key=lambda d: x.shape[d])
    shift = 1 + visit % (x.shape[dim] - 1)
    image = bits.empty_image(x)
    rest = x.shape[dim] - shift
    image.narrow(dim, 0, rest).copy_(x.narrow(dim, shift, rest))
    image.narrow(dim, rest, shift).copy_(x.narrow(dim, 0, shift))
    return call.mapped(lambda path, t: image if path[0] == 0 else t).run()


ROLLED = Symmetry("roll the reduced dimension", (Move("custom", function=_rolled),),
                  frozenset({"address", "core", "tile", "lane"}), True)


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    found = []
    output = norm_axes(call, held).outputs[0]
    sizes = {x: int(held[0].shape[d]) for d, x in enumerate(output) if x != FIXED}
    longest = max(sizes, key=lambda x: sizes[x], default="")
    if longest and sizes[longest] > 1:
        found += [split(longest), roll(longest, lane=True)]
    x = call["self"]
    if 0 not in x.stride() and any(x.shape[d] > 1 for d in reduced(call)):
        found.append(ROLLED)
    return tuple(found)


def _samples(op: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in (*FLOATS, torch.int64):
            return []
        draw = draw_values(generator, dtype, "mixed")
        return [
            (op.default, (draw(9, 37), [-1], True), {}),
            (op.default, (draw(37, 9).t(), [0]), {}),
            (op.default, (draw(3, 5, 7), [0, 2]), {}),
            (op.default, (draw(8, 70)[1:7, 3:67],), {}),
            (op.out, (draw(9, 37), [1]), {"out": draw(9)}),
        ]

    return samples


def _kernel(call: BoundCall, held: tuple[Tensor, ...], *, kind: str) -> KernelRun | None:
    return run_of(extreme_check(call["self"], held[0], reduced(call), kind), EXACT)


@checked(aten.amax, family="reduction", axes=norm_axes, symmetries=_symmetries, reduction=True,
         window=("d0", "d1", "d2", "d3"), samples=_samples(aten.amax),
         kernel=partial(_kernel, kind="max"))
def amax(call: HostCall) -> tuple[Reference | None, ...]:
    """The largest element over dimensions, NaN if one is."""
    return _extreme(call, np.max)


@checked(aten.amin, family="reduction", axes=norm_axes, symmetries=_symmetries, reduction=True,
         window=("d0", "d1", "d2", "d3"), samples=_samples(aten.amin),
         kernel=partial(_kernel, kind="min"))
def amin(call: HostCall) -> tuple[Reference | None, ...]:
    """The smallest element over dimensions, NaN if one is."""
    return _extreme(call, np.min)


def _extreme(call: HostCall, function: Any) -> tuple[Reference | None, ...]:
    x = call.array("self")
    keepdims = call.held[0].dim() == x.ndim and bool(x.ndim)
    value = np.asarray(function(x, axis=reduced(call.call), keepdims=keepdims))
    return (Reference(value, 0.0, 0.0, "exact", keeps_infinities=True),)
