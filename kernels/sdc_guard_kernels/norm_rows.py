"""Every result of a layer or RMS norm against its rows: elements, means and deviations.

    m = mean x,  var = mean (x - m)^2,  r = (var + eps)^{-1/2},   y = (x - m) r g + b

*One pass* over x finds ``sum x``, ``sum|x|``, ``max|x|`` and the squared deviations of a row: a
chunk of columns has its own mean, and its squared deviations join those before (Chan, Golub and
LeVeque 1983): M += M_c + (m_c - m)^2 n_a n_c / (n_a + n_c).  A second pass reads x again and y.

*Limit.*  With the coefficients of ``sdc_guard/bounds/norms.py``, s^2 = var and R^2 = var + m^2:

    D_m  = 2 h u mean|x| + t u max|x| + 2 (n + 4) eta
    D_v  = 3 h u (s R + var) + (2 h u R)^2 + 2 (n + 4) eta (1 + mean|x|)
    D_r  = the larger way from r to (var + eps -+ (D_v + u (eps + var)))^{-1/2}, + 4 u of the upper
    |y^ - y| <= |g| (|x - m| D_r + (r + D_r)(D_m + 3 u (|x| + |m|))) + 2 u (|y| + |g (x - m) r|)

plus the results' own roundings.

*Own rounding.*  The statistics are made in float64.  The sum of a row errs by h' 2^-53 sum|x|, h'
the terms of a chunk in any order and one for each chunk.  A chunk's squared deviations, from a
mean that is off by e, are too large by n_c e^2 and err by h' + 4 roundings; a merge's difference
of means is off by e, so its square by 2 |m_c - m| e + e^2.  With e <= h' 2^-53 times the mean of
|x| over a chunk or over all chunks before, the weights of all merges and Cauchy-Schwarz give D_v's
form with h' sqrt(2 + log chunks) for h; we count 4 (h' + 4 chunks + 4) throughout.  Both bounds
are superadditive in h u, so ours is added to the operator's.  Elements are made in the working
format (``rows.py``) of roundoff w: u gets 2 w, which counts 6 roundings of |x| + |m| and 4 of each
product, where we make 3 and 4.  The limit is raised by 32 w for its own evaluation.

*Without a mean* (RMS norm) var is q = mean x^2, m and D_m are 0, ``D_v = c q + 2 (n + 4) eta (1 +
mean|x|)`` with the caller's c for h u, and ``2 (n + 4) eta |g|`` is added for a product that
underflows.  Our sum of squares errs by h' + 2 roundings of q.  The root of squares need not fit.

*Judged* are results of finite limit, in rows where neither a sum of elements nor one of squared
deviations can overflow (``norms.out_of_range``) and whose root of squares fits the result's
format. A NaN in the weight or the bias must be NaN in y.

Traffic: x twice, y once, weights once for each program.  Grid: one program for a tile of rows, see
``rows.py``.  FMA may stay on: it drops a rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sdc_guard_kernels.rows import (
    NUM_WARPS,
    U64,
    Rows,
    Tile,
    Work,
    coefficients,
    offset_of_rows,
    place_of_rows,
    sum_depth,
    tile_of,
    triton_type,
    widened,
    work_of,
)
from sdc_guard_kernels.verdict import note


class NormLimits(NamedTuple):
    """Coefficients of the bound of a layer norm.

    ``u``, ``eta``, ``accumulator_max``: of the accumulator.  ``depth``: h.  ``leftover``: t.
    ``result_u``, ``stats_u``: of the formats of y and of mean and rstd where they are narrower,
    else 0, with ``result_eta`` and ``stats_eta``.  ``result_max``, ``stats_max``: their largest
    numbers.  ``root_max``: what the root of squares must be below.  Without a mean ``depth`` is c
    over u.
    """

    u: float
    eta: float
    accumulator_max: float
    depth: float
    leftover: float
    eps: float
    result_u: float
    result_eta: float
    result_max: float
    root_max: float
    stats_u: float
    stats_eta: float
    stats_max: float


class NormPlan(NamedTuple):
    """What a site needs for each launch: see :func:`plan`."""

    rows: Rows
    tile: Tile
    work: Work
    coefficients: Tensor


def own_depth(tile: Tile, num_cols: int) -> float:
    """Roundings of the statistics, as the module's docstring counts them."""
    return 4.0 * (sum_depth(tile, num_cols) + 4 * tile.chunks(num_cols) + 4)


