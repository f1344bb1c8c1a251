"""QR factorizations and products of reflectors: ``linalg_qr``, ``geqrf``,
``linalg_householder_product`` and ``ormqr``.

Judged with the bounds of ``sdc_guard.bounds.householder``: ``||a_j - Q r_j||`` and
``||Q^T Q - I||``, with the Q that is returned or, of ``geqrf``, the one that its reflectors make;
of mode ``r`` the inner products of columns, which R keeps; and, for given reflectors, the distance
of each column from its product in float64.  R is exactly 0 below its diagonal.

Not judged: matrices that are not finite or near the end of the range, reflectors that are not
orthogonal, and all calls while products may round their operands.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds import householder as bound
from sdc_guard.calls import BoundCall
from sdc_guard.formats import Format, format_of, is_covered_float
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
    upper_times,
)
from sdc_guard.ops._lines import Broken
from sdc_guard.ops._registry import (
    HostCall,
    Reference,
    Residual,
    blame_columns,
    blame_matrices,
    checked,
)
from sdc_guard.ops._samples import SampleList, draw_values
from sdc_guard.ops._symmetry import Move, Symmetry, negate

aten = torch.ops.aten
FORMULA = "||a_j - Q r_j|| <= 16 (m + 8) u ||a_j||"
ORTHOGONAL = "||Q^T Q - I|| <= 16 (m + 8) u sqrt(k)"
GRAM = "|r_i r_j - a_i a_j| <= 32 (m + 8) u ||a_i|| ||a_j||"
PRODUCT = "Q c_j within 6 (m + 8) u ||c_j||"


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    packet = call.form.packet
    shape = tuple(held[-1].shape[:-1] if packet == "aten.geqrf" else held[-1].shape[:-2])
    vectors = {"aten.linalg_householder_product": ("tau",), "aten.ormqr": ("input2",)}
    named = {}
    for path, t in call.tensors():
        name = call.form.argument_names[path[0]]
        last = FIXED if name in vectors.get(packet, ()) else MATRIX
        named[path] = ((FIXED,) * t.dim() if path[0] in call.form.overwrites
                       else batch_labels(t, shape, last))
    outputs = tuple(
        (FIXED,) * t.dim() if not t.numel() and t.dim() < 2
        else batch_labels(t, shape, FIXED if packet == "aten.geqrf" and i else MATRIX)
        for i, t in enumerate(held))
    return Axes(named, outputs)


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Four times the matrix has the same reflectors and four times the R, bit for bit, and the
    negated one the negated R (1,152 calls each)."""
    packet = call.form.packet
    matrix = held[-1] if packet == "aten.linalg_qr" else held[0]
    several = batch_moves(call, (matrix, *held))
    if packet == "aten.linalg_qr":
        signs = Symmetry("negate A", (Move("negate", operands=("A",), outputs=(1,)),),
                         frozenset({"address", "bits"}), True)
        return relations(call, *several, scaled("A", (same, times(0.25)), known=True), signs)
    if packet == "aten.geqrf":
        return relations(call, *several, scaled("self", (upper_times(0.25), same), known=True))
    if packet == "aten.ormqr":
        return relations(call, *several, negate("input3"))
    return relations(call, *several)


def _flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    first = next(t for _, t in call.tensors())
    return int(2 * max(held[0].numel(), first.numel()) * min(first.shape[-2:]))


