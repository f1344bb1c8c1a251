"""LU factorizations: ``linalg_lu_factor_ex``, ``linalg_lu``, ``lu_unpack``, ``_linalg_det`` and
``_linalg_slogdet``.

Judged: ``|L U - P A|`` by ``sdc_guard.bounds.lu`` (contract: elimination by conventional kernels,
measured with MKL 2024.2; proof: any blocks); pivots are swaps with later rows, ``info`` is the
place of the first zero pivot, triangles are exactly 0 and the diagonal of L exactly 1; the
determinant is the product of the diagonal of the U that is returned with it.  ``_linalg_det`` and
its kin factor the matrix or its transpose, as its layout has it, so each is permitted.

Not judged: matrices that are not finite or whose factors may overflow, a determinant that may
underflow on the way, and all calls while products may round their operands.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds import lu as bound
from sdc_guard.bounds.gamma import gamma, own_rounding
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT64, Format, format_of, is_covered_float
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
from sdc_guard.ops._registry import HostCall, Reference, Residual, blame_matrices, checked
from sdc_guard.ops._samples import SampleList, draw_values
from sdc_guard.ops._symmetry import Move, Symmetry

aten = torch.ops.aten
FORMULA = "|L U - P A| <= gamma_{n+2} |L||U|"
LOG_ULPS = 8.0
"""Units in the last place by which a logarithm may err."""

OUTPUTS = {
    "aten.linalg_lu_factor_ex": (MATRIX, FIXED, ""),
    "aten.linalg_lu": (MATRIX, MATRIX, MATRIX),
    "aten._linalg_det": ("", MATRIX, FIXED),
    "aten._linalg_slogdet": ("", "", MATRIX, FIXED),
    "aten.lu_unpack": (MATRIX, MATRIX, MATRIX),
}
OPERANDS = {"LU_pivots": FIXED}


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    packet = call.form.packet
    shape = tuple(next(t for _, t in call.tensors()).shape[:-2])
    named = {path: batch_labels(t, shape, OPERANDS.get(call.form.argument_names[path[0]], MATRIX))
             for path, t in call.tensors() if path[0] not in call.form.overwrites}
    for path, t in call.tensors():
        named.setdefault(path, (FIXED,) * t.dim())
    outputs = tuple((FIXED,) * t.dim() if not t.numel() else batch_labels(t, shape, last)
                    for t, last in zip(held, OUTPUTS[packet], strict=True))
    return Axes(named, outputs)


def _flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    a = next(t for _, t in call.tensors())
    return int(a.numel() * min(a.shape[-2:]))


def _batched(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    matrix = next((t for t in held if t.dim() >= 2 and t.numel()), held[0])
    return batch_moves(call, (matrix, *held)) if matrix.dim() >= 2 else ()


UNDO = {
    "aten.linalg_lu_factor_ex": (upper_times(0.25), same, same),
    "aten.linalg_lu": (same, same, times(0.25)),
    "aten._linalg_det": (None, upper_times(0.25), same),
    "aten._linalg_slogdet": (same, None, upper_times(0.25), same),
}


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Four times the matrix has the same L and pivots and four times the U, bit for bit; so has the
    negated one the negated U (1,152 calls each)."""
    packet = call.form.packet
    if packet == "aten.lu_unpack":
        return relations(call, *_batched(call, held))
    signs = (Symmetry("negate A", (Move("negate", operands=("A",), outputs=(2,)),),
                      frozenset({"address", "bits"}), True),) if packet == "aten.linalg_lu" else ()
    return relations(call, *_batched(call, held), scaled("A", UNDO[packet], known=True), *signs)


