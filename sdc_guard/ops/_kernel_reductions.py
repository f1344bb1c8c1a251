"""Reductions checked by kernels on the device: the limits of the host's references, made for a
kernel that has ``sum|x|`` and the result of its own computation.

The limits are linear in what the kernel computes, so a site is one list of numbers.  They are those
of the contract (:func:`sdc_guard.ops._reductions.sum_limits`), with the kernel's own error added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds import products
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT64, Format, accumulator_of, format_of, is_covered_float
from sdc_guard.ops._kernels import KernelCheck, KernelRun, Notes
from sdc_guard.ops._reductions import num_terms, reduced_dims, sum_limits

if TYPE_CHECKING:
    from sdc_guard_kernels.reductions import Limit, SumError
    from sdc_guard_kernels.strided import Plan

EXACT = "exact integers modulo 2^b"
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True, slots=True)
class Linear:
    """A limit ``per_scale * scale + per_value * |value| + fixed`` on the error of a value; the
    scale is what the errors of its terms are relative to, ``sum|x|`` for a sum."""

    per_scale: float
    per_value: float = 0.0
    fixed: float = 0.0

    def rounded(self, fmt: Format, times: int = 1) -> Linear:
        """After the value was rounded to a format, as in :func:`sdc_guard.bounds.gamma.stored`."""
        u = times * fmt.u
        return Linear(self.per_scale * (1 + u), self.per_value * (1 + u) + u,
                      self.fixed * (1 + u) + times * fmt.eta / 2)

    def divided(self, n: float) -> Linear:
        """Of the value over n; the scale stays."""
        return Linear(self.per_scale / n, self.per_value, self.fixed / n)

    def seen_from(self, error: Linear) -> Linear:
        """For a comparison with a value that is itself known within ``error``."""
        # |value| <= (|known value| + e_s scale + e_f) / (1 - e_v).
        share = (self.per_value + error.per_value) / (1 - error.per_value)
        return Linear(self.per_scale + (1 + share) * error.per_scale, share,
                      self.fixed + (1 + share) * error.fixed)


def sum_kernel(call: BoundCall, held: tuple[Tensor, ...]) -> KernelRun | None:
    """``aten.sum``: floating within the contract, integers exact."""
    x, result = call["self"], held[0]
    if not result.is_floating_point():
        return count_run(call, held, term="value", rule="equal", formula=EXACT)
    if not takes(x, result):
        return None
    limit = _sum_error(call, result)
    out = format_of(result.dtype)
    if out.precision < accumulator_of(result.dtype).precision:
        limit = limit.rounded(out)
    return _sum_run(call, result, limit, 1, "h u sum|x|, contract and kernel")


def mean_kernel(call: BoundCall, held: tuple[Tensor, ...], *, roundings: int) -> KernelRun | None:
    """``aten.mean``; ``roundings``: of the division, see ``ops/mean.py``."""
    x, result = call["self"], held[0]
    n = num_terms(call)
    if not takes(x, result) or not n:
        return None
    limit = _sum_error(call, result)
    out, acc = format_of(result.dtype), accumulator_of(result.dtype)
    narrow = out.precision < acc.precision
    if narrow:
        limit = limit.rounded(out)
    limit = limit.divided(n).rounded(acc, roundings)
    if narrow:
        limit = limit.rounded(out)
    return _sum_run(call, result, limit, n, "h u mean|x| and a division, contract and kernel")


def dot_kernel(call: BoundCall, held: tuple[Tensor, ...]) -> KernelRun | None:
    """``aten.dot`` and ``aten.vdot`` of formats whose subnormals are kept: with the others the
    limit has ``sum|x| + sum|y|`` in it, which this kernel does not compute."""
    from sdc_guard_kernels.reductions import SumCheck, sum_error

    (_, x), (_, y) = call.tensors()
    result = held[0]
    if not takes(x, result) or not takes(y, result) or not x.dtype == y.dtype == result.dtype:
        return None
    device, k = result.device.type, x.numel()
    plan = plan_of((x, y), result, (0,)) if x.dim() == y.dim() == 1 else None
    flushed = x.dtype is torch.bfloat16 or products.input_rounding(x.dtype, device) > 0.0
    if plan is None or x.shape != y.shape or flushed:
        return None
    out, acc = format_of(result.dtype), accumulator_of(result.dtype)
    order = products.order_coefficient(k, x.dtype, device)
    limit = Linear(order + products.split_rounding(x.dtype, device), 0.0, 2 * k * acc.eta)
    if out.precision < acc.precision:
        limit = Linear(limit.per_scale + 3 * out.u, 0.0, limit.fixed + 4 * out.tiny)
    own = sum_error(plan, x.dtype, term="product", accumulator="compensated")
    # The scale is computed too, and may have lost `absolute`.
    lost = own.absolute * (1 + 2 * limit.per_scale)
    total = limit.rounded(out).seen_from(Linear(own.sum, 0.0, lost + FLOAT64.eta))
    check = SumCheck.prepare(plan, x.dtype, judged_by(total, own, out, out), x.device,
                             term="product", accumulator="compensated")
    said = KernelCheck("reference", products.FORMULA)

    def run(call: BoundCall, held: tuple[Tensor, ...], notes: Notes) -> None:
        (_, x), (_, y) = call.tensors()
        check.launch(x, held[0], notes.record(said), y=y)

    return run


def count_run(
    call: BoundCall, held: tuple[Tensor, ...], *, term: str, rule: str, formula: str
) -> KernelRun | None:
    """An exact sum or count; see :mod:`sdc_guard_kernels.exact_counts`."""
    from sdc_guard_kernels.exact_counts import COUNTED, CountCheck

    x, result = call["self"], held[0]
    known = (*INTEGERS, torch.bool) if term == "value" else COUNTED
    results = INTEGERS if rule == "equal" else (torch.bool, torch.uint8)
    if x.dtype not in known or result.dtype not in results or not readable(x, result):
        return None
    plan = plan_of((x,), result, reduced_dims(call))
    if plan is None:
        return None
    check = CountCheck.prepare(plan, x.dtype, result.dtype, term=term, rule=rule)
    said = KernelCheck("reference", formula)

    def run(call: BoundCall, held: tuple[Tensor, ...], notes: Notes) -> None:
        check.launch(call["self"], held[0], notes.record(said))

    return run


def judged_by(
    total: Linear, own: SumError, out: Format, acc: Format, *, divisor: float = 1.0,
    lost: tuple[float, float] | None = None,
) -> Limit:
    """The numbers of a kernel's limit: ``total``, its own error included; where the result, or the
    scale in the format ``acc``, could overflow nothing is judged.  ``lost`` makes it a 2-norm."""
    from sdc_guard_kernels.reductions import Limit

    return Limit(total.per_scale, total.per_value, total.fixed,
                 scale=(1 + 2.0**-50) / (1 - own.abs_sum), largest=out.max, largest_scale=acc.max,
                 divisor=divisor, root=lost is not None, lost=lost or (0.0, 0.0))


def takes(x: Tensor, result: Tensor) -> bool:
    """Whether the kernels take both: real floating tensors in plain memory, of one device."""
    return is_covered_float(x.dtype) and is_covered_float(result.dtype) and readable(x, result)


def readable(*tensors: Tensor) -> bool:
    """Whether each lies in plain memory, of one device."""
    return all(t.layout is torch.strided and not bits.is_lazy(t) and t.device == tensors[0].device
               for t in tensors)


def plan_of(inputs: Sequence[Tensor], result: Tensor, dims: tuple[int, ...]) -> Plan | None:
    """The kernels' plan of a reduction over ``dims``, or None where the result has another shape
    than what is kept, with or without the reduced dimensions as size 1."""
    from sdc_guard_kernels.strided import contiguous_strides, plan_reduction

    x = inputs[0]
    kept = [d for d in range(x.dim()) if d not in dims]
    shape, strides = [int(x.shape[d]) for d in kept], list(result.stride())
    if result.dim() == x.dim() and x.dim():
        if any(result.shape[d] != 1 for d in dims):
            return None
        strides = [strides[d] for d in kept]
        held_shape = [int(result.shape[d]) for d in kept]
    else:
        held_shape = list(result.shape)
    if held_shape != shape:
        return None
    return plan_reduction(x.shape, dims, [t.stride() for t in inputs],
                          (strides, contiguous_strides(shape)))


def accumulator_for(x: Tensor, result: Tensor) -> str:
    """Float32 lanes where they reach as far as the result does, and longer float64 ones."""
    wider = format_of(result.dtype) is FLOAT64 and x.dtype is not torch.float64
    return "float64" if wider else "compensated"


def _sum_error(call: BoundCall, result: Tensor) -> Linear:
    found = sum_limits(call, result)
    return Linear(found.contract + found.common, 0.0, found.fixed)


def _sum_run(
    call: BoundCall, result: Tensor, limit: Linear, divisor: int, formula: str
) -> KernelRun | None:
    """A check of a sum, or of one over ``divisor``, within ``limit`` and the kernel's own error:
    that of its sum, and a rounding of the division that may underflow."""
    from sdc_guard_kernels.reductions import SumCheck, sum_error

    x = call["self"]
    plan = plan_of((x, x), result, reduced_dims(call))
    if plan is None:
        return None
    accumulator = accumulator_for(x, result)
    own = sum_error(plan, x.dtype, accumulator=accumulator)
    kernel = Linear(own.sum, 0.0, own.absolute).divided(divisor).rounded(FLOAT64)
    kernel = replace(kernel, fixed=kernel.fixed + FLOAT64.eta)
    total = limit.seen_from(kernel)
    out = format_of(result.dtype)
    check = SumCheck.prepare(plan, x.dtype, judged_by(total, own, out, out, divisor=float(divisor)),
                             x.device, accumulator=accumulator)
    said = KernelCheck("reference", formula)

    def run(call: BoundCall, held: tuple[Tensor, ...], notes: Notes) -> None:
        check.launch(call["self"], held[0], notes.record(said))

    return run