def _samples_of(op: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in FLOATS:
            return []
        draw = draw_values(generator, dtype, "any")
        matrices = [draw(7, 7), draw(65, 17), draw(9, 33).t(), draw(5, 9), draw(4, 8, 8),
                    draw(3, 5, 3), draw(1, 1), draw(2, 10, 4)[..., ::2, :]]
        if op is aten.linalg_qr:
            found: SampleList = [
                (op.default, (x,), {"mode": ("reduced", "complete", "r")[i % 3]})
                for i, x in enumerate(matrices)]
            return [*found, (op.out, (draw(5, 3),), {"Q": draw(5, 3), "R": draw(3, 3)})]
        if op is aten.geqrf:
            return [*((op.default, (x,), {}) for x in matrices), (op.a, (draw(5, 3),), {
                "a": draw(5, 3), "tau": draw(3)})]
        pairs = [torch.geqrf(x) for x in matrices if x.shape[-2] >= x.shape[-1]]
        if op is aten.linalg_householder_product:
            return [(op.default, pair, {}) for pair in pairs]
        found = []
        for i, (a, tau) in enumerate(pairs):
            c = draw(*a.shape[:-1], 3)
            found.append((op.default, (a, tau, c), {"transpose": i % 2 == 0}))
            found.append((op.default, (a, tau, c.mT.contiguous()), {
                "left": False, "transpose": i % 2 == 1}))
        return found

    return samples


def _usable(held: Tensor) -> bool:
    return is_covered_float(held.dtype) and not in_reduced_precision(held)


def _in_range(a: NDArray[Any], fmt: Format) -> NDArray[np.bool_]:
    """Matrices, (..., 1, 1), of which no product of reflectors overflows."""
    most = np.abs(a).max((-2, -1), keepdims=True, initial=0.0)
    return np.asarray(most < fmt.max / (16 * (a.shape[-2] + 8)))


def _by_column(
    output: int, difference: NDArray[Any], norms: NDArray[Any], m: int, k: int, held: Tensor,
    judged: NDArray[np.bool_], formula: str,
) -> Residual:
    fmt = format_of(held.dtype.to_real())
    low = bound.underflow(m, k, fmt) * (m + 1) ** 0.5
    defect = bound.column_norms(np.where(np.isfinite(difference), difference, 0.0))
    defect = np.where(np.isfinite(difference).all(-2, keepdims=True), defect, np.inf)
    contract = np.where(judged, bound.contract_share(m, fmt) * norms + low, np.inf)
    proof = np.where(
        judged, (1 + k**0.5) * bound.proof_share(m, k, fmt) * norms + low, np.inf)
    return Residual(output, defect, np.maximum(proof, contract), measured(contract, held),
                    formula, 0.0, blame_columns if k and output else blame_matrices)


def _orthogonality(held: Tensor, output: int, q: NDArray[Any], m: int, k: int,
                   judged: NDArray[np.bool_]) -> Residual:
    fmt = format_of(held.dtype.to_real())
    gram = np.matmul(transposed(q), q) - np.eye(q.shape[-1])
    defect = np.sqrt(np.square(gram).sum((-2, -1), keepdims=True))
    width = q.shape[-1] ** 0.5
    proof = np.where(judged, 3 * width * bound.proof_share(m, k, fmt), np.inf)
    contract = np.where(judged, width * bound.contract_share(m, fmt), np.inf)
    return Residual(output, defect, np.maximum(proof, contract), measured(contract, held),
                    ORTHOGONAL, 0.0, blame_matrices)


def _gram(held: Tensor, a: NDArray[Any], r: NDArray[Any], m: int, k: int,
          judged: NDArray[np.bool_]) -> Residual:
    """Of mode ``r``: with ``A + dA = Q R``, ``R^T R`` is ``(A + dA)^T (A + dA)``."""
    fmt = format_of(held.dtype.to_real())
    norms = bound.column_norms(a)
    scale = np.where(norms > 0, norms, 1.0)
    a, r = a / scale, r / scale
    defect = np.abs(np.matmul(transposed(r), r) - np.matmul(transposed(a), a))
    low = 4 * bound.underflow(m, k, fmt) * (m + 1) ** 0.5 / np.minimum(scale, transposed(scale))
    proof, contract = (
        np.where(judged & (e < 1), 3 * e + low, np.inf)
        for e in (bound.proof_share(m, k, fmt), bound.contract_share(m, fmt)))
    return Residual(1, defect, np.maximum(proof, contract), measured(contract, held), GRAM, 0.0,
                    blame_columns)


def qr(call: HostCall) -> tuple[Residual, ...]:
    """``A = Q R``: ``||a_j - Q r_j|| <= 16 (m + 8) u ||a_j||`` and ``||Q^T Q - I|| <= 16 (m + 8) u
    sqrt(k)``; of mode ``r`` the inner products of the columns."""
    held = call.held[1]
    if not _usable(held) or not held.numel():
        return ()
    a, r = call.array("A"), bits.values(held)
    m, k = a.shape[-2], min(a.shape[-2:])
    judged = _in_range(a, format_of(held.dtype.to_real()))
    a = np.where(judged, a, 0.0)
    if call["mode"] == "r":
        return (_gram(held, a, r, m, k, judged),)
    q = bits.values(call.held[0])
    return (_orthogonality(held, 0, q, m, k, judged),
            _by_column(1, np.matmul(q, r) - a, bound.column_norms(a), m, k, held, judged, FORMULA))


def _zero_fact(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
    """R is 0 below its diagonal."""
    wrong = np.tril(bits.values(held[1]), -1) != 0
    return (1, wrong, "0 below the diagonal of R") if wrong.any() else None


def geqrf(call: HostCall) -> tuple[Residual, ...]:
    """``A = H_1 ... H_k R`` with the reflectors below the diagonal:
    ``||a_j - Q r_j|| <= 16 (m + 8) u ||a_j||``."""
    held = call.held[0]
    if not _usable(held) or not held.numel():
        return ()
    a, packed, tau = call.array("self"), bits.values(held), bits.values(call.held[1])
    m, k = a.shape[-2], min(a.shape[-2:])
    judged = _in_range(a, format_of(held.dtype.to_real()))
    a = np.where(judged, a, 0.0)
    product = bound.applied(bound.vectors(packed, k), tau, np.triu(packed), transpose=False)
    return (_by_column(0, product - a, bound.column_norms(a), m, k, held, judged, FORMULA),)


def _product(call: HostCall, packed: str, scales: str, c: NDArray[Any], left: bool,
             transpose: bool) -> tuple[Reference | None, ...]:
    held = call.held[0]
    if not _usable(held) or not held.numel():
        return (None,)
    fmt = format_of(held.dtype.to_real())
    tau = call.array(scales)
    v = bound.vectors(call.array(packed), tau.shape[-1])
    m, k = v.shape[-2:]
    if not left:
        c = transposed(c)
    expected = bound.applied(v, tau, c, transpose=transpose == left)
    expected = np.broadcast_to(expected, (*expected.shape[:-1], expected.shape[-1]))
    norms = bound.column_norms(c)
    ok = bound.are_orthogonal(v, tau) & _in_range(c, fmt)
    low = bound.underflow(m, k, fmt)
    proof = np.where(ok, bound.proof_share(m, k, fmt) * norms + low, np.inf)
    contract = np.where(ok, bound.contract_share(m, fmt, bound.GIVEN) * norms + low, np.inf)
    parts: list[Any] = [expected, np.maximum(proof, contract), measured(contract, held)]
    if not left:
        parts = [transposed(p) for p in parts]
    return (Reference(parts[0], parts[1], parts[2], PRODUCT, np.where(ok, 0.0, np.inf)),)


def householder_product(call: HostCall) -> tuple[Reference | None, ...]:
    """The first columns of ``H_1 ... H_k``, each within ``6 (m + 8) u``."""
    shape = tuple(call.held[0].shape)
    unit = np.broadcast_to(np.eye(shape[-2], shape[-1]), shape)
    return _product(call, "input", "tau", unit, True, False)


def ormqr(call: HostCall) -> tuple[Reference | None, ...]:
    """``Q C``, ``Q^T C``, ``C Q`` or ``C Q^T``: each column or row within
    ``6 (m + 8) u ||c_j||``."""
    return _product(call, "self", "input2", call.array("input3"), bool(call["left"]),
                    bool(call["transpose"]))


_SHARED: dict[str, Any] = {"family": "linalg", "axes": _axes, "flops": _flops,
                           "symmetries": _symmetries, "window": BATCH}
checked(aten.linalg_qr, by="residual", invariant=_zero_fact, samples=_samples_of(aten.linalg_qr),
        **_SHARED)(qr)
checked(aten.geqrf, by="residual", samples=_samples_of(aten.geqrf), **_SHARED)(geqrf)
checked(aten.linalg_householder_product, samples=_samples_of(aten.linalg_householder_product),
        **_SHARED)(householder_product)
checked(aten.ormqr, samples=_samples_of(aten.ormqr), **_SHARED)(ormqr)
