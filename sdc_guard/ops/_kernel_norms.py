"""How the calls of layer and RMS norms reach the kernels that judge them on their device.

An RMS norm is a layer norm without mean and bias, so these are None here, and its limits are those
of :func:`sdc_guard.bounds.norms.root_mean_square`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from sdc_guard.bounds.norms import (
    WIDEST,
    merge_depth,
    row_depth,
    square_depth,
    square_roundings,
)
from sdc_guard.bounds.sums import lane_depth
from sdc_guard.calls import BoundCall
from sdc_guard.formats import Format, accumulator_of, format_of
from sdc_guard.ops._kernel_rows import readable
from sdc_guard.ops._kernels import KernelCheck, KernelOf, KernelRun, Notes

Launch = Callable[[BoundCall, tuple[Tensor, ...], Notes], None]


def _narrower(out: Format, acc: Format) -> tuple[float, float]:
    """Roundoff and spacing of subnormals of a result's format where storing rounds, else 0."""
    return (out.u, out.eta) if out.precision < acc.precision else (0.0, 0.0)


def _per_row(tensor: Tensor, num_columns: int) -> tuple[int, ...]:
    """Strides of statistics, which the last dimensions do not vary."""
    kept = tensor.dim() - num_columns
    return (*tensor.stride()[:kept], *(0,) * num_columns)


def _per_column(tensor: Tensor | None, rank: int) -> tuple[int, ...]:
    """Strides of a weight, which only the last dimensions vary."""
    if tensor is None:
        return (0,) * rank
    return (*(0,) * (rank - tensor.dim()), *tensor.stride())


def _optional(*tensors: Tensor | None) -> tuple[Tensor, ...]:
    return tuple(t for t in tensors if t is not None)


def eps_of(call: BoundCall) -> float:
    """What the call adds to a mean square; that of its accumulator where it gives none."""
    eps = call["eps"]
    return 2 * accumulator_of(call["input"].dtype).u if eps is None else float(eps)


def forward_kernel(formulas: Sequence[str]) -> KernelOf:
    """The elements, means (of a layer norm) and deviations; ``formulas`` of their limits."""

    def of_site(call: BoundCall, held: tuple[Tensor, ...]) -> KernelRun | None:
        x, weight, bias = call["input"], call["weight"], call.get("bias")
        if not readable(x, *held, *_optional(weight, bias)) or held[0].shape != x.shape:
            return None
        from sdc_guard_kernels.norm_rows import NormLimits, norm_rows, plan
        from sdc_guard_kernels.rows import c_order, rows_of

        y, rstd = held[0], held[-1]
        mean = held[1] if len(held) > 2 else None
        rank, num_columns = x.dim(), len(call["normalized_shape"])
        n = math.prod(call["normalized_shape"])
        numbering = c_order(rstd.shape)[: rank - num_columns] + (0,) * num_columns
        rows = rows_of(x.shape, range(rank - num_columns, rank), [
            x.stride(), y.stride(), c_order(x.shape), _per_column(weight, rank),
            _per_column(bias, rank), _per_row(rstd if mean is None else mean, num_columns),
            _per_row(rstd, num_columns), numbering])
        if rows is None or (mean is not None and mean.dtype is not rstd.dtype):
            return None
        acc, out, stats = (accumulator_of(x.dtype), format_of(y.dtype), format_of(rstd.dtype))
        result_u, result_eta = _narrower(out, acc)
        stats_u, stats_eta = _narrower(stats, acc)
        limits = NormLimits(
            u=acc.u, eta=acc.eta, accumulator_max=acc.max,
            depth=merge_depth(n) if mean is not None else square_roundings(
                square_depth(n), acc.u) / acc.u,
            leftover=1.0 if n % WIDEST else 0.0, eps=eps_of(call), result_u=result_u,
            result_eta=result_eta, result_max=out.max,
            root_max=out.max if mean is not None else math.inf,
            stats_u=stats_u, stats_eta=stats_eta, stats_max=stats.max)
        site = plan(rows, limits, y.dtype, y.device)

        def run(call: BoundCall, held: tuple[Tensor, ...], notes: Notes) -> None:
            records = [notes.record(KernelCheck("reference", formula, output))
                       for output, formula in enumerate(formulas)]
            means = (held[1], records[1]) if len(held) > 2 else (None, None)
            norm_rows(call["input"], call["weight"], call.get("bias"),
                      (held[0], means[0], held[-1]), (records[0], means[1], records[-1]), site)

        return run

    return of_site


