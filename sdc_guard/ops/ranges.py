"""``linspace`` and ``eye``.

``eye`` is exact.  ``linspace`` of floating dtypes is ``start + i s`` in the first
half and ``end - (n - 1 - i) s`` in the second, ``s = (end - start) / (n - 1)``, all in the result's
format (``linspace_kernel`` in ``RangeFactoriesKernel.cpp``): the ends are rounded once, the step
three times, the product and the sum once each, 7 roundings of the largest of ``|start|``,
``|end|`` and ``|end - start|``.  Integer steps are truncated from floating numbers and not judged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.formats import is_covered_float
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._casts import cast_reference
from sdc_guard.ops._pointwise import chain, stored_reference
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList
from sdc_guard.ops._symmetry import RERUN

aten = torch.ops.aten


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    return Axes({path: (FIXED,) * t.dim() for path, t in call.tensors()},
                ((FIXED,) * held[0].dim(),))


def _calls(op: Any, *arguments: tuple[Any, ...], dtypes: tuple[torch.dtype, ...]) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        return [(op, args, {"dtype": dtype}) for args in arguments if dtype in dtypes]

    return samples


def _linspace_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype not in FLOATS:
        return []
    kept = {"dtype": dtype}
    end = torch.tensor(-7.3)
    return [(aten.linspace.default, args, kept) for args in (
        (0.1, 13.0, 131), (5, -300.7, 70), (-1, 1, 7), (2.5, 2.5, 9), (0.3, 4, 1))] + [
        (aten.linspace.Scalar_Tensor, (0.7, end, 33), kept),
        (aten.linspace.out, (-0.7, 0.3, 100), {"out": torch.empty(100, dtype=dtype)})]


@checked(aten.linspace, family="fill", axes=_axes, symmetries=(RERUN,), samples=_linspace_samples)
def linspace(call: HostCall) -> tuple[Reference | None, ...]:
    """``start + i (end - start) / (n - 1)``."""
    held = call.held[0]
    ends = [call.number(n) for n in ("start", "end")]
    if not is_covered_float(held.dtype) or any(x.dtype.kind == "c" for x in ends):
        return (None,)
    start, end = (float(x) for x in ends)
    share = np.arange(held.numel()) / max(held.numel() - 1, 1)
    expected = start + share * (end - start)
    largest = np.broadcast_to(np.maximum(np.maximum(abs(start), abs(end)), abs(end - start)),
                              expected.shape)
    out = call.out_format()
    return (stored_reference(call, chain(expected, largest, 7, out), "7 roundings"),)


@checked(aten.eye, family="fill", axes=_axes, symmetries=(RERUN,),
         samples=_calls(aten.eye.m, (9, 5), (4, 7), dtypes=(*FLOATS, torch.int64, torch.bool)))
def eye(call: HostCall) -> tuple[Reference | None, ...]:
    """1 on the diagonal, 0 elsewhere."""
    held = call.held[0]
    if not bits.has_values(held.dtype):
        return (None,)
    return (cast_reference(np.eye(*held.shape), held),)
