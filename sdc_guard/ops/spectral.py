"""Spectral decompositions: ``_linalg_eigh`` and ``_linalg_svd``.

Values are compared with NumPy's in float64 (OpenBLAS, another library than MKL), within
``p u ||A||``; vectors by ``||A - U S V^T|| <= p u ||A||`` and ``||U^T U - I|| <= p u``: contracts,
see ``sdc_guard.bounds.spectral``.  Exact: eigenvalues ascend, singular values descend and are not
negative.

Not judged: matrices that are not finite or near the ends of the range, drivers of other devices,
and all calls while products may round their operands.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds import spectral as bound
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
    times,
    transposed,
)
from sdc_guard.ops._lines import Broken
from sdc_guard.ops._registry import HostCall, Reference, Residual, blame_matrices, checked
from sdc_guard.ops._samples import SampleList, draw_values
from sdc_guard.ops._symmetry import Symmetry

aten = torch.ops.aten
PRODUCT = "||U S V^T - A|| <= p u ||A||"
ORTHOGONAL = "||U^T U - I|| <= p u"
VALUES = "p u ||A|| / 2"


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    shape = tuple(call["A"].shape[:-2])
    last = (FIXED, MATRIX) if call.form.packet == "aten._linalg_eigh" else (MATRIX, FIXED, MATRIX)
    named = {path: (FIXED,) * t.dim() if path[0] in call.form.overwrites
             else batch_labels(t, shape, MATRIX) for path, t in call.tensors()}
    return Axes(named, tuple((FIXED,) * t.dim() if t.dim() < len(shape) else
                             batch_labels(t, shape, x) for t, x in zip(held, last, strict=True)))


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Four times the matrix has the same vectors and four times the values, in 384 calls each; the
    iterations compare with the smallest normal number, so this is learned for each site."""
    undo = ((times(0.25), same) if call.form.packet == "aten._linalg_eigh"
            else (same, times(0.25), same))
    return relations(call, *batch_moves(call, (call["A"], *held)), scaled("A", undo, known=False))


def _flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    a = call["A"]
    return int(8 * a.numel() * min(a.shape[-2:]))


