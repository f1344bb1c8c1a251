"""How a layer norm's calls reach the kernels that judge them on their device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from sdc_guard.bounds.norms import WIDEST, merge_depth, row_depth
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


def forward_kernel(formulas: Sequence[str]) -> KernelOf:
    """The elements, means and deviations of a layer norm; ``formulas`` of their limits."""

    def of_site(call: BoundCall, held: tuple[Tensor, ...]) -> KernelRun | None:
        x, weight, bias = call["input"], call["weight"], call["bias"]
        if not readable(x, *held, *_optional(weight, bias)) or held[0].shape != x.shape:
            return None
        from sdc_guard_kernels.norm_rows import NormLimits, norm_rows, plan
        from sdc_guard_kernels.rows import c_order, rows_of

        y, mean, rstd = held
        rank, num_columns = x.dim(), len(call["normalized_shape"])
        n = math.prod(call["normalized_shape"])
        numbering = c_order(mean.shape)[: rank - num_columns] + (0,) * num_columns
        rows = rows_of(x.shape, range(rank - num_columns, rank), [
            x.stride(), y.stride(), c_order(x.shape), _per_column(weight, rank),
            _per_column(bias, rank), _per_row(mean, num_columns), _per_row(rstd, num_columns),
            numbering])
        if rows is None or mean.dtype is not rstd.dtype:
            return None
        acc, out, stats = (accumulator_of(x.dtype), format_of(y.dtype), format_of(mean.dtype))
        result_u, result_eta = _narrower(out, acc)
        stats_u, stats_eta = _narrower(stats, acc)
        limits = NormLimits(
            u=acc.u, eta=acc.eta, accumulator_max=acc.max, depth=merge_depth(n),
            leftover=1.0 if n % WIDEST else 0.0, eps=float(call["eps"]),
            result_u=result_u, result_eta=result_eta, result_max=out.max,
            stats_u=stats_u, stats_eta=stats_eta, stats_max=stats.max)
        site = plan(rows, limits, y.dtype, y.device)

        def run(call: BoundCall, held: tuple[Tensor, ...], notes: Notes) -> None:
            records = [notes.record(KernelCheck("reference", formula, output))
                       for output, formula in enumerate(formulas)]
            norm_rows(call["input"], call["weight"], call["bias"], (held[0], held[1], held[2]),
                      (records[0], records[1], records[2]), site)

        return run

    return of_site


def backward_kernel(formulas: Sequence[str]) -> KernelOf:
    """The gradients of a layer norm: elements of the input's, columns of the parameters'."""

    def of_site(call: BoundCall, held: tuple[Tensor, ...]) -> KernelRun | None:
        grad, x, weight = call["grad_out"], call["input"], call["weight"]
        mean, rstd = call["mean"], call["rstd"]
        if not readable(grad, x, mean, rstd, *_optional(weight, *held)) or grad.shape != x.shape:
            return None
        launches = [found for found in (
            _input_gradient(call, held, formulas[0]) if call["output_mask"][0] else None,
            _parameter_gradients(call, held, formulas[1:])
            if any(call["output_mask"][1:]) else None,
        ) if found is not None]

        def run(call: BoundCall, held: tuple[Tensor, ...], notes: Notes) -> None:
            for launch in launches:
                launch(call, held, notes)

        return run if launches else None

    return of_site


def _columns(call: BoundCall) -> tuple[int, int]:
    return call["input"].dim(), len(call["normalized_shape"])


def _input_gradient(call: BoundCall, held: tuple[Tensor, ...], formula: str) -> Launch | None:
    from sdc_guard_kernels.norm_backward_rows import norm_backward_rows, plan
    from sdc_guard_kernels.rows import c_order, rows_of

    x, result = call["input"], held[0]
    rank, num_columns = _columns(call)
    rows = rows_of(x.shape, range(rank - num_columns, rank), [
        call["grad_out"].stride(), x.stride(), result.stride(), c_order(x.shape),
        _per_column(call["weight"], rank), _per_row(call["mean"], num_columns),
        _per_row(call["rstd"], num_columns)])
    if rows is None:
        return None
    acc, out = accumulator_of(x.dtype), format_of(result.dtype)
    result_u, result_eta = _narrower(out, acc)
    site = plan(rows, result.dtype, result.device, u=acc.u, eta=acc.eta,
                depth=lane_depth(rows.num_cols, acc), result_u=result_u, result_eta=result_eta,
                result_max=out.max)

    def launch(call: BoundCall, held: tuple[Tensor, ...], notes: Notes) -> None:
        norm_backward_rows(
            call["grad_out"], call["input"], call["weight"], call["mean"], call["rstd"], held[0],
            notes.record(KernelCheck("reference", formula)), site)

    return launch


def _parameter_gradients(
    call: BoundCall, held: tuple[Tensor, ...], formulas: Sequence[str]
) -> Launch | None:
    from sdc_guard_kernels.norm_parameter_gradients import norm_parameter_gradients, plan
    from sdc_guard_kernels.rows import rows_of

    x, mask = call["input"], call["output_mask"]
    rank, num_columns = _columns(call)
    results = [held[i] for i in (1, 2) if mask[i]]
    rows = rows_of(x.shape, range(rank - num_columns, rank), [
        call["grad_out"].stride(), x.stride(), _per_row(call["mean"], num_columns),
        _per_row(call["rstd"], num_columns)])
    own = format_of(x.dtype)
    if rows is None or any(not t.is_contiguous() or t.dtype is not x.dtype for t in results):
        return None
    acc = accumulator_of(x.dtype)
    result_u, result_eta = _narrower(own, acc)
    site = plan(rows, x.device, u=acc.u, eta=acc.eta, depth=row_depth(rows.num_rows),
                result_u=result_u, result_eta=result_eta, result_max=own.max)

    def launch(call: BoundCall, held: tuple[Tensor, ...], notes: Notes) -> None:
        wanted = [i for i in (1, 2) if mask[i]]
        found: dict[int, Any] = {
            i: notes.record(KernelCheck("reference", formulas[i - 1], i)) for i in wanted}
        first = found[wanted[0]]
        norm_parameter_gradients(
            call["grad_out"], call["input"], call["mean"], call["rstd"],
            held[1] if 1 in found else None, held[2] if 2 in found else None,
            (found.get(1, first), found.get(2, first)), site)

    return launch