def plan(rows: Rows, limits: NormLimits, result: torch.dtype, device: torch.device) -> NormPlan:
    """Prepare the checks of a site.

    Args:
        rows: of x, y, the numbering of y, weight, bias, mean, rstd and the numbering of the last
            two; strides are 0 where an operand is missing or does not vary.
        result: dtype of y.
    """
    work, tile, n = work_of(result), tile_of(rows._replace(strides=rows.strides[:2])), rows.num_cols
    lost = 2 * (n + 4) * (limits.eta + 2.0**-1074)
    values = (
        limits.depth * limits.u + own_depth(tile, n) * U64, limits.leftover * limits.u, lost,
        limits.u + 2 * U64, limits.eps, limits.u + 2 * work.u, limits.accumulator_max,
        limits.result_u, 16 * limits.eta + 0.5 * limits.result_eta + 16 * work.eta,
        limits.result_max, limits.stats_u, 16 * limits.eta + 0.5 * limits.stats_eta,
        limits.stats_max, 1 + 32 * work.u, 1 + 32 * U64, limits.root_max)
    return NormPlan(rows, tile, work, coefficients(values, device))


def norm_rows(
    x: Tensor, weight: Tensor | None, bias: Tensor | None,
    results: tuple[Tensor, Tensor | None, Tensor],
    records: tuple[Tensor, Tensor | None, Tensor], site: NormPlan,
) -> None:
    """Judge ``results``, (y, mean, rstd); a verdict on each goes to its record, int64 [2].  The
    mean and its record are None for an RMS norm."""
    rows, tile = site.rows, site.tile
    y, mean, rstd = results
    y_record, mean_record, rstd_record = records
    s = rows.strides
    _norm_rows_kernel[(tile.num_programs,)](
        x, x if weight is None else weight, x if bias is None else bias, y,
        rstd if mean is None else mean, rstd, site.coefficients, y_record,
        rstd_record if mean_record is None else mean_record, rstd_record, rows.sizes[1],
        rows.sizes[2], rows.num_cols, tile.blocks, *s[0], *s[1], *s[2], s[3][3], s[4][3],
        *s[5][:3], *s[6][:3], *s[7][:3],
        HAS_MEAN=mean is not None, HAS_WEIGHT=weight is not None, HAS_BIAS=bias is not None,
        WORK=triton_type(site.work),
        END_COL=tile.end(rows.num_cols), BLOCK_ROWS=tile.block_rows, BLOCK_COLS=tile.block_cols,
        num_warps=NUM_WARPS)


