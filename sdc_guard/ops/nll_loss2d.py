"""Negative log-likelihood of images: classes along dimension 1, a target per pixel.

The sums are those of :mod:`sdc_guard.ops.nll_loss` over all pixels (the same cascade of eight
levels in ``aten/src/ATen/native/LossNLL2d.cpp``), the gradient is ``-w g`` or ``-w g / total`` at
each pixel's target and exactly 0 elsewhere.  Place: rotating the classes keeps every bit of all
results, images split where nothing is summed, a negated operand or gradient negates.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.formats import is_covered_float
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._indexing import fixed
from sdc_guard.ops._kernel_losses import backward_kernel, forward_kernel
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values
from sdc_guard.ops._symmetry import Symmetry, negate, split
from sdc_guard.ops.nll_loss import (
    FORMULAS,
    GRADIENT_FORMULA,
    NONE,
    Array,
    cascade_depth,
    class_symmetries,
    gradient_terms,
    loss_references,
)

aten = torch.ops.aten

IMAGE = ("n", FIXED, FIXED, FIXED)
PIXELS = ("n", FIXED, FIXED)


def _loss_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    named = fixed(call)
    if call["reduction"] != NONE:
        return Axes(named, ((), ()))
    return Axes(named | {(0,): IMAGE, (1,): PIXELS}, (PIXELS, ()))


def _gradient_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    named = fixed(call) | {(1,): IMAGE, (2,): PIXELS}
    if call["grad_output"].dim():
        named[0,] = PIXELS
    return Axes(named, (IMAGE,))


LOSS_ROTATED, LOSS_NEGATED, GRADIENT_ROTATED = class_symmetries(1)


def _gradient_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    found = (split("n"),) if call["self"].shape[0] > 1 else ()
    return (*found, GRADIENT_ROTATED, negate("grad_output"))


def _loss_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype not in FLOATS:
        return []
    draw, share = draw_values(generator, dtype, "any"), draw_values(generator, dtype, "share")
    target = torch.randint(0, 5, (3, 7, 9), generator=generator)
    op = aten.nll_loss2d_forward
    calls: SampleList = []
    for reduction in (0, 1, 2):
        calls += [
            (op.default, (draw(3, 5, 7, 9), target, share(5), reduction, 4), {}),
            (op.default, (draw(3, 7, 9, 5).permute(0, 3, 1, 2), target, None, reduction, -100), {}),
        ]
    return calls


def _gradient_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    draw = draw_values(generator, dtype, "any")
    calls: SampleList = []
    for _, args, _ in _loss_samples(generator, dtype):
        args = (args[0].contiguous(), *args[1:])  # the kernel takes no other
        result, total = aten.nll_loss2d_forward(*args)
        calls.append((aten.nll_loss2d_backward.default, (draw(*result.shape), *args, total), {}))
    return calls


def _gathered(call: HostCall) -> tuple[Array, Array, Array]:
    """``x``, the class weight, and which pixels count, each of the target's shape."""
    x, target = call.array("self"), call.array("target")
    kept = target != call["ignore_index"]
    index = np.where(kept, target, 0)
    weight = np.ones(x.shape[1]) if call["weight"] is None else call.array("weight")
    chosen = np.take_along_axis(x, index[:, None], 1)[:, 0]
    return np.where(kept, chosen, 0.0), np.where(kept, weight[index], 0.0), kept


@checked(aten.nll_loss2d_forward, family="loss", axes=_loss_axes,
         symmetries=(LOSS_ROTATED, LOSS_NEGATED), reduction=True,
         kernel=forward_kernel(FORMULAS, cascade_depth), samples=_loss_samples)
def nll_loss2d_forward(call: HostCall) -> tuple[Reference | None, ...]:
    """``-w x`` per pixel, or their sum, or that over the sum of weights; and the sum of weights."""
    if not is_covered_float(call.held[0].dtype):
        return None, None
    return loss_references(call, _gathered(call), True)


@checked(aten.nll_loss2d_backward, family="loss", axes=_gradient_axes,
         symmetries=_gradient_symmetries, window=("n",),
         kernel=backward_kernel(GRADIENT_FORMULA), samples=_gradient_samples)
def nll_loss2d_backward(call: HostCall) -> tuple[Reference | None, ...]:
    """``-w g`` or ``-w g / total`` at the targets, exactly 0 elsewhere."""
    if not is_covered_float(call.held[0].dtype):
        return (None,)
    _, weight, kept = _gathered(call)
    gradient = np.broadcast_to(call.array("grad_output"), weight.shape)
    value, error = gradient_terms(call, weight, kept, gradient)
    shape = tuple(call.held[0].shape)
    expected, limit = np.zeros(shape), np.zeros(shape)
    target = np.where(kept, bits.values(call["target"]), 0)[:, None]
    np.put_along_axis(expected, target, value[:, None], 1)
    np.put_along_axis(limit, target, error[:, None], 1)
    return (Reference(expected, limit, limit, GRADIENT_FORMULA, np.abs(expected)),)
