"""``addr``: ``beta C + alpha a b^T``, elementwise.

At most six roundings, of the two factors, three products and a sum, in the format of the result:
ATen's CPU kernel computes half formats in it (``addr_kernel`` in
``aten/src/ATen/native/cpu/LinearAlgebraKernel.cpp``):
``6 u (|beta c| + |alpha a b|)`` and underflow of the partial products.  ``beta = 0`` ignores C.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.gamma import gamma, own_rounding
from sdc_guard.calls import BoundCall
from sdc_guard.formats import is_covered_float
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._products import Call, factor
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._symmetry import RERUN, Symmetry, negate, roll, split

aten = torch.ops.aten
ROUNDINGS = 6


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    labels = ("m", "n")
    c = call["self"]
    start = tuple(x if c.shape[i - c.dim()] == held[0].shape[i] else FIXED
                  for i, x in enumerate(labels) if i >= 2 - c.dim())
    return Axes({(0,): start, (1,): ("m",), (2,): ("n",)}, (labels,))


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    m, n = held[0].shape
    # The vector body and the scalar tail of a line contract a product and a sum differently.
    known = call["self"].is_contiguous() and call["self"].dim() == 2 and n > 1
    rows = (split("m", known=known), roll("m", known=known)) if m > 1 else ()
    columns = (roll("n", lane=True, known=False),) if n > 1 else ()
    signed = (negate("self", "vec1"),) if held[0].is_floating_point() else ()
    return (*rows, *columns, *signed) or (RERUN,)


def _samples(generator: torch.Generator, dtype: torch.dtype) -> list[Call]:
    if dtype.is_complex or dtype is torch.bool:
        return []
    a, b, c = (factor(generator, dtype, *s) for s in ((9,), (37,), (9, 37)))
    op = aten.addr
    return [(op.default, (c, a, b), {}), (op.default, (c, a, b), {"beta": 2, "alpha": -3}),
            (op.default, (b, a, b), {"beta": 0}),
            (op.default, (factor(generator, dtype, 9, 37, transposed=True), a, b), {}),
            (op.default, (c, factor(generator, dtype, 18)[::2], b), {"alpha": 3}),
            (aten.addr_.default, (c.clone(), a, b), {}),
            (op.out, (c, a, b), {"out": torch.empty(9, 37, dtype=dtype)})]


@checked(aten.addr, family="product", axes=_axes, symmetries=_symmetries, window=("m", "n"),
         samples=_samples)
def addr(call: HostCall) -> tuple[Reference | None, ...]:
    """``beta c_ij + alpha a_i b_j``."""
    held = call.held[0]
    if any(call[n].dtype is not held.dtype for n in ("self", "vec1", "vec2")):
        return (None,)
    if held.dtype is torch.bool or not bits.has_values(held.dtype):
        return (None,)
    a, b, start = call.array("vec1")[:, None], call.array("vec2"), call.array("self")
    if not held.is_floating_point():
        kept = int(call["beta"]) * start.astype(np.int64)
        exact = kept + int(call["alpha"]) * a.astype(np.int64) * b.astype(np.int64)
        return (Reference(exact.astype(bits.values(held).dtype), 0.0, 0.0, "exact"),)
    if not is_covered_float(held.dtype):
        return (None,)
    alpha, beta, out = float(call["alpha"]), float(call["beta"]), call.out_format()
    with np.errstate(all="ignore"):
        added = beta * start if beta else np.zeros(())
        product = alpha * a * b
        size = np.abs(added) + np.abs(product)
        error = gamma(ROUNDINGS, out.u) * size + own_rounding(4, size)
        error = error + 2 * out.eta * (2 + np.abs(a) + np.abs(b) + abs(alpha))
        partial = np.maximum(np.abs(a * b), np.maximum(np.abs(alpha * a), np.abs(alpha * b)))
    return (Reference(added + product, error, error, "6 u (|beta c| + |alpha a b|)",
                      np.maximum(size, partial)),)
