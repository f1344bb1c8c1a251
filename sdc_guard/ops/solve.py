"""Square systems: ``_linalg_solve_ex``, ``linalg_lu_solve`` and ``linalg_inv_ex``.

``_linalg_solve_ex`` returns the factorization with the solution: ``|L U - P A|`` is judged as in
``linalg_lu``, and the solution by the factors that it came from, ``|L U X - P B|``, two triangular
systems (Higham 2002, theorem 9.4).  ATen factors the matrix or its transpose, as the layout has it;
the one that is closer tells which.

``linalg_inv_ex`` returns no factors.  Its columns solve ``A x = e`` in the same way, so
``|A X - I| <= gamma_{3n+6} || |L||U| || ||x||`` with the factors of our own elimination, whose
pivots may differ where two candidates are equal but for rounding: a contract, with a factor of 4
for that, and no proof.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds import linalg
from sdc_guard.bounds import lu as bound
from sdc_guard.bounds.gamma import gamma, own_rounding
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
)
from sdc_guard.ops._lines import Broken
from sdc_guard.ops._registry import HostCall, Residual, blame_columns, blame_rows, checked
from sdc_guard.ops._samples import SampleList, draw_values
from sdc_guard.ops._symmetry import Move, Symmetry
from sdc_guard.ops.lu import info_fact, is_of_transpose, lu_residual, pivot_fact, valid_pivots
from sdc_guard.ops.triangular import well_conditioned

aten = torch.ops.aten
FORMULA = "|L U X - P B| <= gamma_{2n+4} |L||U||X|"
INVERSE = "||A X - I|| <= 4 gamma_{3n+6} || |L||U| || ||X||"
OTHER_PIVOTS = 4.0


def _is_vector(call: BoundCall) -> bool:
    """As ATen decides whether the right side is a batch of vectors."""
    a, b = call["A"], call["B"]
    return bool(b.dim() == 1 or (a.dim() - 1 == b.dim() and a.shape[:-1] == b.shape))


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    packet = call.form.packet
    right = MATRIX
    if packet == "aten._linalg_solve_ex":
        right = FIXED if _is_vector(call) else MATRIX
    last = {"B": right, "pivots": FIXED}
    shape = tuple(held[0].shape[: held[0].dim() - len(right.split())])
    results = {"aten._linalg_solve_ex": (right, MATRIX, FIXED, ""),
               "aten.linalg_inv_ex": (MATRIX, "")}.get(packet, (MATRIX,))
    named = {}
    for path, t in call.tensors():
        written = path[0] in call.form.overwrites
        name = call.form.argument_names[path[0]]
        named[path] = ((FIXED,) * t.dim() if written
                       else batch_labels(t, shape, last.get(name, MATRIX)))
    return Axes(named, tuple(batch_labels(t, shape, x)
                             for t, x in zip(held, results, strict=True)))


def _negated(operand: str, info: int | None = None) -> Symmetry:
    return Symmetry(f"negate {operand}",
                    (Move("negate", operands=(operand,), outputs=(0,), unless=info),),
                    frozenset({"address", "bits"}), True)


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Negating the right side or the matrix negates the solution, bit for bit (3,456 calls), and
    four times the matrix has a fourth of the inverse.  A pivot that cancels is +0 with either sign
    of the matrix, and so are the infinities that it makes: a singular one is not negated."""
    packet = call.form.packet
    matrix_dims = 1 if packet == "aten._linalg_solve_ex" and _is_vector(call) else 2
    several = batch_moves(call, held, matrix_dims)
    if packet == "aten.linalg_inv_ex":
        return relations(call, *several, _negated("A", 1),
                         scaled("A", (times(4.0), same), known=True))
    signs = (_negated("B"),) if packet == "aten.linalg_lu_solve" else (
        _negated("B"), _negated("A", 3))
    return relations(call, *several, *signs)


def _flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    n = int(held[0].shape[-1 if call.form.packet == "aten.linalg_inv_ex" else -2]
            if held[0].dim() > 1 else held[0].shape[-1])
    matrix = call["LU" if call.form.packet == "aten.linalg_lu_solve" else "A"]
    return int(n * (held[0].numel() + matrix.numel()))