def _samples_of(op: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in FLOATS:
            return []
        draw = draw_values(generator, dtype, "any")
        square = [draw(7, 7), draw(33, 33).t(), draw(4, 8, 8), draw(3, 5, 5), draw(1, 1),
                  draw(2, 10, 5)[..., ::2, :], draw(2, 2), draw(3, 3)]
        if op is aten._linalg_eigh:
            return [*((op.default, (x + x.mT,), {"UPLO": "LU"[i % 2], "compute_v": i % 3 != 2})
                      for i, x in enumerate(square)),
                    (op.eigenvalues, (square[0],), {
                        "eigenvalues": draw(7), "eigenvectors": draw(7, 7)})]
        matrices = [*square, draw(17, 5), draw(5, 17).t(), draw(3, 4, 9)]
        return [*((op.default, (x,), {"full_matrices": i % 2 == 1, "compute_uv": i % 3 != 2})
                  for i, x in enumerate(matrices)),
                (op.U, (draw(5, 3),), {"U": draw(5, 3), "S": draw(3), "Vh": draw(3, 3)})]

    return samples


def _usable(call: HostCall) -> bool:
    held = call.held[0 if call.call.form.packet == "aten._linalg_eigh" else 1]
    return (is_covered_float(held.dtype) and not in_reduced_precision(held)
            and call["A"].numel() > 0)


def _matrix(call: HostCall) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """A, or the symmetric matrix of the triangle that is read, and which are judged; 0 for the
    others."""
    a = call.array("A")
    if call.call.form.packet == "aten._linalg_eigh":
        lower = np.tril(a) if call["UPLO"].upper() == "L" else transposed(np.triu(a))
        a = lower + transposed(np.tril(lower, -1))
    judged = np.isfinite(a).all((-2, -1), keepdims=True)
    a = np.where(judged, a, 0.0)
    judged = judged & bound.in_range(a, format_of(call.held[0].dtype.to_real()))
    return np.where(judged, a, 0.0), judged


def _residual(
    output: int, difference: NDArray[Any], limit: Any, judged: NDArray[np.bool_], held: Tensor,
    formula: str,
) -> Residual:
    finite = np.isfinite(difference).all((-2, -1), keepdims=True)
    defect = np.where(finite, bound.frobenius(np.where(finite, difference, 0.0)), np.inf)
    contract = np.where(judged, limit, np.inf)
    return Residual(output, defect, None, measured(contract, held), formula, 0.0, blame_matrices)


def _orthogonal(output: int, q: NDArray[Any], share: float, judged: NDArray[np.bool_],
                held: Tensor) -> Residual:
    gram = np.matmul(transposed(q), q) - np.eye(q.shape[-1])
    return _residual(output, gram, share, judged, held, ORTHOGONAL)


def eigh_residual(call: HostCall) -> tuple[Residual, ...]:
    """``A V = V diag(w)``: ``||V diag(w) V^T - A|| <= p u ||A||`` and ``||V^T V - I|| <= p u``."""
    if not _usable(call) or not call["compute_v"]:
        return ()
    a, judged = _matrix(call)
    w, v = (bits.values(t) for t in call.held)
    share = bound.share(a.shape, format_of(call.held[0].dtype.to_real()))
    product = np.matmul(v * w[..., None, :], transposed(v))
    return (_orthogonal(1, v, share, judged, call.held[1]),
            _residual(1, product - a, share * bound.frobenius(a), judged, call.held[1], PRODUCT))


def svd_residual(call: HostCall) -> tuple[Residual, ...]:
    """``A = U S V^T``: ``||U S V^T - A|| <= p u ||A||``, ``||U^T U - I|| <= p u`` and the same of
    V."""
    if not _usable(call) or not call["compute_uv"]:
        return ()
    a, judged = _matrix(call)
    u, s, vh = (bits.values(t) for t in call.held)
    k = s.shape[-1]
    share = bound.share(a.shape, format_of(call.held[1].dtype.to_real()))
    product = np.matmul(u[..., :k] * s[..., None, :], vh[..., :k, :])
    return (_orthogonal(0, u, share, judged, call.held[0]),
            _orthogonal(2, transposed(vh), share, judged, call.held[2]),
            _residual(0, product - a, share * bound.frobenius(a), judged, call.held[0], PRODUCT))


def _values(call: HostCall, expected: NDArray[Any], a: NDArray[Any],
            judged: NDArray[np.bool_], held: Tensor) -> Reference:
    share = bound.share(a.shape, format_of(held.dtype.to_real()), bound.OF_VALUES)
    limit = np.where(judged, share * bound.frobenius(a), np.inf)[..., 0]
    magnitude = np.where(judged, 0.0, np.inf)[..., 0]
    return Reference(expected, None, measured(limit, held), VALUES, magnitude)


def eigh(call: HostCall) -> tuple[Reference | None, ...]:
    """Eigenvalues within ``p u ||A|| / 2`` of NumPy's; ``||V diag(w) V^T - A|| <= p u ||A||``,
    ``||V^T V - I|| <= p u``, ``p = 40 (n + 8)``."""
    if not _usable(call):
        return (None, None)
    a, judged = _matrix(call)
    return (_values(call, np.linalg.eigvalsh(a), a, judged, call.held[0]), None)


def svd(call: HostCall) -> tuple[Reference | None, ...]:
    """Singular values within ``p u ||A|| / 2`` of NumPy's; ``||U S V^T - A|| <= p u ||A||``,
    ``||U^T U - I|| <= p u``, ``p = 40 (max(m, n) + 8)``."""
    if not _usable(call):
        return (None, None, None)
    a, judged = _matrix(call)
    expected = np.linalg.svd(a, compute_uv=False)
    return (None, _values(call, expected, a, judged, call.held[1]), None)


def _order_fact(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
    """Eigenvalues ascend; singular values descend and are not negative."""
    output = 0 if call.form.packet == "aten._linalg_eigh" else 1
    if not is_covered_float(held[output].dtype):
        return None
    w = bits.values(held[output])
    wrong = (w < 0) if output else np.zeros(w.shape, dtype=bool)
    with np.errstate(invalid="ignore"):
        step = np.diff(w, axis=-1)
    wrong[..., 1:] |= (step > 0) if output else (step < 0)
    return (output, wrong, "sorted values") if wrong.any() else None


for _op, _reference, _residuals in ((aten._linalg_eigh, eigh, eigh_residual),
                                    (aten._linalg_svd, svd, svd_residual)):
    checked(_op, family="linalg", axes=_axes, symmetries=_symmetries, flops=_flops, window=BATCH,
            residual=_residuals, invariant=_order_fact, samples=_samples_of(_op))(_reference)
