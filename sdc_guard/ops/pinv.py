"""``linalg_pinv``: the pseudoinverse, by the equation ``A X A = A``.

ATen inverts the singular values above ``cut = max(atol, rtol s_1)`` and drops the others.  With the
decomposition exact for ``A + E``, ``||E|| <= p u ||A||`` (``sdc_guard.bounds.spectral``), what is
dropped is at most ``cut`` for each value, and the products around it err by ``p u ||A||^2 ||X||``:
``||A X A - A|| <= 2 sqrt(k) cut + 4 p u ||A|| (1 + ||A|| ||X||)``, a contract like that of the
decomposition.  Of ``hermitian`` calls the triangle that is read counts as the matrix.

Not judged: matrices that are not finite or near the ends of the range, values so ill conditioned
that ``p u ||A|| ||X|| > 1/8``, and other devices than CPUs.
"""

from __future__ import annotations

import numpy as np
import torch
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
    scaled,
    times,
    transposed,
)
from sdc_guard.ops._registry import HostCall, Residual, blame_matrices, checked
from sdc_guard.ops._samples import SampleList, draw_values
from sdc_guard.ops._symmetry import Symmetry

aten = torch.ops.aten
FORMULA = "||A X A - A|| <= 2 sqrt(k) cut + 4 p u ||A|| (1 + ||A|| ||X||)"


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    shape = tuple(call["self"].shape[:-2])
    named = {path: batch_labels(t, shape, MATRIX) if path == (0,) else (FIXED,) * t.dim()
             for path, t in call.tensors()}
    if any(t.dim() for path, t in call.tensors() if path != (0,)):
        return Axes({p: (FIXED,) * t.dim() for p, t in call.tensors()},
                    tuple((FIXED,) * t.dim() for t in held))
    return Axes(named, tuple(batch_labels(t, shape, MATRIX) for t in held))


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Four times the matrix has a fourth of the pseudoinverse, if no absolute cut is given (384
    calls; learned for each site, see ``_linalg_svd``)."""
    if any(isinstance(call.get(n), Tensor) and call[n].dim() for n in ("atol", "rtol")):
        return relations(call)
    scale = (scaled("self", (times(4.0),), known=False),) if call.get("atol") is None else ()
    return relations(call, *batch_moves(call, held), *scale)


def _flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    a = call["self"]
    return int(10 * a.numel() * min(a.shape[-2:]))


def _samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype not in FLOATS:
        return []
    draw = draw_values(generator, dtype, "any")
    op = aten.linalg_pinv.atol_rtol_tensor
    x = draw(6, 6)
    return [(op, (draw(7, 3),), {}), (op, (draw(4, 9).t(),), {}), (op, (draw(3, 5, 4),), {}),
            (op, (x + x.t(),), {"hermitian": True}), (op, (draw(2, 2),), {}),
            (op, (draw(6, 2) @ draw(2, 6),), {"rtol": torch.tensor(1e-3, dtype=torch.float64)}),
            (op, (draw(4, 8, 8),), {"atol": torch.tensor(0.5, dtype=torch.float64)})]


@checked(aten.linalg_pinv, family="linalg", by="residual", axes=_axes, symmetries=_symmetries,
         flops=_flops, window=BATCH, samples=_samples)
def pinv(call: HostCall) -> tuple[Residual, ...]:
    """``||A X A - A|| <= 2 sqrt(k) cut + 4 p u ||A|| (1 + ||A|| ||X||)``, ``p = 40 (max(m, n) +
    8)``."""
    held = call.held[0]
    names = call.call.form.argument_names
    if (not is_covered_float(held.dtype) or in_reduced_precision(held) or not held.numel()
            or "atol" not in names):
        return ()
    a, x = call.array("self"), bits.values(held)
    fmt = format_of(held.dtype.to_real())
    if call["hermitian"]:
        a = np.tril(a) + transposed(np.tril(a, -1))
    judged = np.isfinite(a).all((-2, -1), keepdims=True)
    a = np.where(judged, a, 0.0)
    judged = judged & bound.in_range(a, fmt)
    k = min(a.shape[-2:])
    absolute = call.number("atol", 0.0)[..., None, None]
    relative = np.where(absolute > 0, 0.0, 2 * fmt.u * max(a.shape[-2:]))
    if call["rtol"] is not None:
        relative = call.number("rtol")[..., None, None]
    size = bound.frobenius(a)
    cut = np.maximum(absolute, relative * size)
    got = np.isfinite(x).all((-2, -1), keepdims=True)
    x = np.where(got, x, 0.0)
    inverse_size = bound.frobenius(x)
    share = bound.share(a.shape, fmt)
    limit = 2 * k**0.5 * cut + 4 * share * size * (1 + size * inverse_size)
    # A cut keeps every inverted value below 1 / cut, so nothing overflows.
    sure = (16 * k < cut * fmt.max) & (cut > fmt.tiny)
    calm = (8 * share * size * inverse_size <= 1) & (inverse_size < fmt.max / 16)
    judged = judged & np.where(got, calm, sure)
    difference = bound.frobenius(np.matmul(a, np.matmul(x, a)) - a)
    limit = np.broadcast_to(np.where(judged, limit, np.inf), difference.shape)
    return (Residual(0, np.where(got, difference, np.inf), None, measured(limit, held), FORMULA,
                     0.0, blame_matrices),)