def _samples_of(op: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in FLOATS:
            return []
        draw = draw_values(generator, dtype, "any")
        matrices = [draw(7, 7), draw(65, 65).t(), draw(4, 8, 8), draw(3, 5, 5), draw(1, 1),
                    draw(2, 2), draw(3, 3),
                    draw(2, 10, 5)[..., ::2, :]]
        if op is aten.linalg_inv_ex:
            return [*((op.default, (x,), {}) for x in matrices), (op.inverse, (draw(5, 5),), {
                "inverse": draw(5, 5), "info": torch.zeros((), dtype=torch.int32)})]
        if op is aten.linalg_lu_solve:
            found: SampleList = []
            for i, x in enumerate(matrices):
                packed, pivots = torch.linalg.lu_factor(x)
                n = x.shape[-1]
                b = draw(*x.shape[:-2], n, 3) if i % 2 else draw(*x.shape[:-2], n, 8)
                found.append((op.default, (packed, pivots, b), {"adjoint": i > 2}))
                found.append((op.default, (packed, pivots, b.mT.contiguous()), {"left": False}))
            return found
        found = [(op.default, (x, draw(*x.shape[:-1], 3)), {}) for x in matrices]
        system = well_conditioned(generator, dtype, 6, 6)
        return [*found, (op.default, (system, draw(6)), {}),
                (op.default, (system, draw(4, 6)), {"left": False}),
                (op.default, (draw(3, 5, 5), draw(3, 5)), {}),
                (op.result, (system, draw(6, 2)), {
                    "result": draw(6, 2), "LU": draw(6, 6),
                    "pivots": torch.zeros(6, dtype=torch.int32),
                    "info": torch.zeros((), dtype=torch.int32)})]

    return samples


def _solved(
    held: Tensor, packed: NDArray[Any], pivots: NDArray[Any], b: NDArray[Any], x: NDArray[Any],
    adjoint: bool, left: bool,
) -> Residual:
    """Two triangular systems from factors of the matrix, or of its transpose (``adjoint``)."""
    if not left:
        b, x = transposed(b), transposed(x)
    lower, upper = bound.unpacked(packed)
    order = bound.permutation(pivots, packed.shape[-1])
    factors = [lower, upper]
    if adjoint == left:  # X A = B is A^T X^T = B^T
        factors, x = [transposed(upper), transposed(lower)], bound.permuted(x, order)
    else:
        b = bound.permuted(b, order)
    blame = blame_columns if left else blame_rows
    return solution(held, factors, b, x, FORMULA, blame, is_row=not left)


def lu_solve(call: HostCall) -> tuple[Residual, ...]:
    """``A X = B`` from the factors: ``|L U X - P B| <= gamma_{2n+4} |L||U||X|``."""
    held = call.held[0]
    packed, pivots = call.array("LU"), call.array("pivots")
    if (not is_covered_float(held.dtype) or in_reduced_precision(held)
            or not valid_pivots(pivots, packed.shape[-1]).all()):
        return ()
    return (_solved(held, packed, pivots, call.array("B"), bits.values(held),
                    bool(call["adjoint"]), bool(call["left"])),)


def solve(call: HostCall) -> tuple[Residual, ...]:
    """``A X = B``: ``|L U - P A| <= gamma_{n+2} |L||U|`` and, of the same factors,
    ``|L U X - P B| <= gamma_{2n+4} |L||U||X|``."""
    held = call.held[0]
    packed, pivots = bits.values(call.held[1]), bits.values(call.held[2])
    if (not is_covered_float(held.dtype) or in_reduced_precision(held)
            or not valid_pivots(pivots, packed.shape[-1]).all()):
        return ()
    a, b, x = call.array("A"), call.array("B"), bits.values(held)
    lower, upper = bound.unpacked(packed)
    order = bound.permutation(pivots, packed.shape[-1])
    factored = lu_residual(call.held[1], 1, a, lower, upper, order, True)
    # Which of the two was factored; in a batch it is the same for all.
    adjoint = is_of_transpose(a, lower, upper, order, format_of(held.dtype.to_real()))
    if _is_vector(call.call):
        solved = _solved(held, packed, pivots, b[..., None], x[..., None], adjoint, True)
        solved = Residual(0, solved.defect[..., 0], np.asarray(solved.proof)[..., 0],
                          np.asarray(solved.contract)[..., 0], FORMULA, 0.0, blame_rows)
        return factored, solved
    return factored, _solved(held, packed, pivots, b, x, adjoint, bool(call["left"]))


def _solve_fact(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
    """Pivots are swaps, ``info`` is the first zero pivot."""
    return pivot_fact(held[2], 2, held[1]) or info_fact(held[3], 3, held[1])


def inverse(call: HostCall) -> tuple[Residual, ...]:
    """``|A X - I| <= 4 gamma_{3n+6} || |L||U| || ||X||`` for each column."""
    held = call.held[0]
    if not is_covered_float(held.dtype) or in_reduced_precision(held):
        return ()
    fmt = format_of(held.dtype.to_real())
    a, x = call.array("A"), bits.values(held)
    n = a.shape[-1]
    finite = np.isfinite(a).all((-2, -1), keepdims=True)
    a = np.where(finite, a, np.eye(n))
    size = np.maximum(*bound.growth_by_elimination(a))
    g = gamma(3 * n + 6, fmt.u) * OTHER_PIVOTS
    known = linalg.inverse(a)
    k = linalg.row_sums(known) * size
    most = np.maximum(linalg.row_sums(known), np.abs(a).max((-2, -1), keepdims=True, initial=0.0))
    sure = finite & (4 * g * k <= 1) & (16 * most * size < fmt.max) & (16 * most < fmt.max)
    sure &= most < 0.25 / fmt.tiny
    largest = linalg.largest(np.abs(x))
    inside = np.isfinite(x).all(-2, keepdims=True) & (16 * size * largest < fmt.max) & finite
    inside &= (bits.values(call.held[1]) == 0)[..., None, None]
    x = np.where(inside, x, 0.0)
    largest = linalg.largest(np.abs(x))
    # Elements of U whose reciprocal is no normal number, and all that underflows.
    underflow = 8 * n * n * fmt.eta * (1.0 + size) * (1.0 + largest) * (1.0 + 1.0 / fmt.u)
    limit = g * size * largest + underflow + own_rounding(n + 2, size * largest)
    defect = np.abs(np.matmul(a, x) - np.eye(n))
    limit = np.broadcast_to(np.where(inside, limit, np.where(sure, 0.0, np.inf)), defect.shape)
    return (Residual(0, np.where(inside, defect, np.inf), None, measured(limit, held), INVERSE,
                     0.0, blame_columns),)


_SHARED: dict[str, Any] = {"family": "linalg", "by": "residual", "axes": _axes, "flops": _flops,
                           "symmetries": _symmetries, "window": BATCH}
checked(aten._linalg_solve_ex, invariant=_solve_fact, samples=_samples_of(aten._linalg_solve_ex),
        **_SHARED)(solve)
checked(aten.linalg_lu_solve, samples=_samples_of(aten.linalg_lu_solve), **_SHARED)(lu_solve)
checked(aten.linalg_inv_ex, samples=_samples_of(aten.linalg_inv_ex), **_SHARED)(inverse)
