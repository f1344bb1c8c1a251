"""The negative log-likelihood of chosen classes, and its gradient, of rows or pixels.

    loss_n = -w[t_n] x[n, t_n],  0 for an ignored t_n;   sum over n;   sum over n / sum of w[t_n]

*Without a reduction* each loss is a product, judged by itself: 3 roundings of float64 and one of
the result, none where the weight is 1, and exactly 0 where the target is ignored.

*Sums.*  The first launch leaves, for each split of the rows, float64 sums of ``-w x``, ``|w x|``,
``w`` and ``|w|``; the second adds the splits and judges the loss and the total weight.  Limits,
with h the depth and u, eta of the result's format (``sdc_guard/ops/nll_loss.py``):

    D_loss  = (h + 1) u sum|w x| + N eta        D_total = h u sum|w|
    |mean^ - mean| <= (D_loss + |mean| D_total) / (|total| - D_total), one rounding and eta

nothing being judged where D_total reaches half of the total.  Without weights the total is a
count: one rounding, and none below 1 / u.

*Gradient.*  dx is ``-w g``, over the total for a mean, at a row's target, within ``4 (1 + 4 u)(u
|v| + eta / 2) + |w| eta``, and exactly 0 (of either sign) elsewhere and in ignored rows.

*Own rounding.*  Products and sums are made in float64.  A term errs by 1 rounding; a lane adds its
rows one after the other, the lanes are added in any order, then the splits: h' = SPLIT_ROWS /
BLOCK + BLOCK + splits (N + splits if that is less), and h' + 1 roundings of the sums of absolute
values are added to the limits.  A gradient errs by 3.  Limits are raised by 2^-40 for their own
evaluation.

*Judged* are finite quantities whose sum of absolute terms fits the result's format.  A target
outside the classes reads nothing and is not judged.  Traffic: one element of x and of the weights
and one target for each row, twice for none; the gradient once.  Grid: splits, then one program;
for a gradient a tile of rows and classes.  FMA may stay on: it drops a rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sdc_guard_kernels.rows import NUM_WARPS, U64, Rows, coefficients, widened
from sdc_guard_kernels.verdict import note

BLOCK = 1024
MOST_SPLITS = 256
NUM_SUMS = 4
NONE, MEAN, SUM = 0, 1, 2


class LossPlan(NamedTuple):
    """What a site needs for each launch: see :func:`plan`.  ``rows.num_cols`` is the number of
    classes; the class stride of the target is not used."""

    rows: Rows
    reduction: int
    ignore_index: int
    num_splits: int
    split_rows: int
    coefficients: Tensor


def plan(
    rows: Rows, device: torch.device, *, reduction: int, ignore_index: int, depth: float,
    counted: bool, u: float, eta: float, largest: float,
) -> LossPlan:
    """Prepare the checks of a site, of a loss or of a gradient.

    Args:
        rows: of x or the gradient (class strides are those of the columns), of the target, and of
            grad_output or the unreduced losses with their numbering.
        reduction: 0 none, 1 mean, 2 sum.
        depth: h of the sums.
        counted: there are no weights.
        u, eta, largest: of the result's format.
    """
    n = rows.num_rows
    # Powers of two keep the number of compilations small.
    split_rows = max(BLOCK, triton.next_power_of_2(triton.cdiv(n, MOST_SPLITS)))
    num_splits = triton.cdiv(n, split_rows)
    own = (min(n, split_rows // BLOCK + BLOCK) + num_splits + 1) * U64
    values = (
        (depth + 1) * u + own, n * eta + 2.0**-1074, (0.0 if counted else depth * u + own), u,
        0.5 * eta, eta, largest, 4 * (1 + 4 * u), 1 + 2.0**-40, 4 * U64,
        2.0**-1074)
    return LossPlan(rows, reduction, ignore_index, num_splits, split_rows,
                    coefficients(values, device))


def loss_rows(
    x: Tensor, target: Tensor, weight: Tensor | None, loss: Tensor, record: Tensor, site: LossPlan
) -> None:
    """Judge unreduced losses; ``site.rows`` are of x, target, loss and its numbering."""
    rows = site.rows
    s = rows.strides
    _loss_rows_kernel[(triton.cdiv(rows.num_rows, BLOCK),)](
        x, target, x if weight is None else weight, loss, site.coefficients, record,
        rows.sizes[1], rows.sizes[2], rows.num_rows, rows.num_cols, site.ignore_index,
        *s[0], *s[1][:3], *s[2][:3], *s[3][:3], 0 if weight is None else weight.stride(0),
        HAS_WEIGHT=weight is not None, BLOCK=BLOCK)


def loss_sums(
    x: Tensor, target: Tensor, weight: Tensor | None, loss: Tensor, total_weight: Tensor,
    records: tuple[Tensor, Tensor], site: LossPlan,
) -> None:
    """Judge a reduced loss and the total weight; ``site.rows`` are of x and target."""
    rows = site.rows
    s = rows.strides
    # A sum that no program writes must not pass as one.
    sums = torch.full((NUM_SUMS, site.num_splits), torch.nan, dtype=torch.float64, device=x.device)
    _loss_sums_kernel[(site.num_splits,)](
        x, target, x if weight is None else weight, sums, rows.sizes[1], rows.sizes[2],
        rows.num_rows, rows.num_cols, site.ignore_index, site.num_splits,
        *s[0], *s[1][:3], 0 if weight is None else weight.stride(0),
        HAS_WEIGHT=weight is not None, SPLIT_ROWS=site.split_rows, BLOCK=BLOCK)
    _judge_sums_kernel[(1,)](
        sums, loss, total_weight, site.coefficients, *records, site.num_splits,
        IS_MEAN=site.reduction == MEAN, COUNTED=weight is None,
        BLOCK=triton.next_power_of_2(site.num_splits))


def loss_gradient_rows(
    grad: Tensor, target: Tensor, weight: Tensor | None, total_weight: Tensor, result: Tensor,
    record: Tensor, site: LossPlan,
) -> None:
    """Judge every element of a gradient; ``site.rows`` are of the result, its numbering, target and
    grad_output (strides 0 where it is one number)."""
    rows = site.rows
    s = rows.strides
    block_cols = min(BLOCK, triton.next_power_of_2(rows.num_cols))
    block_rows = min(4 * BLOCK // block_cols, triton.next_power_of_2(rows.num_rows))
    _loss_gradient_kernel[(triton.cdiv(rows.num_rows, block_rows),)](
        grad, target, grad if weight is None else weight, total_weight, result, site.coefficients,
        record, rows.sizes[1], rows.sizes[2], rows.num_rows, rows.num_cols, site.ignore_index,
        *s[0], *s[1], *s[2][:3], *s[3][:3], 0 if weight is None else weight.stride(0),
        HAS_WEIGHT=weight is not None, IS_MEAN=site.reduction == MEAN,
        END_COL=triton.cdiv(rows.num_cols, block_cols) * block_cols,
        BLOCK_ROWS=block_rows, BLOCK_COLS=block_cols, num_warps=NUM_WARPS)


@triton.jit  # type: ignore[untyped-decorator]
def _chosen(  # type: ignore[no-untyped-def]
    target_ptr, weight_ptr, exists, at_target, num_classes, ignore_index, weight_stride,
    HAS_WEIGHT: tl.constexpr,
):
    """Class of each row, its weight in float64, and whether the row counts."""
    chosen = tl.load(target_ptr + at_target, mask=exists, other=0).to(tl.int64)
    kept = exists & (chosen != ignore_index)
    inside = kept & (chosen >= 0) & (chosen < num_classes)
    chosen = tl.where(inside, chosen, 0)
    if HAS_WEIGHT:
        weight = tl.load(weight_ptr + chosen * weight_stride, mask=inside, other=0.0)
        weight = widened(weight).to(tl.float64)
    else:
        weight = inside.to(tl.float64)
    return chosen, weight, inside, kept


@triton.jit  # type: ignore[untyped-decorator]
def _loss_rows_kernel(  # type: ignore[no-untyped-def]
    x_ptr, target_ptr, weight_ptr, loss_ptr, coefficient_ptr, record_ptr, R1, R2, num_rows,
    num_classes, ignore_index, x_stride_0, x_stride_1, x_stride_2, x_stride_class,
    target_stride_0, target_stride_1, target_stride_2, loss_stride_0, loss_stride_1, loss_stride_2,
    i_stride_0, i_stride_1, i_stride_2, weight_stride,
    HAS_WEIGHT: tl.constexpr, BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK).to(tl.int64)
    exists = row < num_rows
    r2 = row % R2
    r1 = (row // R2) % R1
    r0 = row // R2 // R1
    at_target = r0 * target_stride_0 + r1 * target_stride_1 + r2 * target_stride_2
    chosen, weight, inside, kept = _chosen(
        target_ptr, weight_ptr, exists, at_target, num_classes, ignore_index, weight_stride,
        HAS_WEIGHT)
    at = r0 * x_stride_0 + r1 * x_stride_1 + r2 * x_stride_2 + chosen * x_stride_class
    x = widened(tl.load(x_ptr + at, mask=inside, other=0.0)).to(tl.float64)
    at_loss = r0 * loss_stride_0 + r1 * loss_stride_1 + r2 * loss_stride_2
    loss = widened(tl.load(loss_ptr + at_loss, mask=exists, other=0.0)).to(tl.float64)
    expected = -x * weight
    size = tl.abs(expected)
    u = tl.load(coefficient_ptr + 3)
    half_eta = tl.load(coefficient_ptr + 4)
    largest = tl.load(coefficient_ptr + 6)
    raised = tl.load(coefficient_ptr + 8)
    own = tl.load(coefficient_ptr + 9)
    limit = (size * (u + own) + half_eta) * raised
    limit = tl.where(inside & (weight != 1.0), limit, 0.0)
    judged = exists & (inside == kept) & (size + limit < largest)
    index = r0 * i_stride_0 + r1 * i_stride_1 + r2 * i_stride_2
    note(record_ptr, tl.abs(loss - expected), limit, index, judged)


@triton.jit  # type: ignore[untyped-decorator]
def _loss_sums_kernel(  # type: ignore[no-untyped-def]
    x_ptr, target_ptr, weight_ptr, sums_ptr, R1, R2, num_rows, num_classes, ignore_index,
    num_splits, x_stride_0, x_stride_1, x_stride_2, x_stride_class,
    target_stride_0, target_stride_1, target_stride_2, weight_stride,
    HAS_WEIGHT: tl.constexpr, SPLIT_ROWS: tl.constexpr, BLOCK: tl.constexpr,
):
    split = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK).to(tl.int64)
    loss_sum = tl.zeros((BLOCK,), dtype=tl.float64)
    abs_sum = tl.zeros((BLOCK,), dtype=tl.float64)
    weight_sum = tl.zeros((BLOCK,), dtype=tl.float64)
    abs_weight_sum = tl.zeros((BLOCK,), dtype=tl.float64)
    for start in range(0, SPLIT_ROWS, BLOCK):
        row = split * SPLIT_ROWS + start + lane
        exists = row < num_rows
        r2 = row % R2
        r1 = (row // R2) % R1
        r0 = row // R2 // R1
        at_target = r0 * target_stride_0 + r1 * target_stride_1 + r2 * target_stride_2
        chosen, weight, inside, kept = _chosen(
            target_ptr, weight_ptr, exists, at_target, num_classes, ignore_index, weight_stride,
            HAS_WEIGHT)
        at = r0 * x_stride_0 + r1 * x_stride_1 + r2 * x_stride_2 + chosen * x_stride_class
        x = widened(tl.load(x_ptr + at, mask=inside, other=0.0)).to(tl.float64)
        # A target outside the classes leaves nothing to judge.
        x = tl.where(inside == kept, x, float("nan"))
        term = -x * weight
        term = tl.where(inside == kept, term, float("nan"))
        loss_sum += term
        abs_sum += tl.abs(term)
        weight_sum += weight
        abs_weight_sum += tl.abs(weight)
    tl.store(sums_ptr + split, tl.sum(loss_sum, axis=0))
    tl.store(sums_ptr + num_splits + split, tl.sum(abs_sum, axis=0))
    tl.store(sums_ptr + 2 * num_splits + split, tl.sum(weight_sum, axis=0))
    tl.store(sums_ptr + 3 * num_splits + split, tl.sum(abs_weight_sum, axis=0))


@triton.jit  # type: ignore[untyped-decorator]
def _judge_sums_kernel(  # type: ignore[no-untyped-def]
    sums_ptr, loss_ptr, total_ptr, coefficient_ptr, loss_record_ptr, total_record_ptr, num_splits,
    IS_MEAN: tl.constexpr, COUNTED: tl.constexpr, BLOCK: tl.constexpr,
):
    split = tl.arange(0, BLOCK).to(tl.int64)
    exists = split < num_splits
    # One number each, as a block of one: a record takes blocks.
    one = tl.zeros((1,), dtype=tl.float64)
    at = sums_ptr + split
    sum_x = one + tl.sum(tl.load(at, mask=exists, other=0.0), axis=0)
    abs_x = one + tl.sum(tl.load(at + num_splits, mask=exists, other=0.0), axis=0)
    sum_w = one + tl.sum(tl.load(at + 2 * num_splits, mask=exists, other=0.0), axis=0)
    abs_w = one + tl.sum(tl.load(at + 3 * num_splits, mask=exists, other=0.0), axis=0)
    loss = one + widened(tl.load(loss_ptr)).to(tl.float64)
    total = one + widened(tl.load(total_ptr)).to(tl.float64)
    loss_u = tl.load(coefficient_ptr)
    loss_eta = tl.load(coefficient_ptr + 1)
    total_u = tl.load(coefficient_ptr + 2)
    u = tl.load(coefficient_ptr + 3)
    half_eta = tl.load(coefficient_ptr + 4)
    eta = tl.load(coefficient_ptr + 5)
    largest = tl.load(coefficient_ptr + 6)
    raised = tl.load(coefficient_ptr + 8)
    own = tl.load(coefficient_ptr + 9)
    size_w = tl.abs(sum_w)
    if COUNTED:
        total_error = tl.where(size_w > 1.0 / u, u * size_w + half_eta, 0.0)
    else:
        total_error = total_u * abs_w + tl.load(coefficient_ptr + 10)
    error = loss_u * abs_x + loss_eta
    expected = sum_x
    reach = abs_x
    judged = sum_x == sum_x
    if IS_MEAN:
        judged = judged & (total_error < 0.5 * size_w)
        divisor = tl.where(judged, size_w, 1.0)
        expected = sum_x / tl.where(judged, sum_w, 1.0)
        mean = tl.abs(expected)
        error = (error + mean * total_error) / tl.where(judged, divisor - total_error, 1.0)
        error = error + (mean + error) * (u + own) + eta
        reach = tl.maximum(abs_x, abs_w)
    limit = error * raised
    judged = judged & (reach < largest) & (tl.abs(expected) + limit < largest)
    place = tl.zeros((1,), dtype=tl.int64)
    note(loss_record_ptr, tl.abs(loss - expected), limit, place, judged)
    limit = total_error * raised
    note(total_record_ptr, tl.abs(total - sum_w), limit, place, abs_w + limit < largest)


@triton.jit  # type: ignore[untyped-decorator]
def _loss_gradient_kernel(  # type: ignore[no-untyped-def]
    grad_ptr, target_ptr, weight_ptr, total_ptr, dx_ptr, coefficient_ptr, record_ptr, R1, R2,
    num_rows, num_classes, ignore_index, dx_stride_0, dx_stride_1, dx_stride_2, dx_stride_class,
    i_stride_0, i_stride_1, i_stride_2, i_stride_class,
    target_stride_0, target_stride_1, target_stride_2, grad_stride_0, grad_stride_1, grad_stride_2,
    weight_stride, HAS_WEIGHT: tl.constexpr, IS_MEAN: tl.constexpr, END_COL: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS).to(tl.int64)
    row_exists = row < num_rows
    r2 = row % R2
    r1 = (row // R2) % R1
    r0 = row // R2 // R1
    lane = tl.arange(0, BLOCK_COLS).to(tl.int64)
    at_target = r0 * target_stride_0 + r1 * target_stride_1 + r2 * target_stride_2
    chosen, weight, inside, kept = _chosen(
        target_ptr, weight_ptr, row_exists, at_target, num_classes, ignore_index, weight_stride,
        HAS_WEIGHT)
    at_grad = r0 * grad_stride_0 + r1 * grad_stride_1 + r2 * grad_stride_2
    grad = widened(tl.load(grad_ptr + at_grad, mask=inside, other=0.0)).to(tl.float64)
    value = -weight * grad
    if IS_MEAN:
        total = widened(tl.load(total_ptr)).to(tl.float64)
        value = value / tl.where(total == 0.0, float("nan"), total)
    u = tl.load(coefficient_ptr + 3)
    half_eta = tl.load(coefficient_ptr + 4)
    eta = tl.load(coefficient_ptr + 5)
    largest = tl.load(coefficient_ptr + 6)
    four = tl.load(coefficient_ptr + 7)
    raised = tl.load(coefficient_ptr + 8)
    own = tl.load(coefficient_ptr + 9)
    size = tl.abs(value)
    value_limit = (four * (size * u + half_eta) + own * size + tl.abs(weight) * eta) * raised
    is_judged = row_exists & (inside == kept)
    value_judged = size + value_limit < largest
    dx_row = r0 * dx_stride_0 + r1 * dx_stride_1 + r2 * dx_stride_2
    i_row = r0 * i_stride_0 + r1 * i_stride_1 + r2 * i_stride_2
    for start in range(0, END_COL, BLOCK_COLS):
        col = start + lane
        exists = is_judged[:, None] & (col < num_classes)[None, :]
        at = dx_row[:, None] + (col * dx_stride_class)[None, :]
        dx = widened(tl.load(dx_ptr + at, mask=exists, other=0.0)).to(tl.float64)
        hit = inside[:, None] & (chosen[:, None] == col[None, :])
        expected = tl.where(hit, value[:, None], 0.0)
        limit = tl.where(hit, value_limit[:, None], 0.0)
        judged = exists & ((hit == 0) | value_judged[:, None])
        index = i_row[:, None] + (col * i_stride_class)[None, :]
        note(record_ptr, tl.abs(dx - expected), limit, index, judged)
