"""``cummax`` and ``cummin``: the extreme element of every prefix and where it stands.

Exact facts: the value is the extreme of the prefix (a NaN stays from where it stands), and it has
the bits of the element that its index names, which stands in the prefix.  Which of several equal
elements is named is not documented and is left free.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard.calls import BoundCall
from sdc_guard.ops._lines import (
    Broken,
    dim_of,
    lines,
    moved_back,
    not_gathered,
    nothing_to_compute,
    readable,
    same,
)
from sdc_guard.ops._reductions import input_flops
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values
from sdc_guard.ops._symmetry import RERUN, Symmetry
from sdc_guard.ops.scans import other_lines, scan_axes

aten = torch.ops.aten


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    return other_lines(call, held) or (RERUN,)


def _samples(op: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in (*FLOATS, torch.int64):
            return []
        draw = draw_values(generator, dtype, "mixed")
        operands = [draw(9, 37), draw(37, 9).t(), draw(8, 70)[1:7, 3:67], draw(3, 5, 7), draw(211)]
        memory = {"values": draw(9, 37), "indices": torch.empty(9, 37, dtype=torch.int64)}
        return [*((op.default, (x, d), {}) for x in operands for d in (0, -1)),
                (op.default, (draw(), 0), {}), (op.out, (operands[0], 1), memory)]

    return samples


def _register(op: Any, extreme: Any, text: str) -> None:
    def prefixes(call: BoundCall) -> Any:
        x = call["self"]
        return extreme.accumulate(lines(x, x.dim(), dim_of(call)), axis=-1)

    def fact(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
        """The extreme of each prefix, and an index into the prefix."""
        if not readable(call, held) or nothing_to_compute(call, held):
            return None
        rank, dim = call["self"].dim(), dim_of(call)
        found = not_gathered(call, held[0], held[1], dim)
        if found is not None:
            return found
        wrong = ~same(lines(held[0], rank, dim), prefixes(call))
        if wrong.any():
            return 0, moved_back(wrong, held[0], rank, dim), "the value is the prefix's extreme"
        index = lines(held[1], rank, dim)
        wrong = index > np.arange(index.shape[-1])
        if wrong.any():
            return 1, moved_back(wrong, held[1], rank, dim), "the index lies in the prefix"
        return None

    def reference(call: HostCall) -> tuple[Reference | None, ...]:
        if not readable(call.call, call.held) or nothing_to_compute(call.call, call.held):
            return None, None
        value = moved_back(prefixes(call.call), call.held[0], call["self"].dim(),
                           dim_of(call.call))
        return Reference(value, 0.0, 0.0, "exact"), None

    reference.__doc__ = text
    reference.__module__ = __name__
    checked(op, family="scan", axes=scan_axes, symmetries=_symmetries, invariant=fact,
            proves=readable, flops=input_flops, samples=_samples(op))(reference)


_register(aten.cummax, np.maximum, "The largest element of every prefix, and where it stands.")
_register(aten.cummin, np.minimum, "The smallest element of every prefix, and where it stands.")
