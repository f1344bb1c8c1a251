"""``any``, ``all`` and ``count_nonzero``: exact, in any order.

A NaN counts as true.  The result is boolean, for ``uint8`` operands of ``any`` and ``all`` it is
``uint8``.  With ``out=`` of that dtype ATen first converts other operands to it (0.5 and 256 count
as false, seen with torch 2.13), which the documentation does not say: that is not judged.

Place: rows split and roll, and so do the reduced dimensions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.ops._kernel_reductions import count_run
from sdc_guard.ops._kernels import KernelRun
from sdc_guard.ops._lines import selection_axes, unordered_symmetries
from sdc_guard.ops._reductions import input_flops, reduced_dims
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values

aten = torch.ops.aten


def _samples(op: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        draw = draw_values(generator, dtype, "mixed")
        x = draw(9, 37) * (torch.rand(9, 37, generator=generator) < 0.5)
        cube = draw(3, 5, 70)[:, 1:, 3:67]
        calls: SampleList = [(op.default, (x,), {}), (op.default, (draw(),), {}),
                             (op.default, (torch.zeros(700, dtype=dtype),), {})]
        if op is aten.count_nonzero:
            return [*calls, (op.default, (x.t(), 1), {}), (op.dim_IntList, (cube, [0, 2]), {}),
                    (op.dim_IntList, (torch.zeros(5, 33, dtype=dtype), [1]), {})]
        memory = torch.empty(9, dtype=torch.bool)
        if dtype not in (*FLOATS, torch.int64, torch.bool):
            return calls
        return [*calls, (op.dim, (x, 1, True), {}), (op.dim, (x.t(), 1), {}),
                (op.dims, (cube, [0, 2]), {}), (op.dims, (cube, None, True), {}),
                (op.out, (x, 1), {"out": memory})]

    return samples


def _register(op: Any, function: Any, text: str, rule: str) -> None:
    def reference(call: HostCall) -> tuple[Reference | None, ...]:
        x, held = call["self"], call.held[0]
        if not bits.has_values(x.dtype) or not bits.has_values(held.dtype):
            return (None,)
        if held.dtype is torch.uint8 and x.dtype not in (torch.uint8, torch.bool):
            return (None,)
        expected = np.asarray(function(call.array("self") != 0, axis=_dims(call)))
        target = bits.values(held).dtype
        return (Reference(expected.reshape(tuple(held.shape)).astype(target), 0.0, 0.0, "exact"),)

    def kernel(call: BoundCall, held: tuple[Tensor, ...]) -> KernelRun | None:
        if held[0].dtype is torch.uint8 and call["self"].dtype not in (torch.uint8, torch.bool):
            return None
        return count_run(call, held, term="nonzero", rule=rule, formula="exact")

    reference.__doc__ = text
    reference.__module__ = __name__
    checked(op, family="reduction", axes=selection_axes, symmetries=unordered_symmetries,
            flops=input_flops, reduction=True, window=("d0", "d1", "d2", "d3"),
            samples=_samples(op), kernel=kernel)(reference)


def _dims(call: HostCall) -> tuple[int, ...] | None:
    return reduced_dims(call.call) if call["self"].dim() else None


_register(aten.any, np.any, "True where an element is not 0.", "any")
_register(aten.all, np.all, "True where no element is 0.", "all")
_register(aten.count_nonzero, np.sum, "How many elements are not 0.", "equal")
