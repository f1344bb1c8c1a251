"""Largest and smallest elements and where they stand: ``max``, ``min``, ``argmax``, ``argmin``,
``aminmax``.

Exact: a NaN wins over every number, else the largest (smallest) element; the index is that of the
*first* such element (documented for all four), and a value with an index has that element's bits.
A value alone may have either sign of zero and any of the line's NaN payloads.  The invariant checks
every result completely; it shares no code with the op (NumPy on the raw memory).

On other devices than a CPU the first of several equal elements is documented, but not in the
kernels that we could run: there any index of an equal element is accepted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.ops._lines import (
    Broken,
    line_bits,
    line_symmetries,
    lines,
    moved_back,
    nothing_to_compute,
    readable,
    same,
    selection_axes,
    unordered_symmetries,
    wrong_values,
)
from sdc_guard.ops._reductions import input_flops, reduced_dims
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values
from sdc_guard.ops._symmetry import RERUN, Symmetry

aten = torch.ops.aten
ARG: dict[bool, Any] = {True: np.argmax, False: np.argmin}


def _extreme(array: Any, largest: bool, **how: Any) -> Any:
    """NaN where there is one, else the extreme element."""
    return np.asarray((np.max if largest else np.min)(array, **how))


def _flat(x: Tensor) -> Any:
    """All elements in one line, in the order of the dimensions."""
    return bits.values(x).reshape(1, -1)


def _index_is_wrong(values: Any, index: Any, largest: bool, first: bool) -> Any:
    """Indices [..., 1] that do not name the (first) extreme element of their line."""
    if first:
        return np.asarray(index != ARG[largest](values, axis=-1)[..., None])
    outside = (index < 0) | (index >= values.shape[-1])
    chosen = np.take_along_axis(values, np.where(outside, 0, index), -1)
    return outside | ~same(chosen, _extreme(values, largest, axis=-1, keepdims=True))


def _fact(largest: bool) -> Any:
    name = "largest" if largest else "smallest"

    def fact(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
        """Values and first indices are those that NumPy finds."""
        x = call["self"]
        if not readable(call, held) or nothing_to_compute(call, held):
            return None
        first = x.device.type == "cpu"
        if len(held) == 1 and held[0].dtype is torch.int64 and "arg" in call.form.packet:
            dim = call.get("dim")
            if dim is None:
                index, values, rank, dim = bits.values(held[0]).reshape(1, 1), _flat(x), 0, 0
            else:
                rank = x.dim()
                dim = dim % max(rank, 1)
                values, index = lines(x, rank, dim), lines(held[0], rank, dim)
            wrong = _index_is_wrong(values, index, largest, first)
            text = f"the index is that of the first {name} element"
            return (0, moved_back(wrong, held[0], rank, dim), text) if wrong.any() else None
        if len(held) == 1:
            expected = _extreme(bits.values(x), largest).reshape(tuple(held[0].shape))
            return wrong_values(held, 0, expected, f"the value is the {name} element")
        rank, dim = x.dim(), call["dim"] % max(x.dim(), 1)
        values, index = lines(x, rank, dim), lines(held[1], rank, dim)
        wrong = _index_is_wrong(values, index, largest, first)
        if wrong.any():
            return (1, moved_back(wrong, held[1], rank, dim),
                    f"the index is that of the first {name} element")
        chosen = np.take_along_axis(line_bits(x, rank, dim), index, -1)
        wrong = line_bits(held[0], rank, dim) != chosen
        return ((0, moved_back(wrong, held[0], rank, dim),
                 f"the value's bits are those of the {name} element") if wrong.any() else None)

    return fact


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """An index changes with the order of its line; a value does not."""
    if any(t.dtype is torch.int64 for t in held) or call.form.packet.startswith("aten.arg"):
        return line_symmetries(call, held) if call.get("dim") is not None else (RERUN,)
    return unordered_symmetries(call, held)


def _samples(op: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in (*FLOATS, torch.int64):
            return []
        draw = draw_values(generator, dtype, "mixed")
        x, lone = draw(9, 37), draw()
        others = (draw(37, 9).t(), draw(8, 70)[1:7, 3:67], draw(3, 5, 7))
        if op is aten.aminmax:
            return [(op.default, (x,), {}), (op.default, (x,), {"dim": 1, "keepdim": True}),
                    *((op.default, (y,), {"dim": 0}) for y in others)]
        if op in (aten.argmax, aten.argmin):
            return [(op.default, (x,), {}), (op.default, (lone,), {}),
                    (op.default, (x, 1, True), {}), *((op.default, (y, 0), {}) for y in others),
                    (op.out, (x, 1), {"out": torch.empty(9, dtype=torch.int64)})]
        out = op.dim_max if op is aten.max else op.dim_min
        names = ("max", "max_values") if op is aten.max else ("min", "min_indices")
        memory = dict(zip(names, (draw(9), torch.empty(9, dtype=torch.int64)), strict=True))
        return [(op.default, (x,), {}), (op.default, (lone,), {}), (op.dim, (x, 1, True), {}),
                *((op.dim, (y, 0), {}) for y in others), (op.dim, (lone, 0), {}),
                (op.unary_out, (x,), {"out": draw()}), (out, (x, 1), memory)]

    return samples


def _register(op: Any, largest: bool, text: str) -> None:
    def reference(call: HostCall) -> tuple[Reference | None, ...]:
        if (held := call.held[0]).dtype is not call["self"].dtype or "arg" in call.call.form.packet:
            return (None,)
        if not readable(call.call, call.held) or nothing_to_compute(call.call, call.held):
            return tuple(None for _ in call.held)
        x = call.array("self")
        value = _extreme(x, largest, axis=reduced_dims(call.call) if x.ndim else None)
        found = Reference(value.reshape(tuple(held.shape)), 0.0, 0.0, "exact")
        return (found, *(None for _ in call.held[1:]))

    reference.__doc__ = text
    reference.__module__ = __name__
    checked(op, family="reduction", axes=selection_axes, symmetries=_symmetries,
            invariant=_fact(largest), proves=readable, flops=input_flops, reduction=True,
            samples=_samples(op))(reference)


_register(aten.max, True, "The largest element of all or of each line, and where it stands first.")
_register(aten.min, False, "The smallest element of all or of each line, and where it is first.")
_register(aten.argmax, True, "Where the largest element stands first.")
_register(aten.argmin, False, "Where the smallest element stands first.")


def _both_extremes(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
    """Smallest and largest element of all, or of each line."""
    if not readable(call, held) or nothing_to_compute(call, held):
        return None
    x = bits.values(call["self"])
    axis = reduced_dims(call) if x.ndim else None
    for output, largest in ((0, False), (1, True)):
        found = np.asarray(_extreme(x, largest, axis=axis)).reshape(tuple(held[output].shape))
        text = "NaN, or the largest element" if largest else "NaN, or the smallest element"
        wrong = wrong_values(held, output, found, text)
        if wrong is not None:
            return wrong
    return None


@checked(aten.aminmax, family="reduction", axes=selection_axes, symmetries=_symmetries,
         invariant=_both_extremes, proves=readable, flops=input_flops, reduction=True,
         samples=_samples(aten.aminmax))
def aminmax(call: HostCall) -> tuple[Reference | None, ...]:
    """The smallest and the largest element of all or of each line."""
    x = call.array("self")
    if not x.size:
        return (None, None)
    axis = reduced_dims(call.call) if x.ndim else None
    shape = tuple(call.held[0].shape)
    return tuple(Reference(_extreme(x, largest, axis=axis).reshape(shape), 0.0, 0.0, "exact")
                 for largest in (False, True))
