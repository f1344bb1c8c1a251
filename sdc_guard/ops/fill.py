"""Constants: ``zeros``, ``ones``, ``full``, ``fill_``, ``scalar_tensor`` and their ``_like`` and
``new_`` forms; ``arange``.

Every element is the value converted once to the result's dtype, an exact fact.  ``arange`` is exact
for integers; for floating dtypes ATen evaluates ``start + i step`` per element in the format or
wider (``RangeFactories.cpp``): 4 roundings of the largest of ``|start|``, ``|i step|``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.formats import is_covered_float
from sdc_guard.ops._axes import FIXED, Axes, broadcast_axes
from sdc_guard.ops._casts import cast_reference
from sdc_guard.ops._places import pointwise_symmetries
from sdc_guard.ops._pointwise import chain, stored_reference
from sdc_guard.ops._registry import HostCall, Reference, SamplesFn, checked
from sdc_guard.ops._samples import FLOATS, LAYOUTS, SampleList, draw_values
from sdc_guard.ops._symmetry import OUTERMOST, RERUN

aten = torch.ops.aten

ValueOf = Callable[[HostCall], Any]


def _labelled(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    """A constant may be judged in part; operands of another shape only lend their dtype."""
    shape = held[0].shape
    names = tuple(f"d{i}" for i in range(len(shape)))
    named = {path: names if t.shape == shape else (FIXED,) * t.dim()
             for path, t in call.tensors()}
    return Axes(named, (names,))


def _constant(*targets: Any, value: ValueOf, text: str, samples: SamplesFn,
              filled: bool = False) -> None:
    """Register ops that give one value everywhere; ``filled`` ones write it over an operand."""

    def reference(call: HostCall) -> tuple[Reference | None, ...]:
        held = call.held[0]
        if not bits.has_values(held.dtype):
            return (None,)
        one = np.broadcast_to(np.asarray(value(call)), tuple(held.shape))
        return (cast_reference(one, held),)

    reference.__doc__ = text
    reference.__module__ = __name__
    checked(*targets, family="fill", axes=broadcast_axes if filled else _labelled,
            symmetries=pointwise_symmetries if filled else (RERUN,),
            window=(OUTERMOST,), samples=samples)(reference)


def _is_dtype(dtype: torch.dtype) -> bool:
    return dtype in (*FLOATS, torch.int64)


def _factory(op: Any, *rest: Any) -> SamplesFn:
    """``op(sizes, *rest)`` for a few sizes."""

    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        sizes: tuple[list[int], ...] = ([211], [9, 37], [], [0, 3])
        return [(op.default, (s, *rest), {"dtype": dtype}) for s in sizes if _is_dtype(dtype)]

    return samples


def _like(op: Any, *rest: Any, sized: bool = False) -> SamplesFn:
    """``op(tensor, *rest)`` or ``op(tensor, sizes, *rest)`` for several layouts."""

    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        draw = draw_values(generator, dtype, "any")
        size = ([4, 33],) if sized else ()
        return [(op.default, (layout(draw), *size, *rest), {})
                for layout in LAYOUTS if _is_dtype(dtype)]

    return samples


def _filled(op: Any, *rest: Any) -> SamplesFn:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        draw = draw_values(generator, dtype, "any")
        return [(op, (layout(draw), *rest), {}) for layout in LAYOUTS if _is_dtype(dtype)]

    return samples


def _join(*several: SamplesFn) -> SamplesFn:
    return lambda generator, dtype: [s for f in several for s in f(generator, dtype)]


def _zero(call: HostCall) -> float:
    return 0.0


def _one(call: HostCall) -> float:
    return 1.0


def _named(argument: str) -> ValueOf:
    return lambda call: call.number(argument)


_constant(aten.zeros, value=_zero, text="0.", samples=_factory(aten.zeros))
_constant(aten.ones, value=_one, text="1.", samples=_factory(aten.ones))
_constant(aten.full, value=_named("fill_value"), text="The value.",
          samples=_factory(aten.full, 2.7))
_constant(aten.zeros_like, value=_zero, text="0.", samples=_like(aten.zeros_like))
_constant(aten.ones_like, value=_one, text="1.", samples=_like(aten.ones_like))
_constant(aten.full_like, value=_named("fill_value"), text="The value.",
          samples=_like(aten.full_like, 0.1))
_constant(aten.new_zeros, value=_zero, text="0.", samples=_like(aten.new_zeros, sized=True))
_constant(aten.new_ones, value=_one, text="1.", samples=_like(aten.new_ones, sized=True))
_constant(aten.new_full, value=_named("fill_value"), text="The value.",
          samples=_like(aten.new_full, -3.3, sized=True))
_constant(aten.scalar_tensor, value=_named("s"), text="The number.",
          samples=lambda generator, dtype: [(aten.scalar_tensor.default, (0.7,), {"dtype": dtype})])
_constant(aten.zero, value=_zero, text="0.", samples=_filled(aten.zero_.default), filled=True)
_constant(aten.fill, value=_named("value"), text="The value.", filled=True,
          samples=_join(_filled(aten.fill_.Scalar, 1.3),
                        _filled(aten.fill_.Tensor, torch.tensor(1.3))))


def _arange_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    return Axes({path: (FIXED,) * t.dim() for path, t in call.tensors()}, ((FIXED,),))


def _arange_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if not _is_dtype(dtype):
        return []
    kept = {"dtype": dtype}
    calls: SampleList = [
        (aten.arange.default, (70,), kept),
        (aten.arange.start, (-5, 200), kept),
        (aten.arange.start_step, (3, -60, -2), kept),
    ]
    if dtype.is_floating_point:
        calls.append((aten.arange.start_step, (0.1, 13.0, 0.1), kept))
    return calls


@checked(aten.arange, family="fill", axes=_arange_axes, symmetries=(RERUN,),
         samples=_arange_samples)
def arange(call: HostCall) -> tuple[Reference | None, ...]:
    """``start + i step``."""
    held = call.held[0]
    start, step = call.number("start", 0), call.number("step", 1)
    index = np.arange(held.numel())
    if not held.is_floating_point():
        if np.result_type(start, step).kind == "f" or not bits.has_values(held.dtype):
            return (None,)
        return (cast_reference(start + index * step, held),)
    if not is_covered_float(held.dtype):
        return (None,)
    travelled = index * np.asarray(step, dtype=np.float64)
    expected = start + travelled
    largest = np.maximum(np.maximum(np.abs(start), np.abs(travelled)), np.abs(expected))
    out = call.out_format()
    return (stored_reference(call, chain(expected, largest, 4, out), "4 roundings"),)
