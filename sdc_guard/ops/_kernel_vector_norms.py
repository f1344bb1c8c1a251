"""Norms and extremes checked by kernels on the device; limits as in ``ops/norm.py``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT64, accumulator_of, format_of
from sdc_guard.ops._kernel_reductions import (
    Linear,
    accumulator_for,
    judged_by,
    plan_of,
    readable,
    takes,
)
from sdc_guard.ops._kernels import KernelCheck, KernelRun, Notes

if TYPE_CHECKING:
    from sdc_guard_kernels.extremes import ExtremeCheck
    from sdc_guard_kernels.reductions import SumCheck

EXACT = "exact"


def norm_check(
    x: Tensor, result: Tensor, dims: tuple[int, ...], order: float, relative: Callable[[], float]
) -> SumCheck | ExtremeCheck | None:
    """A check of one norm of order 1, 2 or infinity over ``dims``; None for another.

    Args:
        relative: the relative error of the norm before its last rounding, by the contract.
    """
    if not takes(x, result):
        return None
    if math.isinf(order):
        return extreme_check(x, result, dims, "max_abs" if order > 0 else "min_abs")
    if order not in (1, 2):
        return None
    return _sum_check(x, result, dims, order, relative())


def _sum_check(
    x: Tensor, result: Tensor, dims: tuple[int, ...], order: float, relative: float
) -> SumCheck | None:
    """``sqrt(s (1 + e) + a)`` is within ``|e| sqrt(s) + sqrt(a)`` of ``sqrt(s)``, and two roundings
    of the kernel's square root follow.

    Squares that underflow in the op lose ``min(sqrt(n eta), n eta / norm)``.  The kernel has no
    exact norm to divide by; where ``norm >= sqrt(n eta)`` its own is below three times as large,
    and elsewhere it is below ``3 sqrt(n eta)`` too, so ``3 n eta`` over its own norm holds.
    """
    from sdc_guard_kernels.reductions import SumCheck, sum_error

    plan = plan_of((x, x), result, dims)
    if plan is None:
        return None
    out, acc, n = format_of(result.dtype), accumulator_of(result.dtype), plan.num_reduced
    term, accumulator = "square" if order == 2 else "magnitude", accumulator_for(x, result)
    own = sum_error(plan, x.dtype, term=term, accumulator=accumulator)
    kernel = Linear(0.0, own.sum + 4 * FLOAT64.u, math.sqrt(own.absolute) + FLOAT64.eta)
    limit, up = Linear(0.0, relative), 1.0
    if result.element_size() == 2:
        limit, up = limit.rounded(out), 1 + out.u
    lost = None
    if order == 2:
        lost = (math.sqrt(n * acc.eta) * up, 3 * n * acc.eta * up)
    return SumCheck.prepare(plan, x.dtype,
                            judged_by(limit.seen_from(kernel), own, out, acc, lost=lost), x.device,
                            term=term, accumulator=accumulator)


def extreme_check(
    x: Tensor, result: Tensor, dims: tuple[int, ...], kind: str
) -> ExtremeCheck | None:
    """A check of one extreme over ``dims``, such as ``"max"`` and ``"min_abs"``."""
    from sdc_guard_kernels.extremes import FLOATS, INTEGERS, ExtremeCheck

    same = x.dtype is result.dtype and x.dtype in (*FLOATS, *INTEGERS)
    wider = x.dtype in FLOATS and result.dtype in FLOATS[2:] and (
        x.element_size() < result.element_size())
    plan = plan_of((x,), result, dims) if readable(x, result) and (same or wider) else None
    if plan is None or not plan.num_reduced:
        return None
    return ExtremeCheck.prepare(plan, x.dtype, result.dtype, kind=kind)


def run_of(check: SumCheck | ExtremeCheck | None, formula: str) -> KernelRun | None:
    """What launches the check of the operand ``self`` and the first result."""
    if check is None:
        return None
    said = KernelCheck("reference", formula)

    def run(call: BoundCall, held: tuple[Tensor, ...], notes: Notes) -> None:
        check.launch(call["self"], held[0], notes.record(said))

    return run


def list_run(checks: list[SumCheck | ExtremeCheck | None], formula: str) -> KernelRun | None:
    """What launches a check for each element of the list ``self`` that has one."""
    found = [(i, check, KernelCheck("reference", formula, output=i))
             for i, check in enumerate(checks) if check is not None]
    if not found:
        return None

    def run(call: BoundCall, held: tuple[Tensor, ...], notes: Notes) -> None:
        operands = call["self"]
        for i, check, said in found:
            check.launch(operands[i], held[i], notes.record(said))

    return run
