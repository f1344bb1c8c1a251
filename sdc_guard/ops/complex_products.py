"""Products of complex matrices and vectors.

Either part of ``C = A B`` is a real product of twice the inner dimension,

    Re C = [Re A, -Im A] [Re B; Im B],      Im C = [Re A, Im A] [Im B; Re B],

so the real op's bounds hold for it, in any order of its 2k terms: ``gamma_2k`` instead of
``gamma_k``.  An addend and real factors ``alpha`` and ``beta`` go with the parts; a complex factor
mixes them, which replay alone judges.  ``vdot`` conjugates its first operand.  Premise: no product
in three multiplications (``cgemm3m``), which has another bound and which torch does not call.

Place: as little is promised as for real products in double precision; rows and columns roll where a
site shows that they do.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.complex_numbers import relative
from sdc_guard.bounds.gamma import own_rounding
from sdc_guard.calls import BoundCall
from sdc_guard.ops._complex import Split, by_parts, part_call, part_of
from sdc_guard.ops._products import operand_names
from sdc_guard.ops._registry import (
    HostCall,
    OpSpec,
    Reference,
    packet_name,
    register_derived,
)
from sdc_guard.ops.complex_arithmetic import finite, operand
from sdc_guard.ops.vector_products import factors

aten = torch.ops.aten
Array = NDArray[Any]


def _both(first: Array, second: Array, axis: int) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.concatenate([first, second], axis)))


def _numbers(tensor: Tensor, part: int) -> Array:
    """A part of a tensor in its own format."""
    found = bits.values(part_of(tensor, part))
    return found.astype(np.float32 if tensor.dtype is torch.complex64 else np.float64)


def _product_split(vectors: bool, conjugated: bool = False) -> Split:
    """The real product that gives a part; its factors are matrices, or end in a vector."""

    def split(call: BoundCall, part: int) -> BoundCall | None:
        rest = part_call(call, part)
        left, right = factors(call) if vectors else operand_names(call)
        a, b = call[left], call[right]
        if rest is None or not (a.is_complex() and b.is_complex()) or any(
                isinstance(call.get(n), complex) for n in ("alpha", "beta")):
            return None
        a_real, a_imag = _numbers(a, 0), _numbers(a, 1)
        b_real, b_imag = _numbers(b, 0), _numbers(b, 1)
        if conjugated:
            a_imag = -a_imag
        if part:
            return rest.replaced(**{left: _both(a_real, a_imag, -1),
                                    right: _both(b_imag, b_real, -1 if vectors else -2)})
        return rest.replaced(**{left: _both(a_real, -a_imag, -1),
                                right: _both(b_real, b_imag, -1 if vectors else -2)})

    return split


for _op in (aten.mm, aten.addmm, aten.bmm, aten.baddbmm):
    register_derived(packet_name(_op),
                     partial(by_parts, known=False, split=_product_split(vectors=False)))
for _op in (aten.mv, aten.addmv, aten.dot):
    register_derived(packet_name(_op),
                     partial(by_parts, known=False, split=_product_split(vectors=True)))
register_derived("aten.vdot", partial(by_parts, known=False,
                                      split=_product_split(vectors=True, conjugated=True)))


def _addr(call: HostCall) -> tuple[Reference | None, ...]:
    """``beta c + alpha a b^T``: three products and a sum, ``sqrt(2) gamma_8`` of the moduli of the
    terms."""
    held = call.held[0]
    if any(t.dtype is not held.dtype for _, t in call.call.tensors()):
        return (None,)
    fmt = call.out_format()
    with np.errstate(all="ignore"):
        a, b, c = operand(call, "vec1")[:, None], operand(call, "vec2"), operand(call, "self")
        alpha, beta = operand(call, "alpha"), operand(call, "beta")
        added = beta * c if beta else np.zeros(())
        product = alpha * a * b
        size = np.abs(added) + np.abs(product)
        lost = 8 * fmt.eta * (2 + np.abs(a) + np.abs(b) + np.abs(alpha))
        limit = relative(8, fmt) * size + lost + own_rounding(4, size)
        partial_sizes = np.maximum(np.abs(a * b), np.maximum(np.abs(alpha * a), np.abs(alpha * b)))
        largest = np.where(finite(a, b, added), np.maximum(size, partial_sizes), np.inf)
    return (Reference(added + product, limit, limit, "sqrt(2) gamma_8 (|beta c| + |alpha a b|)",
                      largest),)


def _cross(call: HostCall) -> tuple[Reference | None, ...]:
    """``a_1 b_2 - a_2 b_1`` and its rotations: ``sqrt(2) gamma_4`` of the moduli of the terms."""
    held = call.held[0]
    if any(t.dtype is not held.dtype for _, t in call.call.tensors()):
        return (None,)
    dim, fmt = call["dim"] % held.dim(), call.out_format()
    a, b = (np.moveaxis(np.broadcast_to(call.array(n), tuple(held.shape)), dim, 0)
            for n in ("self", "other"))
    with np.errstate(all="ignore"):
        first = np.stack([a[1] * b[2], a[2] * b[0], a[0] * b[1]], dim)
        second = np.stack([a[2] * b[1], a[0] * b[2], a[1] * b[0]], dim)
        sizes = [np.abs(x) for x in (a, b)]
        size = np.stack([sizes[0][i] * sizes[1][j] + sizes[0][j] * sizes[1][i]
                         for i, j in ((1, 2), (2, 0), (0, 1))], dim)
        limit = relative(4, fmt) * size + 16 * fmt.eta + own_rounding(4, size)
        largest = np.where(finite(first, second), size, np.inf)
    return (Reference(first - second, limit, limit, "sqrt(2) gamma_4 of the moduli of the terms",
                      largest),)


def _with_reference(reference: Any) -> Any:
    def derive(spec: OpSpec) -> OpSpec:
        found = by_parts(spec, known=False)
        return dataclasses.replace(found, reference=reference, doc=reference.__doc__.strip())

    return derive


register_derived("aten.addr", _with_reference(_addr))
register_derived("aten.linalg_cross", _with_reference(_cross))
