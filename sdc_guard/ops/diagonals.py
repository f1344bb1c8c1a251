"""Diagonals: ``trace``, and copies of and into diagonals.

A copy has an exact fact: every element on the diagonal has the bits of the one that belongs there,
every other one is that of the operand, or 0.  ``trace`` is a sum of n terms, any order in the
proof; ATen's CPU kernel adds in ``at::acc_type``, fp64 for fp32 (``trace_cpu`` in
``aten/src/ATen/native/ReduceOps.cpp``), which is the contract there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.gamma import stored
from sdc_guard.bounds.sums import any_order, reference_error
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT32, FLOAT64, accumulator_of, is_covered_float
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._lines import Broken
from sdc_guard.ops._places import odd_in
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import SampleList, draw_values
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry

aten = torch.ops.aten


def _fixed(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    return Axes({path: (FIXED,) * t.dim() for path, t in call.tensors()},
                tuple((FIXED,) * t.dim() for t in held))


def _transposed(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    """The same diagonal, of the transposed matrix in memory of its own."""
    return call.replaced(self=call["self"].t().clone(memory_format=torch.contiguous_format)).run()


TRANSPOSED = Symmetry("transpose", (Move("custom", function=_transposed),),
                      frozenset({"address", "tile"}), True)


def _trace_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    return (TRANSPOSED, *odd_in(call, "self"))


def _trace_flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    return int(min(call["self"].shape))


def _trace_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype is torch.bool:
        return []
    draw = draw_values(generator, dtype, "any")
    op = aten.trace
    return [(op.default, (x,), {}) for x in (draw(7, 7), draw(33, 65), draw(65, 33).t(),
                                             draw(300, 600)[:, ::2], draw(1, 1))]


@checked(aten.trace, family="reduction", axes=_fixed, symmetries=_trace_symmetries,
         flops=_trace_flops, reduction=True, samples=_trace_samples)
def trace(call: HostCall) -> tuple[Reference | None, ...]:
    """``|s - sum x_ii| <= (n - 1) u sum|x_ii|``."""
    held = call.held[0]
    if not bits.has_values(call["self"].dtype):
        return (None,)
    x = np.diagonal(call.array("self"))
    if not held.is_floating_point():
        exact = x.sum(dtype=np.int64).astype(bits.values(held).dtype)
        return (Reference(np.asarray(exact), 0.0, 0.0, "exact integers modulo 2^b"),)
    if not is_covered_float(held.dtype):
        return (None,)
    out, acc = call.out_format(), accumulator_of(held.dtype)
    wide = np.longdouble if out is FLOAT64 else np.float64
    total, size = np.asarray(x.sum(dtype=wide).astype(np.float64)), np.asarray(np.abs(x).sum())
    own = reference_error(x.size, size, float(np.finfo(wide).eps) / 2)
    inner = FLOAT64 if held.device.type == "cpu" and out is FLOAT32 else acc
    proof, contract = (any_order(x.size, size, fmt) + own for fmt in (acc, inner))
    if out.precision < inner.precision:
        contract = stored(contract, total, out)
    if out.precision < acc.precision:
        proof = stored(proof, total, out)
    return (Reference(total, np.maximum(proof, contract), contract, "(n - 1) u sum|x_ii|", size),)


def _offset(call: BoundCall, image: Any) -> int:
    """The diagonal's number, no further outside than the nearest empty one: NumPy negates a C
    ``int``, and reads outside of the array for the least one."""
    reach = max(image.shape, default=0)
    return max(-reach, min(reach, int(call["offset"])))


def _expected(call: BoundCall, held: Tensor) -> Any:
    """The bits of the result of a copy from or into a diagonal."""
    def raw(t: Tensor) -> Any:
        return bits.raw(bits.on_host(t))

    dims = int(call["dim1"]), int(call["dim2"])
    packet = call.form.packet
    if packet == "aten.diagonal_copy":
        image = raw(call["self"])
        return np.diagonal(image, _offset(call, image), *dims)
    source = {"aten.diagonal_scatter": "src", "aten.diagonal_backward": "grad_output"}
    image = (np.array(raw(call["self"])) if packet == "aten.diagonal_scatter"
             else np.zeros(tuple(held.shape), dtype=raw(held).dtype))
    diagonal = np.diagonal(image, _offset(call, image), *dims)
    diagonal.flags.writeable = True
    diagonal[...] = raw(call[source.get(packet, "self")])
    return image


def _keeps_bits(call: BoundCall, held: tuple[Tensor, ...]) -> bool:
    return (bits.has_values(held[0].dtype)
            and all(t.dtype is held[0].dtype for _, t in call.tensors()))


def _copy_fact(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
    """Bits of the diagonal at their places."""
    if not _keeps_bits(call, held) or not held[0].numel():
        return None
    wrong = bits.raw(bits.on_host(held[0])) != _expected(call, held[0])
    text = "the bits of the diagonal at their places, the others kept or 0"
    return (0, np.asarray(wrong), text) if wrong.any() else None


def _copy_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    names = [n for n in ("self", "src", "grad_output") if isinstance(call.get(n), Tensor)]
    return (*odd_in(call, *names), RERUN)


def _copy_samples(op: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        draw = draw_values(generator, dtype, "mixed")
        x, cube = draw(9, 37), draw(3, 5, 7)
        if op is aten.diagonal_copy:
            return [(op.default, (x,), {}), (op.default, (x.t(), -2), {}),
                    (op.default, (cube, 1, 0, -1), {})]
        if op is aten.diag_embed:
            return [(op.default, (draw(7),), {}), (op.default, (x.t(), 1), {}),
                    (op.default, (x, -2, 0, 2), {})]
        if op is aten.diagonal_backward:
            return [(op.default, (draw(9), [9, 37], 0, 0, 1), {}),
                    (op.default, (draw(5, 3), [3, 5, 7], 1, 0, -1), {})]
        return [(op.default, (x, draw(9)), {}), (op.default, (x.t(), draw(7), -30), {}),
                (op.default, (cube, draw(5, 3), 1, 0, -1), {})]

    return samples


def _register(op: Any, text: str) -> None:
    def reference(call: HostCall) -> tuple[Reference | None, ...]:
        held = call.held[0]
        if not _keeps_bits(call.call, tuple(call.held)):
            return (None,)
        kept = np.array(_expected(call.call, held), order="C")
        kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        memory = torch.from_numpy(kept.view(f"i{kept.itemsize}")) if kept.itemsize > 1 \
            else torch.from_numpy(kept)
        return (Reference(bits.values(memory.view(kind[kept.itemsize]).view(held.dtype)),
                          0.0, 0.0, "exact"),)

    reference.__doc__ = text
    reference.__module__ = __name__
    checked(op, family="copy", axes=_fixed, symmetries=_copy_symmetries, invariant=_copy_fact,
            proves=_keeps_bits, samples=_copy_samples(op))(reference)


_register(aten.diagonal_copy, "The elements on a diagonal.")
_register(aten.diag_embed, "Vectors on a diagonal, 0 elsewhere.")
_register(aten.diagonal_backward, "A gradient on a diagonal, 0 elsewhere.")
_register(aten.diagonal_scatter, "The operand with another diagonal.")
