"""Every element of a layer or RMS norm's input gradient against its rows.

With the given mean m and reciprocal deviation r, and a = dy g the weighted gradient of a row of n,

    dx = r (a - mean(a) - (x - m) r^2 mean(a (x - m)))

One pass over dy and x finds the sums of a, |a|, a (x - m) and |a x|, a second reads both again and
judges each element of dx.

*Limit*, with the coefficients of ``sdc_guard/bounds/norms.py``, r standing for |r|:

    beta   = r^3 / n |sum a (x - m)|
    D_beta = r^3 / n ((h + 5) u (|m| sum|a| + sum|a x|) + 2 n eta (1 + |m|)) + eta (1 + r)^3
    |dx^ - dx| <= D_beta |x - m| + (6 u (beta + D_beta) + eta)(|x| + |m|)
                  + r / n ((h + 4) u sum|a| + 2 n eta) + 8 u r |a|

and the result's own rounding.

*Own rounding.*  The sums are made in float64 from products in float64: at most 3 roundings of a
term relative to |a| (|x| + |m|), the terms of a chunk in any order, one for each chunk; added to h
u. Elements are made in the working format (``rows.py``) of roundoff w, as (r a - B (x - m)) - A
with row factors A and B from float64: u gets 2 w, which counts 12 roundings of B (x - m) and 8 of
the others, where we make at most 5.  The limit is raised by 32 w for its own evaluation.

*Without a mean* (RMS norm, ``norms.rms_input_gradient_error``) m is 0 and nothing of mean(a)
enters; ``4 eta (1 + r)^3 (1 + |x|)(1 + (sum|x| + sum|a x|) /
n)`` all that has eta.

*Judged* are elements of finite limit whose largest intermediate (``norms.input_gradient_size`` or
``rms_input_gradient_size``, for a and for dy) fits the caller's ``reach_max``.  Traffic: dy
and x twice, dx once.  Grid: one program for a tile of rows, see ``rows.py``.  FMA may stay on: it
drops a rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sdc_guard_kernels.rows import (
    FLOAT64,
    NUM_WARPS,
    TILE,
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


class InputGradientPlan(NamedTuple):
    """What a site needs for each launch: see :func:`plan`."""

    rows: Rows
    tile: Tile
    work: Work
    coefficients: Tensor


def plan(
    rows: Rows, result: torch.dtype, device: torch.device, *, u: float, eta: float, depth: float,
    result_u: float, result_eta: float, result_max: float, reach_max: float,
) -> InputGradientPlan:
    """Prepare the checks of a site.

    Args:
        rows: of dy, x, dx, the numbering of dx, weight, mean and rstd; strides are 0 where an
            operand is missing or does not vary.
        result: dtype of dx.
        u, eta: of the accumulator.
        depth: h.
        result_u, result_eta: of the result where it is narrower than the accumulator, else 0.
        result_max, reach_max: largest result, and largest intermediate, that are judged.
    """
    work = work_of(result)
    # Three operands in float64 leave no registers for more.
    most = TILE // 2 if work is FLOAT64 else TILE
    tile = tile_of(rows._replace(strides=rows.strides[:3]), most)
    own = (sum_depth(tile, rows.num_cols) + 4) * U64
    values = (
        (depth + 5) * u + own, (depth + 4) * u + own, u + 2 * work.u, eta,
        result_u, 16 * eta + 0.5 * result_eta + 16 * work.eta, result_max, 1 + 32 * work.u,
        rows.num_cols, reach_max)
    return InputGradientPlan(rows, tile, work, coefficients(values, device))


def norm_backward_rows(
    grad: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor | None, rstd: Tensor,
    result: Tensor, record: Tensor, site: InputGradientPlan,
) -> None:
    """Judge ``result``, dx; the verdict goes to ``record``, int64 [2].  The mean is None for an RMS
    norm, its strides do not count."""
    rows, tile = site.rows, site.tile
    s = rows.strides
    _norm_backward_rows_kernel[(tile.num_programs,)](
        grad, x, x if weight is None else weight, rstd if mean is None else mean, rstd, result,
        site.coefficients, record, rows.sizes[1], rows.sizes[2], rows.num_cols, tile.blocks, *s[0],
        *s[1], *s[2], *s[3], s[4][3], *s[5][:3], *s[6][:3],
        HAS_MEAN=mean is not None, HAS_WEIGHT=weight is not None, WORK=triton_type(site.work),
        END_COL=tile.end(rows.num_cols), BLOCK_ROWS=tile.block_rows, BLOCK_COLS=tile.block_cols,
        num_warps=NUM_WARPS)


@triton.jit  # type: ignore[untyped-decorator]
def _norm_backward_rows_kernel(  # type: ignore[no-untyped-def]
    dy_ptr, x_ptr, weight_ptr, mean_ptr, rstd_ptr, dx_ptr, coefficient_ptr, record_ptr,
    R1, R2, num_cols, blocks,
    dy_stride_0, dy_stride_1, dy_stride_2, dy_stride_col,
    x_stride_0, x_stride_1, x_stride_2, x_stride_col,
    dx_stride_0, dx_stride_1, dx_stride_2, dx_stride_col,
    i_stride_0, i_stride_1, i_stride_2, i_stride_col, weight_stride,
    mean_stride_0, mean_stride_1, mean_stride_2, rstd_stride_0, rstd_stride_1, rstd_stride_2,
    HAS_MEAN: tl.constexpr, HAS_WEIGHT: tl.constexpr, WORK: tl.constexpr,
    END_COL: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):
    r0, r1, r2 = place_of_rows(blocks, R1, BLOCK_ROWS)
    row_exists = r2 < R2
    dy_row = offset_of_rows(r0, r1, r2, dy_stride_0, dy_stride_1, dy_stride_2)
    x_row = offset_of_rows(r0, r1, r2, x_stride_0, x_stride_1, x_stride_2)
    dx_row = offset_of_rows(r0, r1, r2, dx_stride_0, dx_stride_1, dx_stride_2)
    i_row = offset_of_rows(r0, r1, r2, i_stride_0, i_stride_1, i_stride_2)
    at_mean = offset_of_rows(r0, r1, r2, mean_stride_0, mean_stride_1, mean_stride_2)
    at_rstd = offset_of_rows(r0, r1, r2, rstd_stride_0, rstd_stride_1, rstd_stride_2)
    rstd = widened(tl.load(rstd_ptr + at_rstd, mask=row_exists, other=0.0)).to(tl.float64)
    if HAS_MEAN:
        mean = widened(tl.load(mean_ptr + at_mean, mask=row_exists, other=0.0)).to(tl.float64)
    else:
        mean = tl.zeros((BLOCK_ROWS,), dtype=tl.float64)
    lane = tl.arange(0, BLOCK_COLS).to(tl.int64)

    total = tl.zeros((BLOCK_ROWS,), dtype=tl.float64)
    abs_total = tl.zeros((BLOCK_ROWS,), dtype=tl.float64)
    moment = tl.zeros((BLOCK_ROWS,), dtype=tl.float64)
    abs_moment = tl.zeros((BLOCK_ROWS,), dtype=tl.float64)
    plain_total = tl.zeros((BLOCK_ROWS,), dtype=tl.float64)
    plain_moment = tl.zeros((BLOCK_ROWS,), dtype=tl.float64)
    for start in range(0, END_COL, BLOCK_COLS):
        col = start + lane
        col_exists = col < num_cols
        exists = row_exists[:, None] & col_exists[None, :]
        a = widened(tl.load(dy_ptr + dy_row[:, None] + (col * dy_stride_col)[None, :], mask=exists,
                    other=0.0)).to(tl.float64)
        x = widened(tl.load(x_ptr + x_row[:, None] + (col * x_stride_col)[None, :], mask=exists,
                    other=0.0)).to(tl.float64)
        if HAS_WEIGHT:
            plain_total += tl.sum(tl.abs(a), axis=1)
            plain_moment += tl.sum(tl.abs(a * x), axis=1)
            weight = tl.load(weight_ptr + col * weight_stride, mask=col_exists, other=0.0)
            a = a * widened(weight).to(tl.float64)[None, :]
        if HAS_MEAN:
            total += tl.sum(a, axis=1)
            abs_total += tl.sum(tl.abs(a), axis=1)
        else:
            abs_total += tl.sum(tl.abs(x), axis=1)
        moment += tl.sum(a * (x - mean[:, None]), axis=1)
        abs_moment += tl.sum(tl.abs(a * x), axis=1)

    moment_u = tl.load(coefficient_ptr)
    sum_u = tl.load(coefficient_ptr + 1)
    u = tl.load(coefficient_ptr + 2).to(WORK)
    eta = tl.load(coefficient_ptr + 3)
    result_u = tl.load(coefficient_ptr + 4).to(WORK)
    floor = tl.load(coefficient_ptr + 5).to(WORK)
    result_max = tl.load(coefficient_ptr + 6).to(WORK)
    raised = tl.load(coefficient_ptr + 7).to(WORK)
    n = tl.load(coefficient_ptr + 8)
    n_work = n.to(WORK)
    reach_max = tl.load(coefficient_ptr + 9).to(WORK)

    r = tl.abs(rstd)
    abs_mean = tl.abs(mean)
    cubed = r * r * r / n
    beta = cubed * tl.abs(moment)
    above = (1.0 + r) * (1.0 + r) * (1.0 + r)
    if HAS_MEAN:
        beta_error = cubed * (moment_u * (abs_mean * abs_total + abs_moment)
                              + 2.0 * n * eta * (1.0 + abs_mean)) + eta * above
        common = r / n * (sum_u * abs_total + 2.0 * n * eta)
        size = tl.maximum(abs_moment + abs_total * (1.0 + abs_mean),
                          plain_moment + plain_total * (1.0 + abs_mean))
        spread = eta
    else:
        beta_error = cubed * moment_u * abs_moment
        # What may underflow, of the elements with a factor |x| and of all.
        spread = 4.0 * eta * above * (1.0 + (abs_total + abs_moment) / n)
        common = spread
        size = tl.maximum(abs_moment, plain_moment)
    slope = rstd * rstd * rstd * (moment / n)
    mean_gradient = (rstd * (total / n)).to(WORK)[:, None]
    slope_work = slope.to(WORK)[:, None]
    mean_work = mean.to(WORK)[:, None]
    abs_mean_work = abs_mean.to(WORK)[:, None]
    rstd_work = rstd.to(WORK)[:, None]
    r_work = r.to(WORK)[:, None]
    beta_error_work = beta_error.to(WORK)[:, None]
    both_work = (6.0 * u.to(tl.float64) * (beta + beta_error) + spread).to(WORK)[:, None]
    common_work = common.to(WORK)[:, None]
    above_work = above.to(WORK)[:, None]
    size_work = size.to(WORK)[:, None]
    size_per_n = (size / n).to(WORK)[:, None]

    for start in range(0, END_COL, BLOCK_COLS):
        col = start + lane
        col_exists = col < num_cols
        exists = row_exists[:, None] & col_exists[None, :]
        a = widened(tl.load(dy_ptr + dy_row[:, None] + (col * dy_stride_col)[None, :], mask=exists,
                    other=0.0)).to(WORK)
        x = widened(tl.load(x_ptr + x_row[:, None] + (col * x_stride_col)[None, :], mask=exists,
                    other=0.0)).to(WORK)
        dx = widened(tl.load(dx_ptr + dx_row[:, None] + (col * dx_stride_col)[None, :], mask=exists,
                     other=0.0)).to(WORK)
        plain = tl.abs(a)
        if HAS_WEIGHT:
            weight = tl.load(weight_ptr + col * weight_stride, mask=col_exists, other=0.0)
            weight = widened(weight).to(WORK)
            a = a * weight[None, :]
        centred = x - mean_work
        width = tl.abs(x) + abs_mean_work
        expected = (rstd_work * a - slope_work * centred) - mean_gradient
        error = beta_error_work * tl.abs(centred) + both_work * width + common_work
        error = error + 8.0 * u * r_work * tl.abs(a)
        limit = (error + result_u * (tl.abs(expected) + error) + floor) * raised
        if HAS_MEAN:
            reach = tl.abs(expected) + above_work * (1.0 + size_work + size_per_n * width)
        else:
            reach = above_work * (1.0 + size_work) * (1.0 + width)
            reach += n_work * (1.0 + r_work) * tl.maximum(tl.abs(a), plain)
        judged = exists & (reach < reach_max) & (tl.abs(expected) + limit < result_max)
        index = i_row[:, None] + (col * i_stride_col)[None, :]
        note(record_ptr, tl.abs(dx - expected), limit, index, judged)
