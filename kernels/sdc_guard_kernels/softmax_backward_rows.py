"""Every element of the gradient of softmax or log-softmax against its rows.

    dx_i = y_i (g_i - T),  T = sum g y                  (softmax, y its result)
    dx_i = g_i - exp(y_i) G,  G = sum g                 (log-softmax)

One pass over a row finds T and ``sum|g y|``, or G and ``sum|g|``; a second reads it again and
judges each element.  Limits, with the coefficients of ``sdc_guard/bounds/softmax.py``:

    |y| ((h + 1) u sum|g y| + v |T| + 3 u (|g| + |T|)) (1 + 4 u + v)
    (e^y (h u sum|g| + (v + phi + 3 u)|G|) + 2 u (|g| + e^y |G|)) (1 + 4 u + v) + flush sum|g|

the last where e^y is below two smallest normals, and the result's own rounding.

*Own rounding.*  The sums are made in float64, from products in float64: at most one rounding for a
product, those of a chunk in any order and two for each chunk, added to h u.  Elements are made in
the working format (``rows.py``) of roundoff w: u gets 2 w, which counts 6 roundings where we make
at most 5 (T or G to the working format, the difference, the product, and the operands of a float64
call are exact).  phi gets the error of our exp and ``|y|`` times that of its argument.  What is
computed below the normal range costs eta a few times, and exp may flush.  The limit is raised by
32 w for its own evaluation, in which the sums of absolute values err by no more.

*Judged* are elements of finite limit with ``sum|g y| + |g|``, or ``(1 + e^y) sum|g|``, in the
range of the result.  Traffic: g and y twice, dx once.  Grid: one program for a tile of rows, see
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
from sdc_guard_kernels.softmax_rows import RowLimits
from sdc_guard_kernels.verdict import note


class GradientPlan(NamedTuple):
    """What a site needs for each launch: see :func:`plan`."""

    rows: Rows
    tile: Tile
    work: Work
    coefficients: Tensor
    logarithm: bool


def plan(
    rows: Rows, limits: RowLimits, result: torch.dtype, device: torch.device, *,
    logarithm: bool = False,
) -> GradientPlan:
    """Prepare the checks of a site.

    Args:
        rows: of g, y, the result, and of the numbering of its elements, in this order.
        limits: of the bound; ``flush`` as in :mod:`softmax_rows`, ``term_u`` is not used.
        result: dtype of the result.
    """
    work, tile = work_of(result), tile_of(rows)
    u = limits.u + 2 * work.u
    depth_u = limits.depth * limits.u + (sum_depth(tile, rows.num_cols) + 2) * U64
    if not logarithm:
        depth_u += limits.u
    values = (
        depth_u, u, limits.storage_u, limits.phi + work.exp_error, work.argument_error,
        limits.flush + work.tiny, 4 * work.tiny, limits.result_u,
        limits.floor + 0.5 * limits.result_eta + 16 * work.eta, limits.largest, 1 + 32 * work.u)
    return GradientPlan(rows, tile, work, coefficients(values, device), logarithm)


def softmax_backward_rows(
    grad: Tensor, output: Tensor, result: Tensor, record: Tensor, site: GradientPlan
) -> None:
    """Judge ``result``, the gradient for ``grad`` and the softmax ``output``."""
    rows, tile = site.rows, site.tile
    _softmax_backward_rows_kernel[(tile.num_programs,)](
        grad, output, result, site.coefficients, record, rows.sizes[1], rows.sizes[2],
        rows.num_cols, tile.blocks, *rows.strides[0], *rows.strides[1], *rows.strides[2],
        *rows.strides[3], LOGARITHM=site.logarithm, WORK=triton_type(site.work),
        END_COL=tile.end(rows.num_cols), BLOCK_ROWS=tile.block_rows, BLOCK_COLS=tile.block_cols,
        num_warps=NUM_WARPS)


@triton.jit  # type: ignore[untyped-decorator]
def _softmax_backward_rows_kernel(  # type: ignore[no-untyped-def]
    g_ptr, y_ptr, dx_ptr, coefficient_ptr, record_ptr, R1, R2, num_cols, blocks,
    g_stride_0, g_stride_1, g_stride_2, g_stride_col,
    y_stride_0, y_stride_1, y_stride_2, y_stride_col,
    dx_stride_0, dx_stride_1, dx_stride_2, dx_stride_col,
    i_stride_0, i_stride_1, i_stride_2, i_stride_col,
    LOGARITHM: tl.constexpr, WORK: tl.constexpr,
    END_COL: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):
    r0, r1, r2 = place_of_rows(blocks, R1, BLOCK_ROWS)
    row_exists = r2 < R2
    g_row = offset_of_rows(r0, r1, r2, g_stride_0, g_stride_1, g_stride_2)
    y_row = offset_of_rows(r0, r1, r2, y_stride_0, y_stride_1, y_stride_2)
    dx_row = offset_of_rows(r0, r1, r2, dx_stride_0, dx_stride_1, dx_stride_2)
    i_row = offset_of_rows(r0, r1, r2, i_stride_0, i_stride_1, i_stride_2)
    lane = tl.arange(0, BLOCK_COLS).to(tl.int64)

    total = tl.zeros((BLOCK_ROWS,), dtype=tl.float64)
    abs_total = tl.zeros((BLOCK_ROWS,), dtype=tl.float64)
    for start in range(0, END_COL, BLOCK_COLS):
        col = start + lane
        exists = row_exists[:, None] & (col < num_cols)[None, :]
        term = widened(tl.load(g_ptr + g_row[:, None] + (col * g_stride_col)[None, :], mask=exists,
                       other=0.0)).to(tl.float64)
        if LOGARITHM == 0:
            y = tl.load(y_ptr + y_row[:, None] + (col * y_stride_col)[None, :], mask=exists,
                        other=0.0)
            term = term * widened(y).to(tl.float64)
        total += tl.sum(term, axis=1)
        abs_total += tl.sum(tl.abs(term), axis=1)

    depth_u = tl.load(coefficient_ptr)
    u = tl.load(coefficient_ptr + 1).to(WORK)
    storage_u = tl.load(coefficient_ptr + 2).to(WORK)
    phi = tl.load(coefficient_ptr + 3).to(WORK)
    argument_u = tl.load(coefficient_ptr + 4).to(WORK)
    flush = tl.load(coefficient_ptr + 5).to(WORK)
    smallest = tl.load(coefficient_ptr + 6).to(WORK)
    result_u = tl.load(coefficient_ptr + 7).to(WORK)
    floor = tl.load(coefficient_ptr + 8).to(WORK)
    largest = tl.load(coefficient_ptr + 9).to(WORK)
    raised = tl.load(coefficient_ptr + 10).to(WORK)
    sum_error = (depth_u * abs_total).to(WORK)[:, None]
    total_work = total.to(WORK)[:, None]
    abs_total_work = abs_total.to(WORK)[:, None]
    abs_of_total = tl.abs(total_work)
    more = 1.0 + 4.0 * u + storage_u

    for start in range(0, END_COL, BLOCK_COLS):
        col = start + lane
        exists = row_exists[:, None] & (col < num_cols)[None, :]
        g = widened(tl.load(g_ptr + g_row[:, None] + (col * g_stride_col)[None, :], mask=exists,
                    other=0.0)).to(WORK)
        y = widened(tl.load(y_ptr + y_row[:, None] + (col * y_stride_col)[None, :], mask=exists,
                    other=0.0)).to(WORK)
        dx = widened(tl.load(dx_ptr + dx_row[:, None] + (col * dx_stride_col)[None, :], mask=exists,
                     other=0.0)).to(WORK)
        abs_g = tl.abs(g)
        if LOGARITHM:
            p = tl.exp(y)
            own_phi = phi + argument_u * tl.where(p > 0.0, tl.abs(y), 0.0)
            expected = g - p * total_work
            error = p * (sum_error + (storage_u + own_phi + 3.0 * u) * abs_of_total)
            error = (error + 2.0 * u * (abs_g + p * abs_of_total)) * more
            error = error + tl.where(p < smallest, flush, 0.0) * abs_total_work
            size = (1.0 + p) * abs_total_work
        else:
            expected = y * (g - total_work)
            error = tl.abs(y) * (sum_error + storage_u * abs_of_total
                                 + 3.0 * u * (abs_g + abs_of_total)) * more
            size = abs_total_work + abs_g
        limit = (error + result_u * (tl.abs(expected) + error) + floor) * raised
        judged = exists & (size < largest) & (tl.abs(expected) + limit < largest)
        index = i_row[:, None] + (col * i_stride_col)[None, :]
        note(record_ptr, tl.abs(dx - expected), limit, index, judged)
