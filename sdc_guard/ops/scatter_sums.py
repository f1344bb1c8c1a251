"""``scatter``, and ops that combine what an index sends to one place: ``scatter_add``,
``scatter_reduce``, ``index_add``, ``index_reduce``.

``scatter`` without a reduction has an exact fact (:mod:`sdc_guard.ops.scatters`); the others have
the bounds of :mod:`sdc_guard.ops._scatter_sums`.  Places that nothing is sent to keep their value.

Place: terms of one place are added in the order of the index, and every place by itself, so
rotating the places along the dimension, rolling or splitting the other ones keep every bit, as does
negation of a sum (seen in 4 formats, 1 and 2 threads). """

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.casts import through_float32
from sdc_guard.calls import BoundCall
from sdc_guard.formats import format_of, is_covered_float
from sdc_guard.ops._indexing import (
    Broken,
    all_readable,
    index_values,
    positions_along,
    positions_of_rows,
)
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import SampleList, draw_values
from sdc_guard.ops._scatter_sums import Sent, sent_reference
from sdc_guard.ops._symmetry import RERUN, Symmetry
from sdc_guard.ops.scatters import (
    _line_samples,
    line_axes,
    row_axes,
    scattered,
    unwritten_or_written,
    writing_symmetries,
)

aten = torch.ops.aten

LEGACY = {"add": "sum", "multiply": "prod"}


def _input_flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """One operation per index or source element, whichever are more."""
    return int(max(t.numel() for _, t in call.tensors()))


SHARED: dict[str, Any] = {"family": "indexing", "deterministic": False, "flops": _input_flops,
                          "window": ("d0", "d1", "d2", "d3")}


def _reduction_of(call: BoundCall) -> str:
    if call.form.packet in ("aten.scatter_add", "aten.index_add"):
        return "sum"
    found = str(call.get("reduce"))
    return LEGACY.get(found, found)


def _symmetries(axes: Any, *odd: str) -> Any:
    """Sums and means are odd in all they add; products and extremes are not."""
    signed, plain = writing_symmetries(axes, *odd), writing_symmetries(axes)

    def symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
        linear = _reduction_of(call) in ("sum", "mean", "None")
        chosen = signed if linear and isinstance(call.get(odd[-1]), Tensor) else plain
        found: tuple[Symmetry, ...] = chosen(call, held)
        scaled = call.get("alpha", 1) != 1
        if (scaled or _reduction_of(call) == "prod") and call["self"].element_size() == 2:
            # The scalar tail rounds alpha b, the vector body does not: columns stay in place.
            # ``index_reduce`` fails with an internal assertion on columns of one half number.
            found = tuple(s for s in found if s.moves[0].how in ("custom", "negate"))
        return found or (RERUN,)

    return symmetries


def _scatter_proves(call: BoundCall, held: tuple[Tensor, ...]) -> bool:
    return all_readable(call, held) and scattered(call) is not None


