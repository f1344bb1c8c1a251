"""Distances between rows: ``_cdist_forward``, ``_euclidean_dist``, ``_pdist_forward`` and the
gradients of the two direct forms.

*Direct.*  A difference is one rounding; M of them add up in any order.  2-norm: ``(M + 4) u / 2 +
2 u`` relative, and ``min(sqrt(M eta), M eta / norm)`` for squares that underflow; 1-norm: ``(M + 1)
u``; largest difference: ``u``; order 0 counts, exact.  Other orders go through ``pow`` and are left
to replay.

*By a product.*  ``sqrt(max(0, |a|^2 + |b|^2 - 2 a b))`` with the squares appended to the operands
(``aten/src/ATen/native/Distance.cpp``; ``_cdist_forward`` does so for more than 25 rows unless told
otherwise): the square errs by ``E = (gamma_{2 M + 8} + 2 u_in + u_in^2) T`` with ``T = |a|^2 +
|b|^2 + 2 |a| |b|``, however small it is, and the root by ``min(E / r, sqrt(E))``.

*Gradients.*  Order 2: ``sum_j g_j (a - b_j) / r_j``, three roundings a term, a term with ``r_j`` of
0 left out; order 1: ``sum_j g_j sign(a - b_j)``.  n terms, any order: ``gamma_{n + 4} sum|term|``.

Place: each distance is computed by itself where no product is used, so rows roll and split; signs
of both operands cancel; gradients change sign with the incoming gradient.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds import moments, products
from sdc_guard.bounds.gamma import gamma, own_rounding
from sdc_guard.calls import BoundCall, Path
from sdc_guard.formats import Format
from sdc_guard.ops._axes import FIXED, Axes, Labels
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import SampleList, draw_values
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry, negate, roll, split

aten = torch.ops.aten
JUDGED = (torch.float32, torch.float64)
PRODUCT_FROM = 25
"""Rows above which ``_cdist_forward`` multiplies matrices."""

WINDOW_FROM = 100_000
"""Operations from which a call may be a window of a longer one, whose rows we do not see."""

MOST_COORDINATES = 2**24
"""Coordinates of differences that a reference of all pairs holds in memory."""


def _by_product(call: BoundCall) -> bool:
    if call.form.packet == "aten._euclidean_dist":
        return True
    if call.form.packet != "aten._cdist_forward" or float(call["p"]) != 2:
        return False
    mode = call["compute_mode"] or 0
    rows = max(call["x1"].shape[-2], call["x2"].shape[-2])
    return mode == 1 or (mode == 0 and rows > PRODUCT_FROM)


def _may_be_by_product(call: BoundCall) -> bool:
    """True for few rows that may be part of many."""
    return (float(call["p"]) == 2 and (call["compute_mode"] or 0) == 0
            and _flops(call, ()) > WINDOW_FROM)


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    """Rows of the first operand, and of the second in the forward direction."""
    names = call.form.argument_names

    def labels(t: Tensor, *last: str) -> Labels:
        return (*(FIXED,) * (t.dim() - 2), *last)

    if "x1" not in names:
        return Axes({p: (FIXED,) * t.dim() for p, t in call.tensors()},
                    tuple((FIXED,) * t.dim() for t in held))
    position = call.form.position
    backward = "grad" in names
    second = FIXED if backward else "r"
    named: dict[Path, Labels] = {(position("x1"),): labels(call["x1"], "p", FIXED),
             (position("x2"),): labels(call["x2"], second, FIXED)}
    if backward:
        for name in ("grad", "cdist"):
            named[position(name),] = labels(call[name], "p", FIXED)
    return Axes(named, (labels(held[0], "p", FIXED if backward else "r"),))


def _both_negated(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    """The same distances."""
    return call.mapped(lambda path, t: t.neg()).run()


NEGATED = Symmetry("negate rows, same distances", (Move("custom", function=_both_negated),),
                   frozenset({"address", "bits"}), False)


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    if "grad" in call.form.argument_names:
        signed = (negate("grad"),)
        if held[0].shape[-2] < 2 or "x1" not in call.form.argument_names:
            return signed
        return split("p", known=False), roll("p", known=False), *signed
    if "x1" not in call.form.argument_names:
        return (NEGATED, RERUN)
    known = not _by_product(call)
    rows = tuple(move(label, known=known) for label, size in
                 (("p", held[0].shape[-2]), ("r", held[0].shape[-1])) if size > 1
                 for move in (split, roll))
    return (*rows, NEGATED, RERUN)


def _flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """Three operations per coordinate of a pair."""
    names = call.form.argument_names
    if "x1" in names:
        return 3 * int(call["x1"].numel()) * int(call["x2"].shape[-2])
    return 3 * int(call["self"].numel()) * int(call["self"].shape[0])


def norms(difference: Any, p: float, fmt: Format) -> tuple[Any, Any, Any] | None:
    """Norms of the last axis computed directly: expected, limit, largest intermediate."""
    size = np.abs(difference)
    m, u = size.shape[-1], fmt.u
    if p == 0:
        count = (size != 0).sum(-1).astype(np.float64)
        # A NaN is not counted but handed on; it is left to replay.
        return count, np.zeros_like(count), np.where(np.isnan(size).any(-1), np.inf, count)
    if math.isinf(p) and p > 0:
        largest = size.max(-1, initial=0.0)
        return largest, u * largest + own_rounding(2, largest), largest
    if p == 1:
        total = size.sum(-1)
        return total, gamma(m + 1, u) * total + own_rounding(m + 1, total), total
    if p != 2:
        return None
    squares = (size * size).sum(-1)
    expected = np.sqrt(squares)
    g = gamma(m + 4, u)
    lost = np.minimum(np.sqrt(m * fmt.eta), m * fmt.eta / expected)
    limit = expected * (g / 2 * (1 + g) + 2 * u) + np.nan_to_num(lost)
    return (expected, limit + own_rounding(m + 4, expected),
            np.where(squares >= fmt.max, np.inf, expected))


def _through_product(call: HostCall, a: Any, b: Any, fmt: Format) -> tuple[Any, Any, Any]:
    expected = np.sqrt(((a[..., :, None, :] - b[..., None, :, :]) ** 2).sum(-1))
    m = a.shape[-1]
    size = ((a * a).sum(-1)[..., :, None] + (b * b).sum(-1)[..., None, :]
            + 2 * np.abs(a) @ np.abs(b).swapaxes(-1, -2))
    held = call.held[0]
    u_in = products.input_rounding(held.dtype, held.device.type)
    order = products.order_coefficient(2 * m + 8, held.dtype, held.device.type, u_in)
    error = (order + 2 * u_in + u_in * u_in) * size * (1 + 2.0**-20)
    error = error + (8 * m + 16) * (fmt.eta if u_in == 0 else fmt.tiny)
    limit = moments.root_error(expected**2, error)
    limit = limit + 2 * fmt.u * (expected + limit) + own_rounding(m + 4, expected)
    return expected, limit, np.where(size >= fmt.max, np.inf, expected)


def _judged(found: tuple[Any, Any, Any] | None, held: Tensor) -> tuple[Reference | None, ...]:
    if found is None:
        return (None,)
    expected, limit, magnitude = found
    if expected.shape != tuple(held.shape):
        return (None,)
    return (Reference(expected, limit, limit, "(M + 4) u / 2 + 2 u, or by a product", magnitude),)


def _forward(call: HostCall) -> tuple[Reference | None, ...]:
    held = call.held[0]
    if held.dtype not in JUDGED:
        return (None,)
    fmt = call.out_format()
    with np.errstate(all="ignore"):
        if "x1" not in call.call.form.argument_names:
            x = call.array("self")
            if len(x) * x.size > MOST_COORDINATES:
                return (None,)
            i, j = np.triu_indices(len(x), 1)
            return _judged(norms(x[i] - x[j], float(call["p"]), fmt), held)
        a, b = call.array("x1"), call.array("x2")
        if _by_product(call.call):
            return _judged(_through_product(call, a, b, fmt), held)
        found = norms(a[..., :, None, :] - b[..., None, :, :], float(call["p"]), fmt)
        if found is not None and _may_be_by_product(call.call):
            expected, limit, largest = found
            other = _through_product(call, a, b, fmt)
            found = expected, np.maximum(limit, other[1]), np.maximum(largest, other[2])
        return _judged(found, held)


def _gradient(g: Any, distance: Any, difference: Any, p: float, fmt: Format
              ) -> tuple[Any, Any, Any] | None:
    """Sums over the second last axis of ``g`` times the derivative of the distance."""
    if p not in (1, 2):
        return None
    n = difference.shape[-2]
    g, distance = g[..., None], distance[..., None]
    if p == 1:
        terms = g * np.sign(difference)
        lost, partial = np.zeros(()), np.abs(terms)
    else:
        zero = distance == 0
        safe = np.where(zero, 1.0, distance)
        terms = np.where(zero, 0.0, g * difference / safe)
        lost = np.where(zero, 0.0, 4 * fmt.eta * (1 + 1 / safe + np.abs(difference) + np.abs(g)))
        partial = np.maximum(np.abs(g * difference), np.abs(g / safe))
    size = np.abs(terms).sum(-2)
    limit = gamma(n + 4, fmt.u) * size + np.broadcast_to(lost, terms.shape).sum(-2)
    largest = np.maximum(size, partial.max(-2, initial=0.0))
    return terms.sum(-2), limit + own_rounding(n + 4, size), largest


def _backward(call: HostCall) -> tuple[Reference | None, ...]:
    held = call.held[0]
    if held.dtype not in JUDGED:
        return (None,)
    fmt, g = call.out_format(), call.array("grad")
    with np.errstate(all="ignore"):
        if "x1" in call.call.form.argument_names:
            a, b = call.array("x1"), call.array("x2")
            distance, difference = call.array("cdist"), a[..., :, None, :] - b[..., None, :, :]
        else:
            x = call.array("self")
            if len(x) * x.size > MOST_COORDINATES:
                return (None,)
            i, j = np.triu_indices(len(x), 1)
            square = np.zeros((2, len(x), len(x)))
            for target, packed in zip(square, (g, call.array("pdist")), strict=True):
                target[i, j] = target[j, i] = packed
            g, distance = square
            difference = x[:, None, :] - x[None, :, :]
        if difference.size == 0:
            return (None,)
        return _judged(_gradient(g, distance, difference, float(call["p"]), fmt), held)


def _samples(op: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in JUDGED:
            return []
        draw = draw_values(generator, dtype, "any")
        a, b = draw(3, 9, 17), draw(3, 5, 17)
        if op is aten._euclidean_dist:
            return [(op.default, (a, b), {}), (op.default, (draw(40, 7), draw(30, 7)), {}),
                    (op.default, (draw(7, 40).t(), draw(40, 7)), {})]
        orders = (2.0, 1.0, 0.0, math.inf, 3.0)
        if op is aten._cdist_forward:
            return [*((op.default, (a, b, p, mode), {}) for p in orders for mode in (None, 2)),
                    (op.default, (draw(40, 7), draw(30, 7), 2.0, None), {})]
        rows = draw(11, 17)
        if op is aten._pdist_forward:
            return [(op.default, (rows, p), {}) for p in orders]
        if op is aten._pdist_backward:
            return [(op.default, (draw(55), rows, p, torch.pdist(rows, p)), {}) for p in orders]
        return [(op.default, (draw(3, 9, 5), a, b, p, torch.cdist(a, b, p)), {}) for p in orders]

    return samples


def _register(op: Any, reference_of: Any, text: str) -> None:
    def reference(call: HostCall) -> tuple[Reference | None, ...]:
        if not call.held[0].numel() or not bits.has_values(call.held[0].dtype):
            return (None,)
        found: tuple[Reference | None, ...] = reference_of(call)
        return found

    reference.__doc__ = text
    reference.__module__ = __name__
    checked(op, family="distance", axes=_axes, symmetries=_symmetries, flops=_flops,
            reduction=True, window=("p",), deterministic=op is not aten._cdist_backward,
            samples=_samples(op))(reference)


_register(aten._cdist_forward, _forward, "Distances of all rows of one operand to all of another.")
_register(aten._euclidean_dist, _forward, "Euclidean distances by a matrix product.")
_register(aten._pdist_forward, _forward, "Distances between all pairs of rows.")
_register(aten._cdist_backward, _backward, "The gradient of ``_cdist_forward``, its first operand.")
_register(aten._pdist_backward, _backward, "The gradient of ``_pdist_forward``.")