def backward_kernel(formulas: Sequence[str]) -> KernelOf:
    """The gradients: elements of the input's, columns of the parameters'."""

    def of_site(call: BoundCall, held: tuple[Tensor, ...]) -> KernelRun | None:
        grad, x, weight = call["grad_out"], call["input"], call["weight"]
        given = _optional(call.get("mean"), weight, *held)
        if not readable(grad, x, call["rstd"], *given) or grad.shape != x.shape:
            return None
        launches = [found for found in (
            _input_gradient(call, held, formulas[0]) if held[0] is not None else None,
            _parameter_gradients(call, held, formulas[1:])
            if any(t is not None for t in held[1:]) else None,
        ) if found is not None]

        def run(call: BoundCall, held: tuple[Tensor, ...], notes: Notes) -> None:
            for launch in launches:
                launch(call, held, notes)

        return run if launches else None

    return of_site


def _statistics(call: BoundCall) -> tuple[Tensor, Tensor]:
    """What stands for the mean, and the reciprocal deviation."""
    mean = call.get("mean")
    return call["rstd"] if mean is None else mean, call["rstd"]


def _columns(call: BoundCall) -> tuple[int, int]:
    return call["input"].dim(), len(call["normalized_shape"])


def _input_gradient(call: BoundCall, held: tuple[Tensor, ...], formula: str) -> Launch | None:
    from sdc_guard_kernels.norm_backward_rows import norm_backward_rows, plan
    from sdc_guard_kernels.rows import c_order, rows_of

    x, result = call["input"], held[0]
    rank, num_columns = _columns(call)
    rows = rows_of(x.shape, range(rank - num_columns, rank), [
        call["grad_out"].stride(), x.stride(), result.stride(), c_order(x.shape),
        _per_column(call["weight"], rank),
        *(_per_row(t, num_columns) for t in _statistics(call))])
    if rows is None:
        return None
    has_mean = call.get("mean") is not None
    acc, out = accumulator_of(x.dtype), format_of(result.dtype)
    result_u, result_eta = _narrower(out, acc)
    site = plan(rows, result.dtype, result.device, u=acc.u, eta=acc.eta,
                depth=lane_depth(rows.num_cols, acc), result_u=result_u, result_eta=result_eta,
                result_max=out.max, reach_max=out.max if has_mean else acc.max)

    def launch(call: BoundCall, held: tuple[Tensor, ...], notes: Notes) -> None:
        norm_backward_rows(
            call["grad_out"], call["input"], call["weight"], call.get("mean"), call["rstd"],
            held[0], notes.record(KernelCheck("reference", formula)), site)

    return launch


def _parameter_gradients(
    call: BoundCall, held: tuple[Tensor, ...], formulas: Sequence[str]
) -> Launch | None:
    from sdc_guard_kernels.norm_parameter_gradients import norm_parameter_gradients, plan
    from sdc_guard_kernels.rows import rows_of

    x = call["input"]
    rank, num_columns = _columns(call)
    wanted = [i for i in range(1, len(held)) if held[i] is not None]
    results = [held[i] for i in wanted]
    rows = rows_of(x.shape, range(rank - num_columns, rank), [
        call["grad_out"].stride(), x.stride(),
        *(_per_row(t, num_columns) for t in _statistics(call))])
    own = format_of(x.dtype)
    if rows is None or any(not t.is_contiguous() or t.dtype is not x.dtype for t in results):
        return None
    acc = accumulator_of(x.dtype)
    result_u, result_eta = _narrower(own, acc)
    site = plan(rows, x.device, u=acc.u, eta=acc.eta, depth=row_depth(rows.num_rows),
                result_u=result_u, result_eta=result_eta, result_max=own.max)

    def launch(call: BoundCall, held: tuple[Tensor, ...], notes: Notes) -> None:
        found: dict[int, Any] = {
            i: notes.record(KernelCheck("reference", formulas[i - 1], i)) for i in wanted}
        first = found[wanted[0]]
        norm_parameter_gradients(
            call["grad_out"], call["input"], call.get("mean"), call["rstd"],
            held[1] if 1 in found else None, held[2] if 2 in found else None,
            (found.get(1, first), found.get(2, first)), site)

    return launch
