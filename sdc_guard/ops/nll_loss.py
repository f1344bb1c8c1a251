"""Negative log-likelihood: a gather, a product with the class weight, a sum; and its backward.

Forward (``aten/src/ATen/native/LossNLL.cpp``): the terms ``-w x`` and the weights are added in
eight cascaded levels of ``2^p`` terms, ``p = max(4, ceil(log2 N) / 8)``, in the format of the
operand, half formats included.  Depth ``h = 2^p ceil(log N / log 2^p) + 8``, at most N.  Contract:
``(h + 1) u sum|w x|`` and for the mean the error of the total weight and a division; the proof has
N for h.  CUDA adds half formats in fp32, which is closer.  Without weights the total weight is a
count.

Backward: ``-w g`` or ``-w g / total`` at the target of each row, at most 4 roundings in the
operand's format, and exactly 0 elsewhere.

Place: rotating the classes (columns, targets, weights, ``ignore_index``) keeps every bit of both
results, rows split where the result has rows, and negation of the operand or the gradient negates
(seen in 4 formats, 1 and 2 threads).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.gamma import own_rounding, rounding
from sdc_guard.calls import BoundCall
from sdc_guard.formats import is_covered_float
from sdc_guard.ops._axes import FIXED, Axes, Labels
from sdc_guard.ops._kernel_losses import backward_kernel, forward_kernel
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values
from sdc_guard.ops._symmetry import Move, Symmetry, negate, split

aten = torch.ops.aten
Array = NDArray[Any]

NONE, MEAN = 0, 1
NUM_LEVELS = 8
FORMULAS = ("rounding of w x", "(h + 1) u sum|w x|", "h u sum w")
GRADIENT_FORMULA = "4 roundings of w g / total"


def cascade_depth(n: int) -> int:
    """Additions on the longest path of the kernel's sum of n terms."""
    if n < 2:
        return 0
    step = 1 << max(4, -(-math.ceil(math.log2(n)) // NUM_LEVELS))
    return min(n - 1, step * math.ceil(math.log(n) / math.log(step)) + NUM_LEVELS)


def _row(call: BoundCall) -> Labels:
    return ("n", FIXED) if call["self"].dim() == 2 else (FIXED,)


def _loss_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    row = _row(call)
    per_row = row[:-1] if call["reduction"] == NONE else ()
    fixed = {path: (FIXED,) * t.dim() for path, t in call.tensors()}
    if call["reduction"] == NONE:
        fixed |= {(0,): row, (1,): row[:-1]}
    return Axes(fixed, (per_row[: held[0].dim()], ()))


def _gradient_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    row = _row(call)
    named = {path: (FIXED,) * t.dim() for path, t in call.tensors()}
    named |= {(1,): row, (2,): row[:-1]}
    if call["grad_output"].dim():
        named[0,] = ("n",)
    if call.get("grad_input") is not None and call["grad_input"].dim() == len(row):
        named[call.form.position("grad_input"),] = row
    return Axes(named, (row,))


def _rotated(call: BoundCall, visit: int, dim: int) -> tuple[BoundCall, int]:
    """The call with every class moved by s, modulo their number, and s; the classes stand along
    ``dim`` of the operand."""
    x, target, ignored = call["self"], call["target"], int(call["ignore_index"])
    classes = x.shape[dim]
    shift = 1 + visit % max(classes - 1, 1)
    moved = (target + shift) % classes
    changed: dict[str, Any] = {"self": x.roll(shift, dim)}
    if 0 <= ignored < classes:
        changed["ignore_index"] = (ignored + shift) % classes
    else:
        moved = torch.where(target == ignored, target, moved)
    if call["weight"] is not None:
        changed["weight"] = call["weight"].roll(shift, 0)
    return call.replaced(target=moved, **changed), shift


def class_symmetries(dim: int) -> tuple[Symmetry, Symmetry, Symmetry]:
    """Rotated classes of the loss, its negation, and rotated classes of the gradient."""

    def loss_rotated(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
        return _rotated(call, visit, dim)[0].run()

    def gradient_rotated(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
        moved, shift = _rotated(call, visit, dim)
        return (moved.run()[0].roll(-shift, dim),)

    places = frozenset({"address", "lane", "tile"})
    return (
        Symmetry("rotate classes", (Move("custom", function=loss_rotated),), places, True),
        Symmetry("negate self, rotate classes",
                 (Move("negate", operands=("self",), outputs=(0,)),
                  Move("custom", outputs=(1,), function=loss_rotated)),
                 frozenset({"address", "bits"}), True),
        Symmetry("rotate classes", (Move("custom", function=gradient_rotated),), places, True),
    )


LOSS_ROTATED, LOSS_NEGATED, GRADIENT_ROTATED = class_symmetries(-1)


def _loss_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    return (LOSS_ROTATED, LOSS_NEGATED)


def _gradient_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    rows = call["self"].shape[0] if call["self"].dim() == 2 else 1
    found = (split("n"),) if rows > 1 else ()
    return (*found, GRADIENT_ROTATED, negate("grad_output"))


def _loss_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype not in FLOATS:
        return []
    draw, share = draw_values(generator, dtype, "any"), draw_values(generator, dtype, "share")
    target = torch.randint(0, 13, (41,), generator=generator)
    op = aten.nll_loss_forward
    calls: SampleList = []
    for reduction in (0, 1, 2):
        calls += [
            (op.default, (draw(41, 13), target, share(13), reduction, 4), {}),
            (op.default, (draw(13, 41).t(), target, None, reduction, -100), {}),
            (op.default, (draw(13), target[0], share(13), reduction, -100), {}),
        ]
    calls.append((op.default, (draw(700, 13), target.repeat(18)[:700], share(13), 1, -100), {}))
    calls.append((op.output, (draw(41, 13), target, None, 1, -100),
                  {"output": draw(), "total_weight": draw()}))
    return calls


def _gradient_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    op = aten.nll_loss_backward
    calls: SampleList = []
    for _, args, _ in _loss_samples(generator, dtype):
        result, total = aten.nll_loss_forward(*args)
        draw = draw_values(generator, dtype, "any")
        calls.append((op.default, (draw(*result.shape), *args, total), {}))
    if calls:
        args = calls[0][1]
        calls.append((op.grad_input, args, {"grad_input": torch.zeros_like(args[1])}))
    return calls


def _gathered(call: HostCall) -> tuple[Array, Array, Array]:
    """``x[n, t_n]``, ``w[t_n]`` and which rows count, each [N]; ignored rows are 0."""
    x = call.array("self")
    target = np.atleast_1d(call.array("target"))
    kept = target != call["ignore_index"]
    index = np.where(kept, target, 0)
    rows = x.reshape(target.size, -1)
    weight = np.ones(rows.shape[1]) if call["weight"] is None else call.array("weight")
    chosen = rows[np.arange(target.size), index]
    return np.where(kept, chosen, 0.0), np.where(kept, weight[index], 0.0), kept


@checked(aten.nll_loss_forward, family="loss", axes=_loss_axes, symmetries=_loss_symmetries,
         reduction=True, kernel=forward_kernel(FORMULAS, cascade_depth), samples=_loss_samples)
def nll_loss_forward(call: HostCall) -> tuple[Reference | None, ...]:
    """``-w x`` per row, or their sum, or that over the sum of weights; and the sum of weights."""
    if not is_covered_float(call.held[0].dtype):
        return (None, None)
    return loss_references(call, _gathered(call), call["self"].dim() == 2)


def loss_references(call: HostCall, gathered: tuple[Array, Array, Array], per_term: bool
                    ) -> tuple[Reference, Reference | None]:
    """The loss, and the sum of weights, from what was gathered; ``per_term``: without a reduction
    nothing is summed."""
    chosen, weight, kept = gathered
    out = call.out_format()
    terms = -chosen * weight
    if call["reduction"] == NONE and per_term:
        limit = np.where(kept, rounding(terms, out) + own_rounding(2, terms), 0.0)
        limit = np.where(weight == 1.0, 0.0, limit)
        # Nothing is summed: the CPU kernel stores zero, CUDA's leaves the memory as it is.
        on_cpu = call.held[0].device.type == "cpu"
        unused = Reference(np.zeros(()), 0.0, 0.0, "0: nothing is summed") if on_cpu else None
        return Reference(terms, limit, limit, FORMULAS[0], np.abs(terms)), unused
    errors = [_sum_errors(call, terms, weight, h)
              for h in (max(terms.size - 1, 0), cascade_depth(terms.size))]
    loss, total = terms.sum(), weight.sum()
    size, formula = np.abs(terms).sum(), FORMULAS[1]
    second = Reference(np.asarray(total), errors[0][1], errors[1][1], FORMULAS[2],
                       np.abs(weight).sum())
    if call["reduction"] != MEAN:
        return Reference(np.asarray(loss), errors[0][0], errors[1][0], formula, size), second
    proof, contract = (_quotient_error(loss, e, total, t, out.u, out.eta) for e, t in errors)
    # The sum of weights is stored too, and infinite beyond the format's range.
    reach = np.maximum(size, np.abs(weight).sum())
    return (Reference(np.asarray(loss / total), proof, contract, formula + ", division", reach),
            second)


def gradient_terms(call: HostCall, weight: Array, kept: Array, gradient: Array
                   ) -> tuple[Array, Array]:
    """``-w g`` or ``-w g / total`` at the targets, 0 where ignored, and the error.

    The kernels take the quotient first: what it loses below the smallest number is multiplied by w,
    and one beyond the largest number decides nothing."""
    quotient = gradient
    if call["reduction"] == MEAN:
        quotient = gradient / call.array("total_weight")
    value = np.where(kept, -weight * quotient, 0.0)
    out = call.out_format()
    error = 4 * (1 + 4 * out.u) * rounding(value, out) + own_rounding(4, value)
    error = np.where(np.abs(quotient) * (1 + 2 * out.u) > out.max, np.inf,
                     error + np.abs(weight) * out.eta)
    return value, np.where(kept, error, 0.0)


def _sum_errors(call: HostCall, terms: Array, weight: Array, h: int) -> tuple[Array, Array]:
    """Errors of the sum of the terms and of the weights with h additions on the longest path."""
    out, n = call.out_format(), terms.size
    size, weights = np.abs(terms).sum(), np.abs(weight).sum()
    loss = (h + 1) * out.u * size + n * out.eta + own_rounding(n + 1, size)
    if call["weight"] is None:
        return np.asarray(loss), rounding(weights, out) * (weights > 1 / out.u)
    return np.asarray(loss), np.asarray(h * out.u * weights + own_rounding(n, weights))


def _quotient_error(a: float, error_a: Array, b: float, error_b: Array, u: float,
                    eta: float) -> Array:
    """Error of ``a / b`` for operands within their errors, and one rounding; infinite where b may
    vanish."""
    if not error_b < 0.5 * abs(b):
        return np.asarray(np.inf)
    mean = abs(a / b)
    error = (error_a + mean * error_b) / (abs(b) - error_b)
    return np.asarray((error + (mean + error) * u + eta) * (1 + 2.0**-50))


@checked(aten.nll_loss_backward, family="loss", axes=_gradient_axes,
         symmetries=_gradient_symmetries, window=("n",),
         kernel=backward_kernel(GRADIENT_FORMULA), samples=_gradient_samples)
def nll_loss_backward(call: HostCall) -> tuple[Reference | None, ...]:
    """``-w g`` or ``-w g / total`` at the targets, exactly 0 elsewhere."""
    if not is_covered_float(call.held[0].dtype):
        return (None,)
    _, weight, kept = _gathered(call)
    gradient = np.broadcast_to(call.array("grad_output").ravel(), weight.shape)
    value, error = gradient_terms(call, weight, kept, gradient)
    shape = tuple(call.held[0].shape)
    expected, limit = np.zeros((weight.size, shape[-1])), np.zeros((weight.size, shape[-1]))
    target = np.where(kept, np.atleast_1d(bits.values(call["target"])), 0)
    rows = np.arange(weight.size)
    expected[rows, target], limit[rows, target] = value, error
    limit = limit.reshape(shape)
    return (Reference(expected.reshape(shape), limit, limit, GRADIENT_FORMULA,
                      np.abs(expected.reshape(shape))),)
