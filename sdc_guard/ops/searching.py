"""``searchsorted`` and ``bucketize``: where each value would stand in its sorted sequence; exact.

The place is the number of boundaries below the value (``right``: not above it).  A sequence that
is not sorted, or has a NaN, has no defined answer and is not judged; nor is a Python number that
the sequence's dtype does not hold.  Place: sequences and values split and roll.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall, Path
from sdc_guard.ops._axes import FIXED, Axes, Labels
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values
from sdc_guard.ops._symmetry import OUTERMOST, RERUN, Symmetry, roll, split

aten = torch.ops.aten


def _sequence(call: BoundCall) -> str:
    return "boundaries" if "boundaries" in call.form.argument_names else "sorted_sequence"


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    """Values move freely against one sequence; with a sequence a line, lines move together."""
    rank = held[0].dim()
    sequence = call[_sequence(call)]
    alone = sequence.dim() == 1
    labels = tuple(f"d{d}" if alone or d < rank - 1 else FIXED for d in range(rank))
    lines: Labels = (FIXED,) if alone else (*labels[:-1], FIXED)
    position = call.form.position
    named: dict[Path, Labels] = {(position(_sequence(call)),): lines}
    if isinstance(call["self"], Tensor):
        named[position("self"),] = labels
    if isinstance(call.get("sorter"), Tensor):
        named[position("sorter"),] = lines
    return Axes(named, (labels,))


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    labels = _axes(call, held).outputs[0]
    sizes = {x: int(held[0].shape[d]) for d, x in enumerate(labels) if x != FIXED}
    longest = max(sizes, key=lambda x: sizes[x], default="")
    if not longest or sizes[longest] < 2:
        return (RERUN,)
    return split(longest), roll(longest, lane=True)


def _samples(op: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in (*FLOATS, torch.int64):
            return []
        draw = draw_values(generator, dtype, "any")
        line, values = draw(33).sort().values, draw(9, 37)
        if op is aten.bucketize:
            return [(op.Tensor, (values, line), {}), (op.Tensor, (values.t(), line),
                    {"right": True, "out_int32": True}), (op.Scalar, (1, line), {}),
                    (op.Tensor_out, (values, line), {"out": torch.empty(9, 37, dtype=torch.int64)})]
        lines = draw(9, 33).sort().values
        shuffled = draw(9, 33)
        return [(op.Tensor, (line, values), {}), (op.Tensor, (lines, values), {"right": True}),
                (op.Tensor, (lines, values[:, ::2]), {"side": "right", "out_int32": True}),
                (op.Tensor, (shuffled, values), {"sorter": shuffled.argsort()}),
                (op.Scalar, (line, 1), {})]

    return samples


def _places(lines: Any, values: Any, right: bool) -> Any:
    """Numbers of boundaries before each value, line by line."""
    side: Any = "right" if right else "left"
    found = np.empty(values.shape, dtype=np.int64)
    for i in range(len(values)):
        found[i] = np.searchsorted(lines[i % len(lines)], values[i], side=side)
    return found


def _reference(call: HostCall) -> tuple[Reference | None, ...]:
    held, sequence = call.held[0], call[_sequence(call.call)]
    values = call["self"]
    if not bits.has_values(sequence.dtype) or sequence.dtype is torch.bool:
        return (None,)
    lines = bits.values(sequence).reshape(math.prod(sequence.shape[:-1]), sequence.shape[-1])
    sorter = call.get("sorter")
    if sorter is not None:
        lines = np.take_along_axis(lines, bits.values(sorter).reshape(lines.shape), -1)
    if not (lines[:, :-1] <= lines[:, 1:]).all() or (lines != lines).any():
        return (None,)
    if isinstance(values, Tensor):
        if values.dtype is not sequence.dtype:
            return (None,)
        given = bits.values(values)
    else:
        given = np.asarray(values)
        if given != int(values) or abs(int(values)) > 127 or (
                sequence.dtype is torch.uint8 and values < 0):
            return (None,)
    right = bool(call["right"]) or call.get("side") == "right"
    rows = given.reshape(1, -1) if sequence.dim() == 1 else given.reshape(len(lines), -1)
    expected = _places(lines, rows, right).reshape(tuple(held.shape))
    return (Reference(expected.astype(bits.values(held).dtype), 0.0, 0.0, "exact"),)


def _register(op: Any, text: str) -> None:
    def reference(call: HostCall) -> tuple[Reference | None, ...]:
        return _reference(call)

    reference.__doc__ = text
    reference.__module__ = __name__
    checked(op, family="selection", axes=_axes, symmetries=_symmetries, window=(OUTERMOST,),
            samples=_samples(op))(reference)


_register(aten.searchsorted, "Where each value belongs in the sorted sequence of its line.")
_register(aten.bucketize, "Which bucket between the boundaries each value belongs to.")
