"""Cholesky factorizations and what is solved with them: ``linalg_cholesky_ex``, ``cholesky``,
``cholesky_solve`` and ``cholesky_inverse``.

``|L L^T - A| <= gamma_{n+3} |L||L^T|`` in the triangle that is read (Higham 2002, theorem 10.3, and
a reciprocal), the other one is exactly 0; a solution is two triangular systems.  Contract:
conventional kernels, measured with MKL 2024.2; proof: kernels that invert diagonal blocks.
``cholesky_inverse`` has a forward bound, see ``sdc_guard.bounds.cholesky``.

Not judged: matrices for which ``info`` tells of a failure (unless they are far enough from singular
that no factorization fails), factors with a diagonal element whose
reciprocal is no normal number, results that may overflow, and all calls while products may round
their operands.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds import cholesky as bound
from sdc_guard.calls import BoundCall
from sdc_guard.formats import format_of, is_covered_float
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._linalg import (
    BATCH,
    FLOATS,
    MATRIX,
    batch_labels,
    batch_moves,
    in_reduced_precision,
    measured,
    relations,
    same,
    scaled,
    solution,
    times,
    transposed,
    triangle,
)
from sdc_guard.ops._lines import Broken
from sdc_guard.ops._registry import HostCall, Residual, blame_columns, blame_matrices, checked
from sdc_guard.ops._samples import SampleList, draw_values
from sdc_guard.ops._symmetry import negate

aten = torch.ops.aten
FORMULA = "|L L^T - A| <= gamma_{n+3} |L||L^T|"
SOLVED = "|L L^T X - B| <= gamma_{2n+4} |L||L^T||X|"
INVERTED = "|L L^T X - I| <= |L||L^T| bound(X), sdc_guard.bounds.cholesky"


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    shape = tuple(held[0].shape[:-2])
    named = {path: (FIXED,) * t.dim() if path[0] in call.form.overwrites
             else batch_labels(t, shape, MATRIX) for path, t in call.tensors()}
    return Axes(named, tuple(batch_labels(t, shape, MATRIX if i == 0 else "")
                             for i, t in enumerate(held)))


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> Any:
    """Four times the matrix has twice the factor, four times the factor a sixteenth of the inverse,
    and the negated right side the negated solution, bit for bit (1,152 calls and more of each)."""
    packet = call.form.packet
    several = batch_moves(call, held)
    if packet == "aten.cholesky_solve":
        return relations(call, *several, negate("self"))
    if packet == "aten.cholesky_inverse":
        return relations(call, *several, scaled("self", (times(16.0),), known=True))
    undo = (times(0.5), same)[: len(held)]
    return relations(call, *several, scaled("self", undo, known=True))


def _flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    return int(held[0].numel() * held[0].shape[-2])


def _samples_of(op: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in FLOATS:
            return []
        draw = draw_values(generator, dtype, "any")

        def positive(*shape: int) -> Tensor:
            x = draw(*shape).double()
            n = shape[-1]
            return (x @ x.mT + n * torch.eye(n, dtype=torch.float64)).to(dtype)

        matrices = [positive(7, 7), positive(65, 65).t(), positive(4, 8, 8), positive(3, 5, 5),
                    positive(1, 1), positive(2, 3, 3), positive(2, 10, 10)[..., ::2, ::2]]
        if op in (aten.linalg_cholesky_ex, aten.cholesky):
            found: SampleList = [(op.default, (x,), {"upper": i % 3 == 1})
                                 for i, x in enumerate(matrices)]
            if op is aten.cholesky:
                return [*found, (op.out, (matrices[0],), {"out": draw(7, 7)})]
            return [*found, (op.L, (matrices[0],), {
                "L": draw(7, 7), "info": torch.zeros((), dtype=torch.int32)})]
        factors = [torch.linalg.cholesky(x) for x in matrices]
        if op is aten.cholesky_inverse:
            return [*((op.default, (x,), {}) for x in factors),
                    (op.default, (factors[0].mT, True), {}),
                    (op.out, (factors[0],), {"out": draw(7, 7)})]
        return [*((op.default, (draw(*x.shape[:-1], 3), x), {}) for x in factors),
                (op.default, (draw(2, 3, 5, 2), factors[3].mT, True), {}),
                (op.out, (draw(7, 2), factors[0]), {"out": draw(7, 2)})]

    return samples


def _lower(a: NDArray[Any], upper: bool) -> NDArray[Any]:
    """The lower triangle, of the transpose where the upper one is read."""
    return triangle(transposed(a) if upper else a, False)


def factor(call: HostCall) -> tuple[Residual, ...]:
    """``A = L L^T``: ``|L L^T - A| <= gamma_{n+3} |L||L^T|``."""
    held = call.held[0]
    if not is_covered_float(held.dtype) or in_reduced_precision(held):
        return ()
    upper, fmt = bool(call["upper"]), format_of(held.dtype.to_real())
    a, lower = _lower(call.array("self"), upper), _lower(bits.values(held), upper)
    done = np.ones((*a.shape[:-2], 1, 1), dtype=bool)
    if len(call.held) > 1:
        done = (bits.values(call.held[1]) == 0)[..., None, None]
    got = np.isfinite(lower).all((-2, -1), keepdims=True)
    # No element of L exceeds the root of a diagonal element of A.
    clean = np.isfinite(a).all((-2, -1), keepdims=True) & (np.abs(a) < fmt.max / 16).all(
        (-2, -1), keepdims=True)
    positive = np.asarray((np.diagonal(a, axis1=-2, axis2=-1) > 16 * fmt.tiny).all(-1))
    sure = clean & positive[..., None, None]
    sure &= bound.stays_definite(np.where(sure, a, np.eye(a.shape[-1])), fmt)
    lower = np.where(got, lower, 0.0)
    inside = got & clean & (np.square(lower).sum(-1).max(-1, initial=0.0)[..., None, None]
                            < fmt.max / 4)
    proof, contract = (
        np.where(done | sure, np.where(inside, limit, np.where(sure, 0.0, np.inf)), np.inf)
        for limit in bound.limits(lower, fmt))
    defect = np.abs(np.tril(np.matmul(lower, transposed(lower))) - a)
    return (Residual(0, np.where(inside, defect, np.inf), proof, measured(contract, held), FORMULA,
                     0.0, blame_matrices),)


def _zero_fact(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
    """The triangle that is not the factor is 0."""
    values = bits.values(held[0])
    wrong = np.tril(values, -1) if call["upper"] else np.triu(values, 1)
    return (0, wrong != 0, "0 in the other triangle") if (wrong != 0).any() else None


def cholesky_solve(call: HostCall) -> tuple[Residual, ...]:
    """``L L^T X = B``: ``|L L^T X - B| <= gamma_{2n+4} |L||L^T||X|``."""
    held = call.held[0]
    if not is_covered_float(held.dtype) or in_reduced_precision(held):
        return ()
    lower = _lower(call.array("input2"), bool(call["upper"]))
    return (solution(held, [lower, transposed(lower)], call.array("self"), bits.values(held),
                     SOLVED, blame_columns),)


def cholesky_inverse(call: HostCall) -> tuple[Residual, ...]:
    """``(L L^T)^-1``: ``|L L^T X - I| <= |L||L^T| bound(X)``, with the forward bound of an inverted
    triangle times its transpose."""
    held = call.held[0]
    if not is_covered_float(held.dtype) or in_reduced_precision(held):
        return ()
    fmt = format_of(held.dtype.to_real())
    lower, x = _lower(call.array("self"), bool(call["upper"])), bits.values(held)
    limit, size = bound.inverse_limits(lower, fmt)
    most = size.max((-2, -1), keepdims=True, initial=0.0)
    judged = most < fmt.max / 16
    got = np.isfinite(x).all((-2, -1), keepdims=True)
    product = np.matmul(lower, np.matmul(transposed(lower), np.where(got, x, 0.0)))
    defect = np.where(got, np.abs(product - np.eye(lower.shape[-1])), np.inf)
    limit = np.where(judged, limit, np.inf)
    return (Residual(0, defect, limit, measured(limit, held), INVERTED, 0.0, blame_matrices),)


_SHARED: dict[str, Any] = {"family": "linalg", "by": "residual", "axes": _axes, "flops": _flops,
                           "symmetries": _symmetries, "window": BATCH}
for _op in (aten.linalg_cholesky_ex, aten.cholesky):
    checked(_op, invariant=_zero_fact, samples=_samples_of(_op), **_SHARED)(factor)
checked(aten.cholesky_solve, samples=_samples_of(aten.cholesky_solve), **_SHARED)(cholesky_solve)
checked(aten.cholesky_inverse, samples=_samples_of(aten.cholesky_inverse), **_SHARED)(
    cholesky_inverse)
