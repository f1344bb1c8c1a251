"""Every element of a softmax or log-softmax against the rows of its operand.

    d_i = x_i - max x,  e_i = exp(d_i),  S = sum e,     p_i = e_i / S,     l_i = d_i - log S

*One pass* over x finds max and S of a row, online: a chunk of columns whose maximum is larger
rescales what was summed before by ``exp(old max - new max)``.  A second pass reads x again (from a
cache, for rows that fit) and the result, and judges each element.

*Limit.*  With the coefficients of ``sdc_guard/bounds/softmax.py`` (u, h, phi, v; a term errs by
``r_i = growth(u |d_i|)(1 + phi) + phi``, growth(t) = t + t^2):

    r_S = (sum p_i r_i)(1 + h u) + h u
    |p^ - p_i| <= p_i (r_i + 4 u (1 + r_i) + r_S) / (1 - r_S) + 2 tiny
    |l^ - l_i| <= (u |d_i| + r_S / (1 - r_S) + (phi + v)|log S| + v (1 + v))(1 + 4 u) + u |l_i|

plus the result's own rounding.  The mean of the r_i needs no sum of its own: with H the entropy
of p, ``sum p_i |d_i| = H - log S <= log n - log S``, hence

    sum p_i r_i <= u' (1 + 2^-9)(1 + phi)(log n - log S) + phi,

for a term that does not vanish has ``|d_i| < 746``, where growth(t) <= (1 + 2^-9) t, and one that
does weighs nothing.  log n is raised by 2^-10, more than log S errs by.  ``-log1p(-r) <=
r/(1-r)``.

*Own rounding.*  Everything above is evaluated here with errors of the same form, and each bound is
superadditive in its coefficients, so ours are added to those of the operator: with w the roundoff
of the working format (``rows.py``), u gets 2 w (the bounds count 3 roundings or more where we make
at most 6), u' gets w for d and the error of the argument of exp, phi gets that of exp, tiny what
exp may flush, and h u gets the roundings of S in float64: one for each of the terms of a chunk in
any order, and for each chunk two and an exponential.  The errors of the arguments of a chunk's
rescaling add up to those of |d_i|, because the steps of the maximum do.  Underflow costs eta a
few times.  The limit is then raised by 32 w for the roundings of its own evaluation.

*Judged* are elements of finite limit whose largest intermediate stays in the range of the result.
A row with a NaN or +inf, or with nothing but -inf, has no softmax: its results must be NaN (0 in
the last case for ``safe``).  Of log-softmax such rows, and elements of -inf, are not judged.

Traffic: x twice, the result once.  Grid: one program for a tile of rows, see ``rows.py``.  FMA may
stay on: a contracted product drops a rounding.  Premises: no float64 subnormal matters.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sdc_guard_kernels.rows import (
    LOG_ERROR,
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


class RowLimits(NamedTuple):
    """Coefficients of a bound of a row operator.

    ``u``: roundoff of the accumulator.  ``depth``: of its sums.  ``phi``: relative error of its exp
    and log.  ``storage_u``: roundoff of a format in which sums are kept.  ``term_u``: of one in
    which terms are.  ``flush``: what may become zero.  ``result_u``, ``result_eta``: of the
    result's format where it is narrower, else 0.  ``floor``: absolute error besides.  ``largest``:
    largest finite result.
    """

    u: float
    depth: float
    phi: float
    storage_u: float
    term_u: float
    flush: float
    result_u: float
    result_eta: float
    floor: float
    largest: float


class SoftmaxPlan(NamedTuple):
    """What a site needs for each launch: see :func:`plan`."""

    rows: Rows
    tile: Tile
    work: Work
    coefficients: Tensor
    logarithm: bool
    safe: bool


def plan(
    rows: Rows, limits: RowLimits, result: torch.dtype, device: torch.device, *,
    logarithm: bool = False, safe: bool = False,
) -> SoftmaxPlan:
    """Prepare the checks of a site.

    Args:
        rows: of x, of the result, and of the numbering of its elements, in this order.
        result: dtype of the result.
        logarithm: log-softmax.
        safe: a row of nothing but -inf gives 0.
    """
    work, tile, n = work_of(result), tile_of(rows), rows.num_cols
    w, chunks = work.u, tile.chunks(rows.num_cols)
    u = limits.u + 2 * w
    term_u = limits.u + w + work.argument_error
    term_phi = limits.phi + limits.term_u + work.exp_error
    depth_u = (limits.depth * limits.u + (sum_depth(tile, n) + 2 * chunks + 4) * U64
               + chunks * LOG_ERROR + n * work.tiny)
    values = (
        term_u, term_u * (1 + 2.0**-9) * (1 + term_phi), term_phi, depth_u, u,
        limits.phi + limits.storage_u + LOG_ERROR + 2 * w,
        limits.storage_u * (1 + limits.storage_u), 2 * (limits.flush + work.tiny),
        limits.result_u, limits.floor + 0.5 * limits.result_eta + 16 * work.eta, limits.largest,
        math.log(max(n, 1)) + 2.0**-10, 1 + 32 * w)
    return SoftmaxPlan(rows, tile, work, coefficients(values, device), logarithm, safe)


def softmax_rows(x: Tensor, result: Tensor, record: Tensor, site: SoftmaxPlan) -> None:
    """Judge ``result``, the softmax of ``x``; the verdict goes to ``record``, int64 [2]."""
    rows, tile = site.rows, site.tile
    _softmax_rows_kernel[(tile.num_programs,)](
        x, result, site.coefficients, record, rows.sizes[1], rows.sizes[2], rows.num_cols,
        tile.blocks, *rows.strides[0], *rows.strides[1], *rows.strides[2],
        LOGARITHM=site.logarithm, SAFE=site.safe, WORK=triton_type(site.work),
        END_COL=tile.end(rows.num_cols), BLOCK_ROWS=tile.block_rows, BLOCK_COLS=tile.block_cols,
        num_warps=NUM_WARPS)


@triton.jit  # type: ignore[untyped-decorator]
def _softmax_rows_kernel(  # type: ignore[no-untyped-def]
    x_ptr, y_ptr, coefficient_ptr, record_ptr, R1, R2, num_cols, blocks,
    x_stride_0, x_stride_1, x_stride_2, x_stride_col,
    y_stride_0, y_stride_1, y_stride_2, y_stride_col,
    i_stride_0, i_stride_1, i_stride_2, i_stride_col,
    LOGARITHM: tl.constexpr, SAFE: tl.constexpr, WORK: tl.constexpr,
    END_COL: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):
    r0, r1, r2 = place_of_rows(blocks, R1, BLOCK_ROWS)
    row_exists = r2 < R2
    x_row = offset_of_rows(r0, r1, r2, x_stride_0, x_stride_1, x_stride_2)
    y_row = offset_of_rows(r0, r1, r2, y_stride_0, y_stride_1, y_stride_2)
    i_row = offset_of_rows(r0, r1, r2, i_stride_0, i_stride_1, i_stride_2)
    lane = tl.arange(0, BLOCK_COLS).to(tl.int64)

    top = tl.full((BLOCK_ROWS,), float("-inf"), dtype=tl.float64)
    total = tl.zeros((BLOCK_ROWS,), dtype=tl.float64)
    num_undefined = tl.zeros((BLOCK_ROWS,), dtype=tl.int32)
    for start in range(0, END_COL, BLOCK_COLS):
        col = start + lane
        exists = row_exists[:, None] & (col < num_cols)[None, :]
        x = widened(tl.load(x_ptr + x_row[:, None] + (col * x_stride_col)[None, :], mask=exists,
                    other=float("-inf"))).to(WORK)
        # A maximum may or may not pass on a NaN, so NaNs are counted and taken out.
        undefined = (x != x) | (x == float("inf"))
        num_undefined += tl.sum(undefined.to(tl.int32), axis=1)
        x = tl.where(undefined, float("-inf"), x)
        new_top = tl.maximum(top, tl.max(x, axis=1).to(tl.float64))
        finite_top = tl.where(new_top == float("-inf"), 0.0, new_top)
        e = tl.exp(x - finite_top.to(WORK)[:, None])
        total = total * tl.exp(top - finite_top) + tl.sum(e.to(tl.float64), axis=1)
        top = new_top

    term_u = tl.load(coefficient_ptr).to(WORK)
    mean_u = tl.load(coefficient_ptr + 1)
    phi = tl.load(coefficient_ptr + 2)
    depth_u = tl.load(coefficient_ptr + 3)
    u = tl.load(coefficient_ptr + 4).to(WORK)
    log_phi = tl.load(coefficient_ptr + 5)
    stored = tl.load(coefficient_ptr + 6)
    flush = tl.load(coefficient_ptr + 7).to(WORK)
    result_u = tl.load(coefficient_ptr + 8).to(WORK)
    floor = tl.load(coefficient_ptr + 9).to(WORK)
    largest = tl.load(coefficient_ptr + 10).to(WORK)
    log_cols = tl.load(coefficient_ptr + 11)
    raised = tl.load(coefficient_ptr + 12).to(WORK)

    empty = top == float("-inf")
    finite_top = tl.where(empty, 0.0, top).to(WORK)[:, None]
    # A row without a softmax gets harmless numbers here and is set apart below.
    total = tl.where(total > 0.0, total, 1.0)
    log_total = tl.log(total)
    r_sum = (mean_u * tl.maximum(log_cols - log_total, 0.0) + phi) * (1.0 + depth_u) + depth_u
    r_sum = tl.minimum(r_sum, 1.0 - 1.0 / 1048576.0)
    relative = (1.0 / (1.0 - r_sum)).to(WORK)[:, None]
    shared = (r_sum / (1.0 - r_sum) + log_phi * tl.abs(log_total) + stored).to(WORK)[:, None]
    r_sum_work = r_sum.to(WORK)[:, None]
    share = (1.0 / total).to(WORK)[:, None]
    log_total_work = log_total.to(WORK)[:, None]
    phi_work = phi.to(WORK)
    is_defined = (num_undefined == 0) & (empty == 0)
    is_zero = (num_undefined == 0) & empty

    for start in range(0, END_COL, BLOCK_COLS):
        col = start + lane
        exists = row_exists[:, None] & (col < num_cols)[None, :]
        x = widened(tl.load(x_ptr + x_row[:, None] + (col * x_stride_col)[None, :], mask=exists,
                    other=0.0)).to(WORK)
        y = widened(tl.load(y_ptr + y_row[:, None] + (col * y_stride_col)[None, :], mask=exists,
                    other=0.0)).to(WORK)
        is_finite = tl.abs(x) < float("inf")
        index = i_row[:, None] + (col * i_stride_col)[None, :]
        d = tl.where(is_finite, x, finite_top) - finite_top
        if LOGARITHM:
            expected = d - log_total_work
            distance = tl.abs(d)
            error = ((u * distance + shared) * (1.0 + 4.0 * u) + u * tl.abs(expected))
            limit = (error + result_u * (tl.abs(expected) + error) + floor) * raised
            judged = exists & is_finite & is_defined[:, None] & (distance < largest)
            judged = judged & (tl.abs(expected) + limit < largest)
            defect = tl.abs(y - expected)
        else:
            # Of -inf the exponential is 0; what is not finite besides makes the row undefined.
            e = tl.where(is_finite, tl.exp(d), 0.0)
            r = term_u * tl.where(e > 0.0, tl.abs(d), 0.0)
            r = r + r * r
            r = r + phi_work * (1.0 + r)
            expected = e * share
            error = expected * ((r + 4.0 * u * (1.0 + r) + r_sum_work) * relative) + flush
            limit = (error + result_u * (expected + error) + floor) * raised
            defect = tl.abs(y - expected)
            # Of a row without a softmax: NaN is right and anything else wrong.
            unlike = tl.where(y == y, float("inf"), 0.0)
            if SAFE:
                unlike = tl.where(is_zero[:, None], tl.abs(y), unlike)
            defect = tl.where(is_defined[:, None], defect, unlike)
            limit = tl.where(is_defined[:, None], limit, 0.0)
            judged = exists
        note(record_ptr, defect, limit, index, judged)
