"""``multi_margin_loss``, ``multilabel_margin_loss`` and their backwards.

A row with classes x_j and target y has the terms ``w_y max(0, m - x_y + x_j)^p`` for ``j != y``, or
``max(0, 1 - x_y + x_j)`` for every target y and class j that is none; the sum is divided by the
number of classes, for a mean by that of rows.  Bounds: each term errs by two roundings of ``m +
|x_y| + |x_j|`` (to the power p, with factor ``p max^(p-1)``), N terms are added in order in the
operand's format, half formats included:

    |computed - exact| <= sum e_j + N u sum|t_j| + the divisions.

Backward: the terms' slopes are counts, or ``2 (m - x_y + x_j)`` for p = 2, times ``g w / C`` (by
n); a term within its error of 0 may count or not.

Place: only repeats and other addresses, as every order of classes is another sum.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT64, Format, is_covered_float
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._indexing import fixed
from sdc_guard.ops._losses import MEAN, NONE
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values
from sdc_guard.ops._symmetry import RERUN, Symmetry, split

aten = torch.ops.aten
Array = NDArray[Any]


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    """Rows where nothing is summed over them."""
    named = fixed(call)
    x, backward = call["self"], "grad_output" in call.form.argument_names
    per_row = call["reduction"] == NONE or (backward and call["reduction"] != MEAN)
    rows = x.dim() == 2 and per_row
    labels: list[tuple[str, ...]] = [
        ("n", FIXED)[: t.dim()] if rows and t.dim() and t.shape[0] == x.shape[0]
        else (FIXED,) * t.dim() for t in held]
    if rows:
        for path, t in call.tensors():
            name = call.form.argument_names[path[0]]
            if name != "weight" and t.dim():
                named[path] = ("n", FIXED)[: t.dim()]
    return Axes(named, tuple(labels))


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    axes = _axes(call, held)
    covered = all("n" in labels for labels in axes.outputs)
    return (split("n"), RERUN) if covered and held[0].shape[0] > 1 else (RERUN,)


def _margins(call: HostCall) -> tuple[Array, Array, Array, Array, float]:
    """Rows [N, C], targets [N, K], margins ``m - x_y + x_j`` [N, K, C], weights [N, K, C] (0 for
    pairs that do not count) and m."""
    x = np.atleast_2d(call.array("self"))
    target = call.array("target")
    single = call.call.form.packet.startswith("aten.multi_margin")
    target = target.reshape(x.shape[0], 1) if single else np.atleast_2d(target)
    rows = np.arange(x.shape[0])[:, None]
    if single:
        margin = float(call["margin"])
        valid = np.ones(target.shape, dtype=bool)
        weight = np.ones(x.shape[1]) if call["weight"] is None else call.array("weight")
    else:
        margin, weight = 1.0, np.ones(x.shape[1])
        valid = np.cumprod(target >= 0, axis=1).astype(bool)
    index = np.where(valid, target, 0)
    is_target = np.zeros(x.shape, dtype=bool)
    np.logical_or.at(is_target, (np.broadcast_to(rows, index.shape)[valid], index[valid]), True)
    difference = margin - np.take_along_axis(x, index, 1)[:, :, None] + x[:, None, :]
    counts = np.where(valid[:, :, None] & ~is_target[:, None, :], weight[index][:, :, None], 0.0)
    return x, index, difference, counts, margin


def _limits(call: HostCall, x: Array, index: Array, margin: float, fmt: Format) -> Array:
    size = margin + np.abs(np.take_along_axis(x, index, 1))[:, :, None] + np.abs(x)[:, None, :]
    return np.asarray(3 * fmt.u * size)


def margin_loss(call: HostCall) -> tuple[Reference | None, ...]:
    """The margins that are broken, per row, their sum or their mean."""
    held = call.held[0]
    rest: tuple[Reference | None, ...] = ()
    if len(call.held) > 1:
        rest = (_is_target(call),)
    if not is_covered_float(held.dtype):
        return (None, *rest)
    x, index, difference, counts, margin = _margins(call)
    out, power = call.out_format(), int(call.get("p", 1))
    broken = np.maximum(difference, 0.0)
    per_term = _limits(call, x, index, margin, out)
    terms = counts * broken**power
    errors = np.abs(counts) * (per_term if power == 1 else per_term * (2 * broken + per_term))
    errors = np.where(difference > -per_term, errors + 4 * out.u * np.abs(terms), 0.0)
    share = x.shape[1] * (x.shape[0] if call["reduction"] == MEAN else 1)
    axes = (1, 2) if call["reduction"] == NONE else (0, 1, 2)
    total, error, size = (np.asarray(t.sum(axis=axes)) for t in (terms, errors, np.abs(terms)))
    n = np.count_nonzero(counts, axis=axes)
    error = error + (n + x.shape[0] + 4) * (out.u + FLOAT64.u) * (size + error) + n * out.eta
    expected, error = total / share, error / share * (1 + 8 * out.u) + 2 * out.eta
    shape = tuple(held.shape)
    return (Reference(expected.reshape(shape), error.reshape(shape), error.reshape(shape),
                      "N u sum|t| and 3u (m + |x_y| + |x_j|) per term",
                      np.broadcast_to((size + _reach(x, broken, power)) * x.shape[1],
                                      total.shape).reshape(shape)), *rest)


def _reach(x: Array, broken: Array, power: int) -> Array:
    """The largest input or power of a margin, which is there before a small weight is."""
    return np.asarray(np.maximum(np.abs(x).max(initial=0), broken.max(initial=0) ** power))


def _is_target(call: HostCall) -> Reference:
    """1 at every class that is a target of its row."""
    x, target = np.atleast_2d(call.array("self")), np.atleast_2d(call.array("target"))
    valid = np.cumprod(target >= 0, axis=1).astype(bool)
    marks = np.zeros(x.shape)
    rows = np.broadcast_to(np.arange(x.shape[0])[:, None], target.shape)
    marks[rows[valid], target[valid]] = 1.0
    return Reference(marks.reshape(tuple(call.held[1].shape)), 0.0, 0.0, "exact")


def margin_gradient(call: HostCall) -> tuple[Reference | None, ...]:
    """The slopes of the broken margins, times the gradient."""
    held = call.held[0]
    if not is_covered_float(held.dtype):
        return (None,)
    x, index, difference, counts, margin = _margins(call)
    out, power = call.out_format(), int(call.get("p", 1))
    per_term = _limits(call, x, index, margin, out)
    broken = np.maximum(difference, 0.0)
    slope = counts * ((difference > 0) if power == 1 else 2 * broken)
    slack = np.abs(counts) * ((np.abs(difference) <= per_term) if power == 1 else np.where(
        difference > -per_term, 2 * per_term, 0.0))
    share = x.shape[1] * (x.shape[0] if call["reduction"] == MEAN else 1)
    g = call.array("grad_output").reshape(-1, 1)
    expected = slope.sum(1) - _gathered(slope.sum(2), index, x.shape)
    error = slack.sum(1) + _gathered(slack.sum(2), index, x.shape)
    size = np.abs(slope).sum(1) + _gathered(np.abs(slope).sum(2), index, x.shape)
    n = np.count_nonzero(counts, axis=(1, 2))[:, None]
    factor = np.abs(g) / share
    limit = factor * (error + (n + 8) * (out.u + FLOAT64.u) * (size + error))
    limit = limit + (n + 8) * out.eta * (1 + np.abs(g)) * (1 + size)
    limit = np.where(size + error > 0, limit, 0.0)
    shape = tuple(held.shape)
    return (Reference((g * expected / share).reshape(shape), limit.reshape(shape),
                      limit.reshape(shape), "(N + 8) u of the slopes",
                      ((1 + np.abs(g)) * (1 + size + 2 * _reach(x, broken, 1))).reshape(shape)),)


def _gathered(values_NK: Array, index: Array, shape: tuple[int, ...]) -> Array:
    """Values of the targets, added up at their classes."""
    result = np.zeros(shape)
    rows = np.broadcast_to(np.arange(index.shape[0])[:, None], index.shape)
    np.add.at(result, (rows, index), values_NK)
    return result


def _single_samples(backward: bool) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in FLOATS[:2]:
            return []
        draw, share = draw_values(generator, dtype, "any"), draw_values(generator, dtype, "share")
        target = torch.randint(0, 13, (9,), generator=generator)
        op = aten.multi_margin_loss_backward if backward else aten.multi_margin_loss
        calls: SampleList = []
        for reduction in (0, 1, 2):
            for power, weight in ((1, None), (2, share(13))):
                g = (draw(9) if reduction == NONE else draw(),) if backward else ()
                calls.append((op.default, (*g, draw(13, 9).t(), target, power, 0.5, weight,
                                           reduction), {}))
        return calls

    return samples


def _multiple_samples(backward: bool) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in FLOATS[:2]:
            return []
        draw = draw_values(generator, dtype, "any")
        target = torch.stack([torch.randperm(13, generator=generator) for _ in range(9)])
        target[:, 3] = -1
        calls: SampleList = []
        for reduction in (0, 1, 2):
            x = draw(9, 13)
            result, marks = aten.multilabel_margin_loss_forward(x, target, reduction)
            if backward:
                calls.append((aten.multilabel_margin_loss_backward.default,
                              (draw(*result.shape), x, target, reduction, marks), {}))
            else:
                calls.append((aten.multilabel_margin_loss_forward.default,
                              (x, target, reduction), {}))
        return calls

    return samples


for _target, _reference, _samples, _first in (
    (aten.multi_margin_loss, margin_loss, _single_samples(False), True),
    (aten.multi_margin_loss_backward, margin_gradient, _single_samples(True), False),
    (aten.multilabel_margin_loss_forward, margin_loss, _multiple_samples(False), True),
    (aten.multilabel_margin_loss_backward, margin_gradient, _multiple_samples(True), False),
):
    checked(_target, family="loss", axes=_axes, symmetries=_symmetries, reduction=_first,
            samples=_samples)(_reference)
