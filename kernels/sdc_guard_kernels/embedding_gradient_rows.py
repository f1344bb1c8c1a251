"""The gradient of an embedding table against the gradient rows that are added up in it.

    result[v, d] = sum over i with index[i] = v of gradient[i, d],    v != padding

n_v is the number of terms of row v.  Four launches: one counts n_v; one adds the columns of the
result and of the gradient, split by split, and wants rows of n_v = 0 to be zero; one adds the
splits and judges each column; and one recomputes some rows, those of indices drawn by position
(``sampling.py``): none is without terms, and rows of many terms are drawn most often.

*Limit of an element*, with u of the accumulator and w, eta of the result's format where storing
rounds, else 0 (``sdc_guard/ops/embedding.py``): exact for n_v < 2, else

    l = (n_v - 1) u sum|g|  (u |result| for n_v = 2)  +  w (|result| + that) + eta / 2.

*Limit of a column* is the sum of l over its rows, in which sum|g| stands for |result|:

    sum over i, n = n_index[i] >= 2, of ((n - 1) u (1 + w) + w) |g_i| + eta / 2.

A wrong element cannot raise it, because nothing of the result enters.

*Own rounding.*  Terms are added in float64: a lane adds the rows of its place in the tile one after
the other, the lanes are added in any order, then the splits: h roundings of sum|g| for the
gradient's sum, and of sum|g| + limit for the result's, are added to the limit of a column, n_v
roundings of sum|g| to that of an element.  Limits are raised by 2^-20.

*Judged* are columns and elements whose sum|g| is below the largest number of the result's format;
unused rows always.  Counts are integers, added atomically: any order gives the same ones.  What is
added in float64 is so in an order that depends on shapes alone.  FMA may stay on: nothing is
multiplied on the way to a sum.

Traffic: the gradient and the result once, the indices once for each sampled row and block of
columns, 4 bytes for each row of the table, 32 for each column and split.  Grids: indices / COUNTED;
(columns / BLOCK_COLS, splits); columns / BLOCK_COLS; (samples, columns / BLOCK_COLS).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sdc_guard_kernels.rows import U64, Rows, coefficients, widened
from sdc_guard_kernels.sampling import SEED_BIT, stratum
from sdc_guard_kernels.verdict import note

BLOCK_ROWS = 32
BLOCK_COLS = 64
COUNTED = 1024
SCAN = 256
SCAN_ROWS = 64
MOST_SPLITS = 64
NUM_SAMPLES = 4
NUM_SUMS = 4


class TablePlan(NamedTuple):
    """What a site needs for each launch: see :func:`plan`."""

    rows: Rows
    num_weights: int
    padding: int
    num_splits: int
    split_terms: int
    split_results: int
    coefficients: Tensor


def plan(
    rows: Rows, num_weights: int, padding: int, device: torch.device, *, u: float, result_u: float,
    result_eta: float, result_max: float,
) -> TablePlan:
    """Prepare the checks of a site.

    Args:
        rows: of the gradient and, with stride 0 along the columns, of the indices.
        num_weights: rows of the table.
        padding: the index whose gradient is left out; none where negative.
        u: of the accumulator.
        result_u, result_eta: of the result where it is narrower than the accumulator, else 0.
    """
    # Powers of two keep the number of compilations small.
    terms, results = (
        max(4 * BLOCK_ROWS, triton.next_power_of_2(triton.cdiv(num, MOST_SPLITS)))
        for num in (rows.num_rows, num_weights))
    num_splits = max(triton.cdiv(rows.num_rows, terms), triton.cdiv(num_weights, results))
    lanes = max(terms, results) // BLOCK_ROWS + BLOCK_ROWS
    values = (u, result_u, 0.5 * result_eta, (lanes + num_splits) * U64, result_max, 1 + 2.0**-20,
              U64)
    return TablePlan(rows, num_weights, padding, num_splits, terms, results,
                     coefficients(values, device))


def embedding_gradient_rows(
    gradient: Tensor, index: Tensor, result: Tensor, records: tuple[Tensor, Tensor, Tensor],
    site: TablePlan, seed: int,
) -> None:
    """Judge ``result`` [V, D]: columns, unused rows (index: the element) and drawn rows (index: the
    element; a row may be drawn more than once), each to its record, int64 [2]."""
    column_record, unused_record, sample_record = records
    rows = site.rows
    num_terms, num_cols = rows.num_rows, rows.num_cols
    columns = triton.cdiv(num_cols, BLOCK_COLS)
    counts = torch.zeros(site.num_weights, dtype=torch.int32, device=result.device)
    # A sum that no program writes must not pass as one.
    sums = torch.full((NUM_SUMS, site.num_splits, num_cols), torch.nan, dtype=torch.float64,
                      device=result.device)
    place = (rows.sizes[1], rows.sizes[2], num_terms, *rows.strides[1][:3])
    _count_kernel[(triton.cdiv(num_terms, COUNTED),)](
        index, counts, *place, site.num_weights, site.padding, BLOCK=COUNTED)
    _column_sums_kernel[(columns, site.num_splits)](
        gradient, index, result, counts, sums, site.coefficients, unused_record, *place,
        *rows.strides[0], *result.stride(), num_cols, site.num_weights, site.padding,
        site.num_splits * num_cols, SPLIT_TERMS=site.split_terms, SPLIT_RESULTS=site.split_results,
        BLOCK_ROWS=BLOCK_ROWS, BLOCK_COLS=BLOCK_COLS)
    _judge_columns_kernel[(columns,)](
        sums, site.coefficients, column_record, num_cols, site.num_splits * num_cols,
        NUM_SPLITS=site.num_splits, BLOCK_COLS=BLOCK_COLS)
    num_samples = min(NUM_SAMPLES, num_terms)
    _drawn_rows_kernel[(num_samples, columns)](
        gradient, index, result, site.coefficients, sample_record, *place, *rows.strides[0],
        *result.stride(), num_cols, site.num_weights, site.padding, seed | SEED_BIT, num_samples,
        SCAN=SCAN, SCAN_ROWS=SCAN_ROWS, BLOCK_COLS=BLOCK_COLS)


@triton.jit
def _terms(index_ptr, i, R1, R2, s0, s1, s2, num_terms, num_weights, padding):  # type: ignore[no-untyped-def]
    """Indices at positions i, and whether there is a term that counts."""
    at = (i // R2 // R1) * s0 + ((i // R2) % R1) * s1 + (i % R2) * s2
    index = tl.load(index_ptr + at, mask=i < num_terms, other=-1).to(tl.int64)
    counts = (i < num_terms) & (index >= 0) & (index < num_weights) & (index != padding)
    return index, counts


@triton.jit  # type: ignore[untyped-decorator]
def _count_kernel(  # type: ignore[no-untyped-def]
    index_ptr, counts_ptr, R1, R2, num_terms, i_stride_0, i_stride_1, i_stride_2, num_weights,
    padding, BLOCK: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK).to(tl.int64)
    index, counts = _terms(
        index_ptr, i, R1, R2, i_stride_0, i_stride_1, i_stride_2, num_terms, num_weights, padding)
    tl.atomic_add(counts_ptr + index, 1, mask=counts, sem="relaxed")


@triton.jit  # type: ignore[untyped-decorator]
def _column_sums_kernel(  # type: ignore[no-untyped-def]
    gradient_ptr, index_ptr, result_ptr, counts_ptr, sums_ptr, coefficient_ptr, unused_record_ptr,
    R1, R2, num_terms, i_stride_0, i_stride_1, i_stride_2,
    g_stride_0, g_stride_1, g_stride_2, g_stride_col, result_stride_row, result_stride_col,
    num_cols, num_weights, padding, step,
    SPLIT_TERMS: tl.constexpr, SPLIT_RESULTS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    col = tl.program_id(0).to(tl.int64) * BLOCK_COLS + tl.arange(0, BLOCK_COLS).to(tl.int64)
    split = tl.program_id(1).to(tl.int64)
    col_exists = col < num_cols
    lane = tl.arange(0, BLOCK_ROWS).to(tl.int64)
    u = tl.load(coefficient_ptr)
    result_u = tl.load(coefficient_ptr + 1)
    half_eta = tl.load(coefficient_ptr + 2)

    gradient_sum = tl.zeros((BLOCK_ROWS, BLOCK_COLS), dtype=tl.float64)
    abs_sum = tl.zeros((BLOCK_ROWS, BLOCK_COLS), dtype=tl.float64)
    limit_sum = tl.zeros((BLOCK_ROWS, BLOCK_COLS), dtype=tl.float64)
    for start in range(0, SPLIT_TERMS, BLOCK_ROWS):
        i = split * SPLIT_TERMS + start + lane
        index, counts = _terms(index_ptr, i, R1, R2, i_stride_0, i_stride_1, i_stride_2, num_terms,
                               num_weights, padding)
        num = tl.load(counts_ptr + index, mask=counts, other=0).to(tl.float64)
        row = (i // R2 // R1) * g_stride_0 + ((i // R2) % R1) * g_stride_1 + (i % R2) * g_stride_2
        g = widened(tl.load(gradient_ptr + row[:, None] + (col * g_stride_col)[None, :],
                            mask=(num[:, None] > 0.0) & col_exists[None, :], other=0.0))
        g = g.to(tl.float64)
        rounds = tl.where(num > 1.0, 1.0, 0.0)
        weight = rounds * ((num - 1.0) * u * (1.0 + result_u) + result_u)
        gradient_sum += g
        abs_sum += tl.abs(g)
        limit_sum += weight[:, None] * tl.abs(g) + (rounds * half_eta)[:, None]

    result_sum = tl.zeros((BLOCK_ROWS, BLOCK_COLS), dtype=tl.float64)
    for start in range(0, SPLIT_RESULTS, BLOCK_ROWS):
        row = split * SPLIT_RESULTS + start + lane
        row_exists = row < num_weights
        exists = row_exists[:, None] & col_exists[None, :]
        held = tl.load(result_ptr + (row * result_stride_row)[:, None]
                       + (col * result_stride_col)[None, :], mask=exists, other=0.0)
        held = widened(held).to(tl.float64)
        result_sum += held
        num = tl.load(counts_ptr + row, mask=row_exists, other=1).to(tl.float64)
        unused = exists & (num[:, None] == 0.0)
        note(unused_record_ptr, tl.abs(held), tl.zeros_like(held),
             row[:, None] * num_cols + col[None, :], unused)

    out = sums_ptr + split * num_cols + col
    tl.store(out, tl.sum(gradient_sum, axis=0), mask=col_exists)
    tl.store(out + step, tl.sum(abs_sum, axis=0), mask=col_exists)
    tl.store(out + 2 * step, tl.sum(limit_sum, axis=0), mask=col_exists)
    tl.store(out + 3 * step, tl.sum(result_sum, axis=0), mask=col_exists)


@triton.jit  # type: ignore[untyped-decorator]
def _judge_columns_kernel(  # type: ignore[no-untyped-def]
    sums_ptr, coefficient_ptr, record_ptr, num_cols, step, NUM_SPLITS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    col = tl.program_id(0).to(tl.int64) * BLOCK_COLS + tl.arange(0, BLOCK_COLS).to(tl.int64)
    exists = col < num_cols
    gradient_sum = tl.zeros((BLOCK_COLS,), dtype=tl.float64)
    abs_sum = tl.zeros((BLOCK_COLS,), dtype=tl.float64)
    limit_sum = tl.zeros((BLOCK_COLS,), dtype=tl.float64)
    result_sum = tl.zeros((BLOCK_COLS,), dtype=tl.float64)
    at = sums_ptr + col
    for _ in range(NUM_SPLITS):
        gradient_sum += tl.load(at, mask=exists, other=0.0)
        abs_sum += tl.load(at + step, mask=exists, other=0.0)
        limit_sum += tl.load(at + 2 * step, mask=exists, other=0.0)
        result_sum += tl.load(at + 3 * step, mask=exists, other=0.0)
        at += num_cols
    own = tl.load(coefficient_ptr + 3)
    raised = tl.load(coefficient_ptr + 5)
    limit = (limit_sum + own * (2.0 * abs_sum + limit_sum)) * raised
    judged = exists & (abs_sum + limit < tl.load(coefficient_ptr + 4))
    note(record_ptr, tl.abs(result_sum - gradient_sum), limit, col, judged)


@triton.jit  # type: ignore[untyped-decorator]
def _drawn_rows_kernel(  # type: ignore[no-untyped-def]
    gradient_ptr, index_ptr, result_ptr, coefficient_ptr, record_ptr,
    R1, R2, num_terms, i_stride_0, i_stride_1, i_stride_2,
    g_stride_0, g_stride_1, g_stride_2, g_stride_col, result_stride_row, result_stride_col,
    num_cols, num_weights, padding, seed, num_samples,
    SCAN: tl.constexpr, SCAN_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):
    counter = tl.program_id(0).to(tl.int64)
    col = tl.program_id(1).to(tl.int64) * BLOCK_COLS + tl.arange(0, BLOCK_COLS).to(tl.int64)
    col_exists = col < num_cols
    position, _ = stratum(seed, counter, num_samples, num_terms)
    # One for each column: the interpreter has no masks of a single bit.
    each, is_term = _terms(index_ptr, position + col * 0, R1, R2, i_stride_0, i_stride_1,
                           i_stride_2, num_terms, num_weights, padding)
    drawn = tl.max(each, axis=0)

    total = tl.zeros((BLOCK_COLS,), dtype=tl.float64)
    abs_total = tl.zeros((BLOCK_COLS,), dtype=tl.float64)
    num = counter * 0
    start = counter * 0
    while start < num_terms:
        scanned = start + tl.arange(0, SCAN).to(tl.int64)
        index, counts = _terms(index_ptr, scanned, R1, R2, i_stride_0, i_stride_1, i_stride_2,
                               num_terms, num_weights, padding)
        here = tl.sum((counts & (index == drawn)).to(tl.int64), axis=0)
        num += here
        # Most blocks have no term of this row: their gradient is not read.
        if here > 0:
            for inner in range(0, SCAN, SCAN_ROWS):
                i = start + inner + tl.arange(0, SCAN_ROWS).to(tl.int64)
                near, near_counts = _terms(index_ptr, i, R1, R2, i_stride_0, i_stride_1,
                                           i_stride_2, num_terms, num_weights, padding)
                chosen = near_counts & (near == drawn)
                if tl.sum(chosen.to(tl.int32), axis=0) > 0:
                    row = (i // R2 // R1) * g_stride_0 + ((i // R2) % R1) * g_stride_1
                    row += (i % R2) * g_stride_2
                    g = tl.load(gradient_ptr + row[:, None] + (col * g_stride_col)[None, :],
                                mask=chosen[:, None] & col_exists[None, :], other=0.0)
                    g = widened(g).to(tl.float64)
                    total += tl.sum(g, axis=0)
                    abs_total += tl.sum(tl.abs(g), axis=0)
        start += SCAN

    u = tl.load(coefficient_ptr)
    result_u = tl.load(coefficient_ptr + 1)
    result_max = tl.load(coefficient_ptr + 4)
    n = num.to(tl.float64)
    error = (n - 1.0) * u * abs_total
    error = tl.where(n == 2.0, u * tl.abs(total), error)
    error += n * tl.load(coefficient_ptr + 6) * abs_total
    error += result_u * (tl.abs(total) + error) + tl.load(coefficient_ptr + 2)
    limit = tl.where(n > 1.0, error * tl.load(coefficient_ptr + 5), 0.0)
    exists = col_exists & is_term
    held = tl.load(result_ptr + drawn * result_stride_row + col * result_stride_col, mask=exists,
                   other=0.0)
    held = widened(held).to(tl.float64)
    judged = exists & (abs_total < result_max) & (tl.abs(total) + limit < result_max)
    note(record_ptr, tl.abs(held - total), limit, drawn * num_cols + col, judged)