@triton.jit  # type: ignore[untyped-decorator]
def _norm_rows_kernel(  # type: ignore[no-untyped-def]
    x_ptr, weight_ptr, bias_ptr, y_ptr, mean_ptr, rstd_ptr, coefficient_ptr,
    y_record_ptr, mean_record_ptr, rstd_record_ptr, R1, R2, num_cols, blocks,
    x_stride_0, x_stride_1, x_stride_2, x_stride_col,
    y_stride_0, y_stride_1, y_stride_2, y_stride_col,
    i_stride_0, i_stride_1, i_stride_2, i_stride_col, weight_stride, bias_stride,
    mean_stride_0, mean_stride_1, mean_stride_2, rstd_stride_0, rstd_stride_1, rstd_stride_2,
    j_stride_0, j_stride_1, j_stride_2,
    HAS_MEAN: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr, WORK: tl.constexpr,
    END_COL: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):
    r0, r1, r2 = place_of_rows(blocks, R1, BLOCK_ROWS)
    row_exists = r2 < R2
    x_row = offset_of_rows(r0, r1, r2, x_stride_0, x_stride_1, x_stride_2)
    y_row = offset_of_rows(r0, r1, r2, y_stride_0, y_stride_1, y_stride_2)
    i_row = offset_of_rows(r0, r1, r2, i_stride_0, i_stride_1, i_stride_2)
    j_row = offset_of_rows(r0, r1, r2, j_stride_0, j_stride_1, j_stride_2)
    lane = tl.arange(0, BLOCK_COLS).to(tl.int64)

    total = tl.zeros((BLOCK_ROWS,), dtype=tl.float64)
    abs_total = tl.zeros((BLOCK_ROWS,), dtype=tl.float64)
    squares = tl.zeros((BLOCK_ROWS,), dtype=tl.float64)
    largest_x = tl.zeros((BLOCK_ROWS,), dtype=tl.float64)
    before = tl.zeros((BLOCK_ROWS,), dtype=tl.float64)
    for start in range(0, END_COL, BLOCK_COLS):
        col = start + lane
        exists = row_exists[:, None] & (col < num_cols)[None, :]
        x = widened(tl.load(x_ptr + x_row[:, None] + (col * x_stride_col)[None, :], mask=exists,
                    other=0.0)).to(tl.float64)
        num_here = tl.minimum(num_cols - start, BLOCK_COLS).to(tl.float64)
        if HAS_MEAN:
            here = tl.sum(x, axis=1)
            mean_here = here / num_here
            deviation = tl.where(exists, x - mean_here[:, None], 0.0)
            step = mean_here - total / tl.maximum(before, 1.0)
            squares += tl.sum(deviation * deviation, axis=1)
            squares += step * step * (before * num_here / (before + num_here))
            total += here
        else:
            squares += tl.sum(x * x, axis=1)
        before += num_here
        magnitude = tl.abs(x)
        abs_total += tl.sum(magnitude, axis=1)
        largest_x = tl.maximum(largest_x, tl.max(magnitude, axis=1))

    depth_u = tl.load(coefficient_ptr)
    leftover_u = tl.load(coefficient_ptr + 1)
    lost = tl.load(coefficient_ptr + 2)
    stats_u = tl.load(coefficient_ptr + 3)
    eps = tl.load(coefficient_ptr + 4)
    u = tl.load(coefficient_ptr + 5).to(WORK)
    accumulator_max = tl.load(coefficient_ptr + 6)
    result_u = tl.load(coefficient_ptr + 7).to(WORK)
    floor = tl.load(coefficient_ptr + 8).to(WORK)
    result_max = tl.load(coefficient_ptr + 9)
    stored_u = tl.load(coefficient_ptr + 10)
    stored_floor = tl.load(coefficient_ptr + 11)
    stored_max = tl.load(coefficient_ptr + 12)
    raised = tl.load(coefficient_ptr + 13).to(WORK)

    mean = total / before
    variance = squares / before
    abs_mean = abs_total / before
    square = variance + mean * mean
    mean_error = 2.0 * depth_u * abs_mean + leftover_u * largest_x + lost
    # Within the error of the variance the deviation may be infinite: nothing is judged there.
    sum_fits = abs_total + 2.0 * largest_x < accumulator_max
    in_range = row_exists & sum_fits & (4.0 * square * before < accumulator_max)
    variance = tl.where(in_range, variance, 1.0)
    square = tl.where(in_range, square, 1.0)
    if HAS_MEAN:
        variance_error = 3.0 * depth_u * (tl.sqrt(variance * square) + variance)
        variance_error += 4.0 * depth_u * depth_u * square + lost * (1.0 + abs_mean)
    else:
        mean_error = mean * 0.0
        variance_error = depth_u * square + lost * (1.0 + abs_mean)
    slack = variance_error + stats_u * tl.abs(eps + variance)
    lower = variance + eps - slack
    is_known = in_range & (lower > 0.0)
    lower = tl.where(is_known, lower, 1.0)
    rstd = 1.0 / tl.sqrt(tl.where(is_known, variance + eps, 1.0))
    highest = 1.0 / tl.sqrt(lower)
    lowest = 1.0 / tl.sqrt(tl.where(is_known, variance + eps + slack, 1.0))
    rstd_error = tl.maximum(highest - rstd, rstd - lowest) + 4.0 * stats_u * highest

    stats_raised = tl.load(coefficient_ptr + 14)
    if HAS_MEAN:
        at_mean = offset_of_rows(r0, r1, r2, mean_stride_0, mean_stride_1, mean_stride_2)
        held_mean = widened(tl.load(mean_ptr + at_mean, mask=row_exists, other=0.0)).to(tl.float64)
        mean_limit = mean_error + stored_u * (tl.abs(mean) + mean_error) + stored_floor
        mean_limit = mean_limit * stats_raised
        judged_mean = row_exists & sum_fits & (tl.abs(mean) + mean_limit < stored_max)
        note(mean_record_ptr, tl.abs(held_mean - mean), mean_limit, j_row, judged_mean)

    at_rstd = offset_of_rows(r0, r1, r2, rstd_stride_0, rstd_stride_1, rstd_stride_2)
    held_rstd = widened(tl.load(rstd_ptr + at_rstd, mask=row_exists, other=0.0)).to(tl.float64)
    rstd_limit = rstd_error + stored_u * (rstd + rstd_error) + stored_floor
    rstd_limit = rstd_limit * stats_raised
    judged_rstd = is_known & (rstd + rstd_limit < stored_max)
    note(rstd_record_ptr, tl.abs(held_rstd - rstd), rstd_limit, j_row, judged_rstd)

    is_known = is_known & (tl.sqrt(square * before) < tl.load(coefficient_ptr + 15))
    lost_work = lost.to(WORK)
    mean_work = tl.where(is_known, mean, 0.0).to(WORK)[:, None]
    rstd_work = rstd.to(WORK)[:, None]
    rstd_error_work = rstd_error.to(WORK)[:, None]
    upper_work = (rstd + rstd_error).to(WORK)[:, None]
    mean_error_work = tl.where(is_known, mean_error, 0.0).to(WORK)[:, None]
    for start in range(0, END_COL, BLOCK_COLS):
        col = start + lane
        col_exists = col < num_cols
        exists = row_exists[:, None] & col_exists[None, :]
        x = widened(tl.load(x_ptr + x_row[:, None] + (col * x_stride_col)[None, :], mask=exists,
                    other=0.0)).to(WORK)
        y = widened(tl.load(y_ptr + y_row[:, None] + (col * y_stride_col)[None, :], mask=exists,
                    other=0.0)).to(WORK)
        x = tl.where(is_known[:, None], x, 0.0)
        normalised = (x - mean_work) * rstd_work
        deviation = tl.abs(x - mean_work)
        error = deviation * rstd_error_work + upper_work * (
            mean_error_work + 3.0 * u * (tl.abs(x) + tl.abs(mean_work)))
        if HAS_MEAN == 0:
            error += lost_work
        expected = normalised
        if HAS_WEIGHT:
            weight = tl.load(weight_ptr + col * weight_stride, mask=col_exists, other=0.0)
            weight = widened(weight).to(WORK)
            expected = expected * weight[None, :]
            error = error * tl.abs(weight)[None, :]
        error = error + 2.0 * u * tl.abs(expected)
        if HAS_BIAS:
            bias = tl.load(bias_ptr + col * bias_stride, mask=col_exists, other=0.0)
            bias = widened(bias).to(WORK)
            expected = expected + bias[None, :]
        error = error + 2.0 * u * tl.abs(expected)
        limit = (error + result_u * (tl.abs(expected) + error) + floor) * raised
        defect = tl.abs(y - expected)
        judged = exists & is_known[:, None]
        judged = judged & (tl.abs(expected) + limit < result_max.to(WORK))
        if HAS_WEIGHT:
            is_nan = exists & is_known[:, None] & (weight != weight)[None, :]
            defect = tl.where(is_nan, tl.where(y == y, float("inf"), 0.0), defect)
            limit = tl.where(is_nan, 0.0, limit)
            judged = judged | is_nan
        if HAS_BIAS:
            is_nan = exists & is_known[:, None] & (bias != bias)[None, :]
            defect = tl.where(is_nan, tl.where(y == y, float("inf"), 0.0), defect)
            limit = tl.where(is_nan, 0.0, limit)
            judged = judged | is_nan
        note(y_record_ptr, defect, limit, i_row[:, None] + (col * i_stride_col)[None, :], judged)
