"""``linalg_cross``: ``a_1 b_2 - a_2 b_1`` and its two rotations, elementwise along a dimension.

Two products and a difference, in the format of the result, with or without fused multiply-add:
``gamma_3 (|a_1 b_2| + |a_2 b_1|)`` and two underflows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.gamma import gamma, own_rounding
from sdc_guard.calls import BoundCall
from sdc_guard.formats import is_covered_float
from sdc_guard.ops._axes import FIXED, Axes, broadcast_axes
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values
from sdc_guard.ops._symmetry import RERUN, Symmetry, negate, roll, split

aten = torch.ops.aten


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    axes = broadcast_axes(call, held)
    along = f"d{call['dim'] % held[0].dim()}"

    def fixed(labels: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(FIXED if x == along else x for x in labels)

    return Axes({path: fixed(labels) for path, labels in axes.operands.items()},
                tuple(fixed(labels) for labels in axes.outputs))


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    labels = _axes(call, held).outputs[0]
    sizes = {x: int(held[0].shape[d]) for d, x in enumerate(labels) if x != FIXED}
    longest = max(sizes, key=lambda x: sizes[x], default="")
    moves = (split(longest), roll(longest)) if longest and sizes[longest] > 1 else ()
    signed = (negate("self"), negate("other")) if held[0].is_floating_point() else ()
    return (*moves, *signed) or (RERUN,)


def _samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype not in (*FLOATS, torch.int64):
        return []
    draw = draw_values(generator, dtype, "any")
    a, b = draw(37, 3), draw(37, 3)
    op = aten.linalg_cross
    return [(op.default, (a, b), {}), (op.default, (draw(3, 37).t(), b), {}),
            (op.default, (draw(3, 37), draw(3, 1)), {"dim": 0}),
            (op.default, (draw(5, 3, 14)[:, :, ::2], draw(5, 3, 7)), {"dim": 1}),
            (op.out, (a, b), {"out": draw(37, 3)})]


@checked(aten.linalg_cross, family="pointwise", axes=_axes, symmetries=_symmetries,
         window=("d0", "d1", "d2"), samples=_samples)
def linalg_cross(call: HostCall) -> tuple[Reference | None, ...]:
    """The vector product along a dimension of size 3."""
    held = call.held[0]
    if any(call[n].dtype is not held.dtype for n in ("self", "other")):
        return (None,)
    if not bits.has_values(held.dtype) or held.dtype is torch.bool:
        return (None,)
    dim = call["dim"] % held.dim()
    a, b = (np.moveaxis(np.broadcast_to(call.array(n), tuple(held.shape)), dim, 0)
            for n in ("self", "other"))
    with np.errstate(all="ignore"):
        first = np.stack([a[1] * b[2], a[2] * b[0], a[0] * b[1]], dim)
        second = np.stack([a[2] * b[1], a[0] * b[2], a[1] * b[0]], dim)
        expected = first - second
        if not is_covered_float(held.dtype):
            return (Reference(expected, 0.0, 0.0, "exact"),)
        out = call.out_format()
        size = np.abs(first) + np.abs(second)
        limit = gamma(3, out.u) * size + 2 * out.eta + own_rounding(3, size)
    return (Reference(expected, limit, limit, "gamma_3 (|a_1 b_2| + |a_2 b_1|)", size),)
