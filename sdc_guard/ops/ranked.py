"""``kthvalue``, ``median``, ``nanmedian`` and ``mode``: one element of each line.

Exact facts: the value is the one that NumPy's sort puts at the rank in question (for ``mode``, no
value of the line occurs more often), and it has the bits of the element that its index names.
NaN counts as the largest; ``median`` of a line with a NaN is NaN, ``nanmedian`` leaves NaN out.
The median of an even number of elements is the lower one.  Which of several equal elements the
index names is documented as free, and so is the value of ``mode`` among those that are as frequent.

Seen with torch 2.13 on a CPU: ``median`` and ``nanmedian`` along an *expanded* dimension return
memory that is not the operand's; that is a finding.

Place: lines split and roll; the order within a line is nothing to a value without an index.
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
    dim_of,
    is_nan,
    line_symmetries,
    lines,
    moved_back,
    not_gathered,
    nothing_to_compute,
    readable,
    same,
    selection_axes,
    unordered_symmetries,
)
from sdc_guard.ops._reductions import input_flops
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values
from sdc_guard.ops._symmetry import Symmetry

aten = torch.ops.aten


def _at_rank(call: BoundCall, line: Any) -> Any:
    """What each sorted line holds at the rank that the op asks for, last axis kept."""
    size = line.shape[-1]
    ordered = np.sort(line, axis=-1)
    packet = call.form.packet
    if packet == "aten.kthvalue":
        return ordered[..., [int(call["k"]) - 1]]
    numbers = (~is_nan(line)).sum(-1, keepdims=True)
    rank = np.maximum(numbers - 1, 0) // 2
    if packet == "aten.median":
        rank = np.where(numbers < size, size - 1, rank)
    return np.take_along_axis(ordered, rank, -1)


def _fact(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
    """The element of that rank, bit for bit where an index names it."""
    if not readable(call, held) or nothing_to_compute(call, held):
        return None
    x = call["self"]
    text = "the value stands at its rank in the sorted line"
    if len(held) == 1:
        expected = _at_rank(call, bits.values(x).reshape(1, -1)).reshape(())
        wrong = ~same(bits.values(held[0]).reshape(()), expected)
        return (0, wrong.reshape(tuple(held[0].shape)), text) if wrong.any() else None
    rank, dim = x.dim(), dim_of(call)
    found = not_gathered(call, held[0], held[1], dim)
    if found is not None:
        return found
    wrong = ~same(lines(held[0], rank, dim), _at_rank(call, lines(x, rank, dim)))
    return (0, moved_back(wrong, held[0], rank, dim), text) if wrong.any() else None


def _run_lengths(ordered: Any) -> Any:
    """How many elements of each sorted line up to a place equal the one that stands there."""
    new = np.ones(ordered.shape, dtype=bool)
    new[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    place = np.arange(ordered.shape[-1])
    start = np.maximum.accumulate(np.where(new, place, 0), axis=-1)
    return np.asarray(place - start + 1)


def _mode_fact(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
    """No number of the line occurs more often; lines with NaN only have their bits checked."""
    if not readable(call, held) or nothing_to_compute(call, held):
        return None
    x = call["self"]
    rank, dim = x.dim(), dim_of(call)
    found = not_gathered(call, held[0], held[1], dim)
    if found is not None:
        return found
    line, value = lines(x, rank, dim), lines(held[0], rank, dim)
    count = (line == value).sum(-1, keepdims=True)
    most = _run_lengths(np.sort(line, axis=-1)).max(-1, keepdims=True)
    wrong = (count != most) & ~is_nan(line).any(-1, keepdims=True)
    if wrong.any():
        return 0, moved_back(wrong, held[0], rank, dim), "no value of the line occurs more often"
    return None


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    return (unordered_symmetries if len(held) == 1 else line_symmetries)(call, held)


def _samples(op: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in (*FLOATS, torch.int64):
            return []
        draw = draw_values(generator, dtype, "mixed")
        operands = (draw(9, 37), draw(37, 9).t(), draw(8, 70)[1:7, 3:67], draw(3, 5, 7), draw(12))
        first = (2,) if op is aten.kthvalue else ()
        by_dim = op.dim if op in (aten.median, aten.nanmedian) else op.default
        out = op.dim_values if op in (aten.median, aten.nanmedian) else op.values
        memory = {"values": draw(9), "indices": torch.empty(9, dtype=torch.int64)}
        calls: SampleList = [(by_dim, (x, *first, d), {}) for x in operands for d in (0, -1)]
        calls += [(by_dim, (operands[0], *first, 1, True), {}),
                  (out, (operands[0], *first, 1), memory)]
        if op in (aten.median, aten.nanmedian):
            calls += [(op.default, (x,), {}) for x in operands]
        return calls

    return samples


def _ranked(call: HostCall) -> tuple[Reference | None, ...]:
    """The value at its rank; the index is left to the invariant."""
    x, held = call["self"], call.held
    if not readable(call.call, held) or nothing_to_compute(call.call, held):
        return tuple(None for _ in held)
    whole = len(held) == 1
    line = bits.values(x).reshape(1, -1) if whole else lines(x, x.dim(), dim_of(call.call))
    value = _at_rank(call.call, line)
    return _placed(call, value, 0.0)


def _placed(call: HostCall, value: Any, limit: Any) -> tuple[Reference | None, ...]:
    """One value a line, in the shape of the result."""
    rank, held = call["self"].dim(), call.held[0]
    if len(call.held) == 1:
        return (Reference(value.reshape(()), 0.0, 0.0, "exact"),)
    dim = dim_of(call.call)
    value, limit = (moved_back(np.broadcast_to(a, value.shape), held, rank, dim)
                    for a in (value, np.asarray(limit)))
    return Reference(value, limit, limit, "exact"), None


def _mode_value(call: HostCall) -> tuple[Reference | None, ...]:
    """The most frequent value of lines without NaN in which there is only one."""
    x = call["self"]
    if not readable(call.call, call.held) or nothing_to_compute(call.call, call.held):
        return None, None
    line = np.sort(lines(x, x.dim(), dim_of(call.call)), axis=-1)
    length = _run_lengths(line)
    longest = length == length.max(-1, keepdims=True)
    chosen = np.take_along_axis(line, np.argmax(longest, -1)[..., None], -1)
    free = (longest.sum(-1, keepdims=True) > 1) | is_nan(line).any(-1, keepdims=True)
    if line.dtype.kind != "f" and free.any():
        return None, None
    return _placed(call, chosen, np.where(free, np.inf, 0.0))


def _register(op: Any, fact: Any, reference_of: Any, text: str) -> None:
    def reference(call: HostCall) -> tuple[Reference | None, ...]:
        found: tuple[Reference | None, ...] = reference_of(call)
        return found

    reference.__doc__ = text
    reference.__module__ = __name__
    checked(op, family="selection", axes=selection_axes, symmetries=_symmetries, invariant=fact,
            proves=readable, flops=input_flops,
            deterministic=op not in (aten.kthvalue, aten.median),
            samples=_samples(op))(reference)


_register(aten.kthvalue, _fact, _ranked,
          "The k-th smallest element of each line; CUDA may name any of equal ones.")
_register(aten.median, _fact, _ranked,
          "The lower median of all or of each line, NaN where there is one.")
_register(aten.nanmedian, _fact, _ranked, "The lower median of the elements that are not NaN.")
_register(aten.mode, _mode_fact, _mode_value, "An element of each line that occurs most often.")
