"""The gradients of a norm's weight and bias against sums over all rows.

    dg[c] = sum_rows dy (x - m) r        db[c] = sum_rows dy

The first launch cuts the rows into splits and leaves five float64 sums of each column and split:
dg, db, ``sum|dy| |r| (|x| + |m|)``, ``sum|dy|`` and ``sum|dy (x - m) r|``.  The second adds the
splits one after the other and judges every column.

*Limit*, with H, u and eta of ``sdc_guard/bounds/norms.py``:

    |dg^ - dg| <= (H + 4) u sum|dy| |r| (|x| + |m|) + eta (2 sum|dy| + H),
    |db^ - db| <= H (u sum|dy| + eta)

and the results' own rounding.  u is that of the *accumulator*, whatever the results are stored in:
a kernel that adds half numbers up in their own format breaks this limit.

*Own rounding.*  A term of dg errs by 4 roundings of |dy| |r| (|x| + |m|).  A lane adds the rows of
its place in the tile one after the other, the lanes of a column are added in any order, then the
splits: h' = SPLIT_ROWS / BLOCK_ROWS + BLOCK_ROWS + splits (rows + splits if less), and h' + 4
roundings in float64 are added to the limit.  It is raised by 2^-40 for its own evaluation, in
which sums of absolute values err less.

*Without a mean* (RMS norm) m is 0, and ``2 eta sum|r|`` is added for products that underflow before
they are multiplied by r: |r| joins |dy| in the fourth sum, which is of no other use there.

*Judged* are columns of finite limit whose sum of absolute terms, with the limit, fits the format
of x.  Traffic: dy and x once, 40 bytes for each column and split.  Grid: (columns / BLOCK_COLS,
splits), then columns / BLOCK_COLS.  The order depends on the shape alone.  FMA may stay on: it
drops a rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sdc_guard_kernels.rows import NUM_WARPS, U64, Rows, coefficients, widened
from sdc_guard_kernels.verdict import note

BLOCK_ROWS = 32
BLOCK_COLS = 64
NUM_SUMS = 5
MOST_SPLITS = 64


class ParameterPlan(NamedTuple):
    """What a site needs for each launch: see :func:`plan`."""

    rows: Rows
    num_splits: int
    split_rows: int
    coefficients: Tensor


def plan(
    rows: Rows, device: torch.device, *, u: float, eta: float, depth: float, result_u: float,
    result_eta: float, result_max: float,
) -> ParameterPlan:
    """Prepare the checks of a site.

    Args:
        rows: of dy, x, mean and rstd; strides are 0 where an operand does not vary.
        u, eta: of the accumulator.
        depth: H.
        result_u, result_eta: of the results where they are narrower than the accumulator, else 0.
        result_max: largest number of the results' format.
    """
    # Powers of two keep the number of compilations small.
    split_rows = max(4 * BLOCK_ROWS, triton.next_power_of_2(triton.cdiv(
        rows.num_rows, MOST_SPLITS)))
    num_splits = triton.cdiv(rows.num_rows, split_rows)
    lanes = min(rows.num_rows, split_rows // BLOCK_ROWS + BLOCK_ROWS)
    own = (lanes + num_splits + 4) * U64
    values = ((depth + 4) * u + own, depth * u + own, eta, depth * eta, result_u,
              16 * eta + 0.5 * result_eta, result_max, 1 + 2.0**-40)
    return ParameterPlan(rows, num_splits, split_rows, coefficients(values, device))


def norm_parameter_gradients(
    grad: Tensor, x: Tensor, mean: Tensor | None, rstd: Tensor, weight_gradient: Tensor | None,
    bias_gradient: Tensor | None, records: tuple[Tensor, Tensor], site: ParameterPlan,
) -> None:
    """Judge dg and db, contiguous vectors of ``rows.num_cols`` elements, or None; a verdict on each
    goes to its record, int64 [2] (of a result that is missing, to none).  An RMS norm has no mean
    and no bias."""
    rows = site.rows
    s, n = rows.strides, rows.num_cols
    # A sum that no program writes must not pass as one.
    sums = torch.full(
        (NUM_SUMS, site.num_splits, n), torch.nan, dtype=torch.float64, device=grad.device)
    columns = triton.cdiv(n, BLOCK_COLS)
    _column_sums_kernel[(columns, site.num_splits)](
        grad, x, rstd if mean is None else mean, rstd, sums, rows.sizes[1], rows.sizes[2],
        rows.num_rows, n, *s[0], *s[1], *s[2][:3], *s[3][:3], site.num_splits * n,
        HAS_MEAN=mean is not None, SPLIT_ROWS=site.split_rows, BLOCK_ROWS=BLOCK_ROWS,
        BLOCK_COLS=BLOCK_COLS, num_warps=NUM_WARPS)
    some = grad if weight_gradient is None else weight_gradient
    _judge_columns_kernel[(columns,)](
        sums, some, grad if bias_gradient is None else bias_gradient, site.coefficients, *records,
        n, site.num_splits * n, NUM_SPLITS=site.num_splits, HAS_WEIGHT=weight_gradient is not None,
        HAS_BIAS=bias_gradient is not None, BLOCK_COLS=BLOCK_COLS)


@triton.jit  # type: ignore[untyped-decorator]
def _column_sums_kernel(  # type: ignore[no-untyped-def]
    dy_ptr, x_ptr, mean_ptr, rstd_ptr, sums_ptr, R1, R2, num_rows, num_cols,
    dy_stride_0, dy_stride_1, dy_stride_2, dy_stride_col,
    x_stride_0, x_stride_1, x_stride_2, x_stride_col,
    mean_stride_0, mean_stride_1, mean_stride_2, rstd_stride_0, rstd_stride_1, rstd_stride_2,
    step, HAS_MEAN: tl.constexpr, SPLIT_ROWS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):
    col = tl.program_id(0).to(tl.int64) * BLOCK_COLS + tl.arange(0, BLOCK_COLS).to(tl.int64)
    split = tl.program_id(1).to(tl.int64)
    col_exists = col < num_cols
    lane = tl.arange(0, BLOCK_ROWS).to(tl.int64)
    weight_sum = tl.zeros((BLOCK_ROWS, BLOCK_COLS), dtype=tl.float64)
    bias_sum = tl.zeros((BLOCK_ROWS, BLOCK_COLS), dtype=tl.float64)
    size_sum = tl.zeros((BLOCK_ROWS, BLOCK_COLS), dtype=tl.float64)
    abs_sum = tl.zeros((BLOCK_ROWS, BLOCK_COLS), dtype=tl.float64)
    abs_term_sum = tl.zeros((BLOCK_ROWS, BLOCK_COLS), dtype=tl.float64)
    for start in range(0, SPLIT_ROWS, BLOCK_ROWS):
        row = split * SPLIT_ROWS + start + lane
        row_exists = row < num_rows
        r2 = row % R2
        r1 = (row // R2) % R1
        r0 = row // R2 // R1
        exists = row_exists[:, None] & col_exists[None, :]
        dy_row = r0 * dy_stride_0 + r1 * dy_stride_1 + r2 * dy_stride_2
        x_row = r0 * x_stride_0 + r1 * x_stride_1 + r2 * x_stride_2
        at_mean = r0 * mean_stride_0 + r1 * mean_stride_1 + r2 * mean_stride_2
        at_rstd = r0 * rstd_stride_0 + r1 * rstd_stride_1 + r2 * rstd_stride_2
        if HAS_MEAN:
            mean = widened(tl.load(mean_ptr + at_mean, mask=row_exists, other=0.0))[:, None]
        else:
            mean = tl.zeros((BLOCK_ROWS, 1), dtype=tl.float64)
        rstd = widened(tl.load(rstd_ptr + at_rstd, mask=row_exists, other=0.0))[:, None]
        mean = mean.to(tl.float64)
        rstd = rstd.to(tl.float64)
        dy = widened(tl.load(dy_ptr + dy_row[:, None] + (col * dy_stride_col)[None, :], mask=exists,
                     other=0.0)).to(tl.float64)
        x = widened(tl.load(x_ptr + x_row[:, None] + (col * x_stride_col)[None, :], mask=exists,
                    other=0.0)).to(tl.float64)
        abs_dy = tl.abs(dy)
        term = dy * ((x - mean) * rstd)
        weight_sum += term
        bias_sum += dy
        size_sum += abs_dy * tl.abs(rstd) * (tl.abs(x) + tl.abs(mean))
        abs_sum += abs_dy
        if HAS_MEAN == 0:
            abs_sum += tl.where(exists, tl.abs(rstd), 0.0)
        abs_term_sum += tl.abs(term)
    out = sums_ptr + split * num_cols + col
    tl.store(out, tl.sum(weight_sum, axis=0), mask=col_exists)
    tl.store(out + step, tl.sum(bias_sum, axis=0), mask=col_exists)
    tl.store(out + 2 * step, tl.sum(size_sum, axis=0), mask=col_exists)
    tl.store(out + 3 * step, tl.sum(abs_sum, axis=0), mask=col_exists)
    tl.store(out + 4 * step, tl.sum(abs_term_sum, axis=0), mask=col_exists)


@triton.jit  # type: ignore[untyped-decorator]
def _judge_columns_kernel(  # type: ignore[no-untyped-def]
    sums_ptr, weight_gradient_ptr, bias_gradient_ptr, coefficient_ptr, weight_record_ptr,
    bias_record_ptr, num_cols, step,
    NUM_SPLITS: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    col = tl.program_id(0).to(tl.int64) * BLOCK_COLS + tl.arange(0, BLOCK_COLS).to(tl.int64)
    exists = col < num_cols
    weight_sum = tl.zeros((BLOCK_COLS,), dtype=tl.float64)
    bias_sum = tl.zeros((BLOCK_COLS,), dtype=tl.float64)
    size_sum = tl.zeros((BLOCK_COLS,), dtype=tl.float64)
    abs_sum = tl.zeros((BLOCK_COLS,), dtype=tl.float64)
    abs_term_sum = tl.zeros((BLOCK_COLS,), dtype=tl.float64)
    at = sums_ptr + col
    for _ in range(NUM_SPLITS):
        weight_sum += tl.load(at, mask=exists, other=0.0)
        bias_sum += tl.load(at + step, mask=exists, other=0.0)
        size_sum += tl.load(at + 2 * step, mask=exists, other=0.0)
        abs_sum += tl.load(at + 3 * step, mask=exists, other=0.0)
        abs_term_sum += tl.load(at + 4 * step, mask=exists, other=0.0)
        at += num_cols
    weight_u = tl.load(coefficient_ptr)
    bias_u = tl.load(coefficient_ptr + 1)
    eta = tl.load(coefficient_ptr + 2)
    depth_eta = tl.load(coefficient_ptr + 3)
    result_u = tl.load(coefficient_ptr + 4)
    floor = tl.load(coefficient_ptr + 5)
    result_max = tl.load(coefficient_ptr + 6)
    raised = tl.load(coefficient_ptr + 7)
    if HAS_WEIGHT:
        held = widened(tl.load(weight_gradient_ptr + col, mask=exists, other=0.0)).to(tl.float64)
        error = weight_u * size_sum + eta * 2.0 * abs_sum + depth_eta
        limit = (error + result_u * (tl.abs(weight_sum) + error) + floor) * raised
        judged = exists & (abs_term_sum + error < result_max)
        judged = judged & (tl.abs(weight_sum) + limit < result_max)
        note(weight_record_ptr, tl.abs(held - weight_sum), limit, col, judged)
    if HAS_BIAS:
        held = widened(tl.load(bias_gradient_ptr + col, mask=exists, other=0.0)).to(tl.float64)
        error = bias_u * abs_sum + depth_eta
        limit = (error + result_u * (tl.abs(bias_sum) + error) + floor) * raised
        judged = exists & (abs_sum + error < result_max)
        judged = judged & (tl.abs(bias_sum) + limit < result_max)
        note(bias_record_ptr, tl.abs(held - bias_sum), limit, col, judged)