def _samples_of(op: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in FLOATS:
            return []
        draw = draw_values(generator, dtype, "any")
        if op is aten.lu_unpack:
            pairs = [torch.linalg.lu_factor(draw(*s)) for s in ((7, 7), (3, 9, 5), (4, 8))]
            return [*((op.default, pair, {}) for pair in pairs),
                    (op.default, (*pairs[0], True, False), {}),
                    (op.default, (*pairs[0], False, True), {})]
        square: SampleList = [(op.default, (x,), {}) for x in (
            draw(7, 7), draw(65, 65).t(), draw(4, 8, 8), draw(3, 5, 5), draw(1, 1),
            draw(2, 3, 10, 5)[..., ::2, :])]
        if op is aten._linalg_det or op is aten._linalg_slogdet:
            return square
        wide: SampleList = [(op.default, (x,), {})
                            for x in (draw(9, 5), draw(5, 9).t(), draw(3, 5, 9))]
        if op is aten.linalg_lu:
            return [*square, *wide, (op.out, (draw(5, 5),), {
                "P": draw(5, 5), "L": draw(5, 5), "U": draw(5, 5)})]
        return [*square, *wide, (op.out, (draw(5, 5),), {
            "LU": draw(5, 5), "pivots": torch.zeros(5, dtype=torch.int32),
            "info": torch.zeros((), dtype=torch.int32)})]

    return samples


def lu_residual(
    held: Tensor, output: int, a: NDArray[Any], lower: NDArray[Any], upper: NDArray[Any],
    order: NDArray[np.int64], either: bool,
) -> Residual:
    """``L U`` against the rows of A, or with ``either`` of its transpose, in the order of the
    pivots."""
    fmt = format_of(held.dtype.to_real())
    finite = np.isfinite(a).all((-2, -1), keepdims=True)
    got = (np.isfinite(lower).all((-2, -1), keepdims=True)
           & np.isfinite(upper).all((-2, -1), keepdims=True))
    lower, upper = np.where(got, lower, 0.0), np.where(got, upper, 0.0)
    product = np.matmul(lower, upper)
    size = np.matmul(np.abs(lower), np.abs(upper)).max((-2, -1), keepdims=True, initial=0.0)
    inside = got & (4 * size < fmt.max) & finite
    limits = bound.limits(lower, upper, fmt)
    defect = np.abs(product - bound.permuted(a, order))
    if either:
        other = np.abs(product - bound.permuted(transposed(a), order))
        closer = _share(other, limits[1]) < _share(defect, limits[1])
        defect = np.where(closer, other, defect)
    sure = (inside, inside) if inside.all() else bound.stays_finite(a, fmt)
    proof, contract = (np.where(inside, limit, np.where(known, 0.0, np.inf))
                       for limit, known in zip(limits, sure, strict=True))
    return Residual(output, np.where(inside, defect, np.inf), proof, measured(contract, held),
                    FORMULA, 0.0, blame_matrices)


def _share(defect: NDArray[Any], limit: NDArray[Any]) -> NDArray[Any]:
    share = np.where(limit > 0, defect / limit, defect)
    return np.asarray(share.max((-2, -1), keepdims=True, initial=0.0))


def is_of_transpose(
    a: NDArray[Any], lower: NDArray[Any], upper: NDArray[Any], order: NDArray[np.int64], fmt: Format
) -> bool:
    """True if the factors are closer to the transpose of A, over all matrices of a batch."""
    product, limit = np.matmul(lower, upper), bound.limits(lower, upper, fmt)[1]
    own, other = (np.nan_to_num(_share(np.abs(product - bound.permuted(x, order)), limit), nan=0.0)
                  for x in (a, transposed(a)))
    return bool(np.median(other - own) < 0)


def valid_pivots(pivots: NDArray[Any], m: int) -> NDArray[np.bool_]:
    """True where a pivot is the 1-based number of its own or of a later row."""
    steps = np.arange(1, pivots.shape[-1] + 1)
    return np.asarray((pivots >= steps) & (pivots <= m))


def _packed(call: HostCall, first: int, either: bool) -> tuple[Residual, ...]:
    """Of results ``LU, pivots`` from number ``first`` on."""
    held = call.held[first]
    if not is_covered_float(held.dtype) or in_reduced_precision(held):
        return ()
    if call.get("pivot") is False:  # elements may grow without limit
        return ()
    packed, pivots = bits.values(held), bits.values(call.held[first + 1])
    if not valid_pivots(pivots, packed.shape[-2]).all():
        return ()  # the invariant says so
    order = bound.permutation(pivots, packed.shape[-2])
    return (lu_residual(held, first, call.array("A"), *bound.unpacked(packed), order, either),)


def pivot_fact(pivots: Tensor, output: int, packed: Tensor) -> Broken:
    """Pivots name rows that are not done yet."""
    wrong = ~valid_pivots(bits.values(pivots), packed.shape[-2])
    return (output, wrong, "pivot i is a row from i on") if wrong.any() else None


def info_fact(info: Tensor, output: int, packed: Tensor) -> Broken:
    """``info`` is the 1-based place of the first pivot that is exactly 0, or 0."""
    if not is_covered_float(packed.dtype):
        return None
    values = bits.values(packed)
    zero = np.diagonal(values, axis1=-2, axis2=-1) == 0
    first = np.where(zero.any(-1), zero.argmax(-1) + 1, 0) if zero.shape[-1] else np.zeros(
        zero.shape[:-1])
    wrong = (bits.values(info) != first) & np.isfinite(values).all((-2, -1))
    return (output, np.asarray(wrong), "the first pivot that is 0") if wrong.any() else None


def _factor_fact(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
    """Pivots, and ``info`` where it is a result."""
    first = 1 if call.form.packet == "aten._linalg_det" else 2
    if call.form.packet == "aten.linalg_lu_factor_ex":
        return pivot_fact(held[1], 1, held[0]) or info_fact(held[2], 2, held[0])
    return pivot_fact(held[first + 1], first + 1, held[first])


def factor(call: HostCall) -> tuple[Residual, ...]:
    """``P A = L U`` in one matrix: ``|L U - P A| <= gamma_{n+2} |L||U|``."""
    return _packed(call, 0, False)


def _diagonal(call: HostCall, first: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The diagonal of U and the sign of the permutation."""
    d = np.diagonal(bits.values(call.held[first]), axis1=-2, axis2=-1)
    pivots = bits.values(call.held[first + 1])
    swaps = (pivots != np.arange(1, pivots.shape[-1] + 1)).sum(-1)
    return d, np.where(swaps % 2, -1.0, 1.0)


def det(call: HostCall) -> tuple[Residual, ...]:
    """``+-u_11 ... u_nn`` of the U that is returned with it, within ``gamma_{n+1} |det|``; and of
    that ``|L U - P A| <= gamma_{n+2} |L||U|``."""
    packed = _packed(call, 1, True)
    if not packed:
        return ()
    fmt = call.out_format()
    d, sign = _diagonal(call, 1)
    n = d.shape[-1]
    wide = np.longdouble if fmt is FLOAT64 else np.float64
    expected = (sign * d.astype(wide).prod(-1)).astype(np.float64)
    size = np.abs(d)
    most, least = np.maximum(size, 1.0).prod(-1), np.where(size > 0, np.minimum(size, 1.0), 1.0)
    limit = gamma(n + 1, fmt.u) * np.abs(expected) + own_rounding(n + 2, expected)
    inside = (most < fmt.max / 2) & (least.prod(-1) >= fmt.tiny * 4)
    limit = np.where(inside, limit, np.inf)
    defect = np.asarray(np.abs(bits.values(call.held[0]) - expected))
    return (*packed, Residual(0, defect, limit, limit, "gamma_{n+1} |u_11 ... u_nn|"))


def slogdet(call: HostCall) -> tuple[Residual, ...]:
    """The sign exactly, and ``sum log|u_ii|`` within ``(16 u + gamma_n) sum|log|u_ii||``, of the U
    that is returned with it; and of that ``|L U - P A| <= gamma_{n+2} |L||U|``."""
    packed = _packed(call, 2, True)
    if not packed:
        return ()
    fmt = call.out_format()
    d, sign = _diagonal(call, 2)
    n = d.shape[-1]
    finite = np.isfinite(d).all(-1)
    signs = sign * np.sign(d).prod(-1)
    exact = np.where(finite, 0.0, np.inf)
    wide = np.longdouble if fmt is FLOAT64 else np.float64
    logs = np.log(np.abs(d.astype(wide)))
    total = logs.sum(-1).astype(np.float64)
    size = np.abs(logs).sum(-1).astype(np.float64)
    limit = (2 * LOG_ULPS * fmt.u + gamma(n, fmt.u)) * size + n * fmt.eta + own_rounding(n, size)
    limit = np.where((d == 0).any(-1), 0.0, limit)
    got = bits.values(call.held[1])
    gap = np.asarray(np.where(got == total, 0.0, np.abs(got - total)))
    wrong_sign = np.asarray(np.abs(bits.values(call.held[0]) - signs))
    return (*packed, Residual(0, wrong_sign, exact, exact, "the sign of u_11 ... u_nn"),
            Residual(1, gap, None, np.where(finite, limit, np.inf),
                     "(16 u + gamma_n) sum|log|u_ii||"))


def unpack_parts(call: HostCall) -> tuple[Residual, ...]:
    """``linalg_lu``: ``|P L U - A| <= gamma_{n+2} |L||U|``."""
    held = call.held[2]
    if not is_covered_float(held.dtype) or in_reduced_precision(held):
        return ()
    p, lower, upper = (bits.values(t) for t in call.held)
    if not call["pivot"]:
        return ()
    order = p.argmax(-2) if p.shape[-1] else np.zeros(p.shape[:-1], dtype=np.int64)
    return (lu_residual(held, 2, call.array("A"), lower, upper, order, False),)


def _shape_fact(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
    """P is a permutation, L unit lower triangular, U upper triangular."""
    p, lower, upper = (bits.values(t) for t in held)
    if p.size:
        wrong = (p != 0) & (p != 1) | (p.sum(-1, keepdims=True) != 1) | (
            p.sum(-2, keepdims=True) != 1)
        if wrong.any():
            return 0, wrong, "a permutation"
    if lower.size:
        wrong = (lower != np.tril(lower)) & ~np.isnan(np.tril(lower))
        i = np.arange(min(lower.shape[-2:]))
        wrong[..., i, i] |= lower[..., i, i] != 1
        if wrong.any():
            return 1, wrong, "lower triangular with ones on the diagonal"
    wrong = (upper != np.triu(upper)) & ~np.isnan(np.triu(upper))
    return (2, wrong, "upper triangular") if wrong.any() else None


def _unpacks(call: BoundCall, held: tuple[Tensor, ...]) -> bool:
    return bits.has_values(held[2].dtype)


def _unpack_fact(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
    """Every bit of P, L and U from LU and the pivots."""
    packed, pivots = call["LU_data"], call["LU_pivots"]
    m, n = packed.shape[-2:]
    k = min(m, n)
    if call["unpack_pivots"] and held[0].numel():
        values = bits.values(pivots)
        if not valid_pivots(values, m).all():
            return None
        order = bound.permutation(values, m)
        expected = order[..., None, :] == np.arange(m)[:, None]
        wrong = np.asarray(bits.values(held[0]) != expected)
        if wrong.any():
            return 0, wrong, "row pivots[i] of P has its 1 in column i"
    if not call["unpack_data"]:
        return None
    raw = bits.raw(bits.on_host(packed))
    lower, upper = bits.raw(bits.on_host(held[1])), bits.raw(bits.on_host(held[2]))
    unit = torch.ones((), dtype=packed.dtype)
    one = bits.raw(unit)
    want = np.tril(raw[..., :k], -1)
    i = np.arange(k)
    want[..., i, i] = one
    for output, got, expected in ((1, lower, want), (2, upper, np.triu(raw[..., :k, :]))):
        wrong = np.asarray(got != expected)
        if wrong.any():
            return output, wrong, "the bits of the packed factors"
    return None


def unpack(call: HostCall) -> tuple[Reference | None, ...]:
    """P, L and U copied out of a packed factorization, every bit."""
    return (None, None, None)


_SHARED: dict[str, Any] = {"family": "linalg", "axes": _axes, "symmetries": _symmetries,
                           "flops": _flops}
checked(aten.linalg_lu_factor_ex, by="residual", invariant=_factor_fact, window=BATCH,
        samples=_samples_of(aten.linalg_lu_factor_ex), **_SHARED)(factor)
checked(aten.linalg_lu, by="residual", invariant=_shape_fact, window=BATCH,
        samples=_samples_of(aten.linalg_lu), **_SHARED)(unpack_parts)
checked(aten._linalg_det, by="residual", invariant=_factor_fact, window=BATCH,
        samples=_samples_of(aten._linalg_det), **_SHARED)(det)
checked(aten._linalg_slogdet, by="residual", invariant=_factor_fact, window=BATCH,
        samples=_samples_of(aten._linalg_slogdet), **_SHARED)(slogdet)
checked(aten.lu_unpack, invariant=_unpack_fact, proves=_unpacks,
        samples=_samples_of(aten.lu_unpack), **_SHARED)(unpack)