def _scatter_fact(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
    return unwritten_or_written(call, held, scattered(call))


@checked(aten.scatter, axes=line_axes, symmetries=_symmetries(line_axes, "self", "src"),
         invariant=_scatter_fact, proves=_scatter_proves, samples=_line_samples, **SHARED)
def scatter(call: HostCall) -> tuple[Reference | None, ...]:
    """A source's elements or a number at an index; with a reduction their sum or product with
    what was there."""
    return _combined(call, True) if call.get("reduce") is not None else (None,)


def _combined(call: HostCall, include_self: bool) -> tuple[Reference | None, ...]:
    x, index, source = call["self"], index_values(call["index"]), call.get("src")
    if not bits.has_values(x.dtype):
        return (None,)
    place = positions_along(tuple(x.shape), index, call["dim"]).ravel()
    if isinstance(source, Tensor):
        part = source[tuple(slice(n) for n in index.shape)] if index.ndim else source
        terms = bits.values(part).reshape(-1)
    else:
        value = np.asarray(call["value"])
        if is_covered_float(x.dtype) and x.element_size() < 8:
            value = through_float32(value, format_of(x.dtype))
        terms = np.broadcast_to(value, place.shape)
    sent = Sent(call.array("self").reshape(-1), place, terms)
    return (sent_reference(sent, _reduction_of(call.call), include_self, call.held[0]),)


def _adding_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    draw = draw_values(generator, dtype, "any")
    op = aten.scatter_add
    across = torch.randint(0, 37, (9, 65), generator=generator)
    down = torch.randint(0, 9, (30, 37), generator=generator)
    return [
        (op.default, (draw(9, 37), 1, across, draw(9, 65)), {}),
        (op.default, (draw(37, 9).t(), 0, down, draw(30, 37)), {}),
        (op.default, (draw(9, 70)[:, 3:40], -1, across[:4, :20].contiguous(), draw(9, 65)), {}),
        (op.default, (draw(211), 0, torch.randint(0, 211, (400,), generator=generator),
                      draw(400)), {}),
        (op.default, (draw(9, 37), 0, down[:, :1].expand(30, 37), draw(37, 30).t()), {}),
        (aten.scatter_add_.default, (draw(9, 37), 0, down, draw(30, 37)), {}),
        (op.out, (draw(9, 37), 1, across, draw(9, 65)), {"out": draw(9, 37)}),
    ]


@checked(aten.scatter_add, axes=line_axes, symmetries=_symmetries(line_axes, "self", "src"),
         reduction=True, samples=_adding_samples, **SHARED)
def scatter_add(call: HostCall) -> tuple[Reference | None, ...]:
    """``x + sum`` of the source elements that the index sends to each place."""
    return _combined(call, True)


def _reducing_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype is torch.bool:
        return []
    draw = draw_values(generator, dtype, "any")
    op = aten.scatter_reduce
    across = torch.randint(0, 37, (9, 41), generator=generator)
    down = torch.randint(0, 9, (12, 37), generator=generator)
    calls: SampleList = []
    for reduce in ("sum", "prod", "mean", "amax", "amin"):
        calls += [
            (op.two, (draw(9, 37), 1, across, draw(9, 41), reduce), {}),
            (op.two, (draw(37, 9).t(), 0, down, draw(12, 37), reduce), {"include_self": False}),
            (aten.scatter_reduce_.two, (draw(9, 37), 0, down, draw(12, 37), reduce), {}),
        ]
    return calls


@checked(aten.scatter_reduce, axes=line_axes, symmetries=_symmetries(line_axes, "self", "src"),
         reduction=True, samples=_reducing_samples, **SHARED)
def scatter_reduce(call: HostCall) -> tuple[Reference | None, ...]:
    """Sum, product, mean or extreme of what the index sends to each place, with or without what
    was there."""
    return _combined(call, bool(call.get("include_self", True)))


def _combined_rows(call: HostCall, include_self: bool) -> tuple[Reference | None, ...]:
    x, alpha = call["self"], call.number("alpha", 1)
    if not bits.has_values(x.dtype):
        return (None,)
    place = positions_of_rows(tuple(x.shape), index_values(call["index"]), call["dim"]).ravel()
    terms = call.array("source").reshape(-1)
    scaled = bool(alpha != 1)
    if scaled:
        terms = terms * alpha
    sent = Sent(call.array("self").reshape(-1), place, terms, 2 if scaled else 0)
    return (sent_reference(sent, _reduction_of(call.call), include_self, call.held[0]),)


def _row_sum_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    draw = draw_values(generator, dtype, "any")
    op = aten.index_add
    rows, columns = (torch.randint(0, n, (20,), generator=generator) for n in (9, 37))
    calls: SampleList = [
        (op.default, (draw(9, 37), 0, rows, draw(20, 37)), {}),
        (op.default, (draw(37, 9).t(), 1, columns, draw(20, 9).t()), {}),
        (op.default, (draw(3, 9, 70)[:, :, 3:67], -2, rows, draw(3, 20, 64)), {}),
        (op.default, (draw(37), 0, columns.int(), draw(20)), {}),
        (aten.index_add_.default, (draw(9, 37), 0, rows, draw(20, 37)), {}),
        (op.out, (draw(9, 37), 0, rows, draw(20, 37)), {"out": draw(9, 37)}),
    ]
    if dtype.is_floating_point:
        calls.append((op.default, (draw(9, 37), 0, rows, draw(20, 37)), {"alpha": 0.75}))
    return calls


@checked(aten.index_add, axes=row_axes, symmetries=_symmetries(row_axes, "self", "source"),
         reduction=True, samples=_row_sum_samples, **SHARED)
def index_add(call: HostCall) -> tuple[Reference | None, ...]:
    """``x + alpha sum`` of the source's slices that the index sends to each slice."""
    return _combined_rows(call, True)


def _row_reduce_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype is torch.bool:
        return []
    draw = draw_values(generator, dtype, "any")
    op = aten.index_reduce
    rows, columns = (torch.randint(0, n, (12,), generator=generator) for n in (9, 37))
    calls: SampleList = []
    for reduce in ("prod", "mean", "amax", "amin"):
        calls += [
            (op.default, (draw(9, 37), 0, rows, draw(12, 37), reduce), {}),
            (op.default, (draw(37, 9).t(), 1, columns, draw(9, 12), reduce),
             {"include_self": False}),
        ]
    return calls


@checked(aten.index_reduce, axes=row_axes, symmetries=_symmetries(row_axes, "self", "source"),
         reduction=True, samples=_row_reduce_samples, **SHARED)
def index_reduce(call: HostCall) -> tuple[Reference | None, ...]:
    """Product, mean or extreme of the slices that the index sends to each slice."""
    return _combined_rows(call, bool(call.get("include_self", True)))
