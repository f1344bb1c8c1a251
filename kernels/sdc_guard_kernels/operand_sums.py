"""Sums of the rows, and of the columns too, of one operand of a product: one pass over it.

    rows:    sum[r] = sum_c x[r, c]    abs_sum[r] = sum_c |x[r, c]|
    columns: the same of every column c

of every matrix of a batch, with any strides; for float16, where the size of single elements matters
because the format is narrow, the largest |x[r, c]| too.  The checksum of ``C = A B`` needs those of
B's rows; where a weight enters a product as its transpose, they are those of the weight's columns,
and the backward product needs its rows: hence both from one pass.

Order.  A tile [BLOCK_R, BLOCK_C] is summed in the working format: float32, or float64 for a float64
operand.  *Rows*: a program adds GROUP columns of a tile, then its COL_TILES tiles one upon the
other, in the working format; what is left is added in float64.  *Columns*: ROW_GROUP rows of a tile
are added, then the ROW_TILES tiles, in the working format; what is left in float64.  With columns,
COL_TILES is 1, and a second and a third launch add the parts that several programs left of a row or
a column, in float64.  The result is rounded to the working format.  Which columns make a group
(those that the compiler gives to one thread) follows from shape and alignment, the order from
nothing else.

Error.  Let v be the unit roundoff of the working format, u = 2^-53, gamma_n(v) = n v / (1 - n v).
From a term to the result lead at most (GROUP - 1) + (tiles - 1) additions in the working format
and one rounding to it, and in float64 one addition fewer than there are numbers left.  How
``tl.sum`` orders a tile is not specified, so every order is covered (Higham, *Accuracy and
Stability of Numerical Algorithms*, 2002, section 4.2):

    |computed - exact| <= c abs_sum,    c = (1 + gamma_a(v)) (1 + gamma_b(u)) - 1,

a = 8 + tiles - 1, as no group has more than 8 members, b = (numbers left in a program, at most the
width of a tile) + (programs) - 2; where v = u, a + b need not exceed the number of terms.  It holds
for ``sum`` and ``abs_sum``; the largest value is exact, and overlooks NaN.  :class:`SumsPlan` has
the coefficients.  There is no absolute term: inputs are multiples of 2^-149 (2^-1074 for float64),
so are their sums, and a sum or a conversion whose result is subnormal is exact then.  Premises:
round to nearest, subnormals kept.  A contraction cannot occur, there are no products.  Overflow of
the working format gives an infinity; a NaN or an infinity in a row makes its sums non-finite.

Traffic: one read of the operand.  Rows alone write 8 bytes per row (16 for float64).  With columns
16 bytes are written and read again per row and BLOCK_C columns, and per column and BLOCK_R
ROW_TILES rows: below 10 % of a large half-precision operand, and they stay in the cache.  Grid: one
program per matrix, row span and column span.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sdc_guard_kernels.rows import widened

WIDEST_ROW_BLOCK = 1024
WIDEST_BLOCK_WITH_COLUMNS = 512
SMALLEST_BLOCK = 16
FEWEST_ROWS = 16
MOST_ROWS = 128
TILE = 8192
LARGEST_GROUP = 8
ROW_GROUP = 4
NUM_WARPS = 8
MOST_ROW_TILES = 32
FEWEST_PROGRAMS = 256
FOLD_BLOCK = 256

UNIT_ROUNDOFF = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}
SUMMABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class OperandSums(NamedTuple):
    """``rows`` [kinds, batch, rows], ``columns`` [kinds, batch, columns] or None, in the working
    format; kind 0 is the sum, 1 the sum of absolute values, 2 (for float16 alone) the largest
    absolute value."""

    rows: Tensor
    columns: Tensor | None


class SumsPlan(NamedTuple):
    """How a shape is cut, and what that costs: ``row_error`` and ``column_error`` are the factors
    c with ``|computed - exact| <= c * exact abs_sum``, for ``sum`` and ``abs_sum``."""

    block_rows: int
    block_cols: int
    row_tiles: int
    col_tiles: int
    row_spans: int
    col_spans: int
    row_error: float
    column_error: float


@triton.jit  # type: ignore[untyped-decorator]
def _sums_kernel(  # type: ignore[no-untyped-def]
    x_ptr, rows_ptr, cols_ptr, num_rows, num_cols, stride_batch, stride_row, stride_col,
    row_spans, col_spans, row_kind_stride, col_kind_stride,
    ROW_TILES: tl.constexpr, COL_TILES: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
    GROUP: tl.constexpr, GROUP_AXIS: tl.constexpr, ROW_GROUP: tl.constexpr,
    COLUMNS: tl.constexpr, LARGEST: tl.constexpr, WORK: tl.constexpr,
):
    # [.., FIRST, LAST], of which the axis of the group is summed: neighbours, or columns far apart.
    FIRST: tl.constexpr = BLOCK_C // GROUP if GROUP_AXIS == 2 else GROUP
    LAST: tl.constexpr = BLOCK_C // FIRST
    # Cast before multiplying: a row times its stride passes 2^31 in a matrix of a few GB.
    program = tl.program_id(0).to(tl.int64)
    col_span = program % col_spans
    row_span = (program // col_spans) % row_spans
    batch = program // col_spans // row_spans
    lane_r = tl.arange(0, BLOCK_R).to(tl.int64)
    lane_c = tl.arange(0, BLOCK_C).to(tl.int64)
    x_ptr += batch * stride_batch
    first_row = row_span * ROW_TILES * BLOCK_R
    first_col = col_span * COL_TILES * BLOCK_C
    if COLUMNS:
        col_total = tl.zeros((BLOCK_R // ROW_GROUP, BLOCK_C), dtype=WORK)
        col_abs = tl.zeros((BLOCK_R // ROW_GROUP, BLOCK_C), dtype=WORK)
        col_max = tl.zeros((BLOCK_R // ROW_GROUP, BLOCK_C), dtype=WORK)

    for row_tile in range(ROW_TILES):
        row = first_row + row_tile * BLOCK_R + lane_r
        total = tl.zeros((BLOCK_R, BLOCK_C // GROUP), dtype=WORK)
        abs_total = tl.zeros((BLOCK_R, BLOCK_C // GROUP), dtype=WORK)
        largest = tl.zeros((BLOCK_R, BLOCK_C // GROUP), dtype=WORK)
        for col_tile in range(COL_TILES):
            col = first_col + col_tile * BLOCK_C + lane_c
            exists = (row < num_rows)[:, None] & (col < num_cols)[None, :]
            place = row[:, None] * stride_row + col[None, :] * stride_col
            x = widened(tl.load(x_ptr + place, mask=exists, other=0.0)).to(WORK)
            grouped = tl.reshape(x, (BLOCK_R, FIRST, LAST))
            total += tl.sum(grouped, axis=GROUP_AXIS)
            abs_total += tl.sum(tl.abs(grouped), axis=GROUP_AXIS)
            if LARGEST:
                # The interpreter warns of a maximum of nothing but NaN.
                size = tl.where(grouped == grouped, tl.abs(grouped), 0.0)
                largest = tl.maximum(largest, tl.max(size, axis=GROUP_AXIS))
            if COLUMNS:
                stacked = tl.reshape(x, (ROW_GROUP, BLOCK_R // ROW_GROUP, BLOCK_C))
                col_total += tl.sum(stacked, axis=0)
                col_abs += tl.sum(tl.abs(stacked), axis=0)
                if LARGEST:
                    col_max = tl.maximum(
                        col_max, tl.max(tl.where(stacked == stacked, tl.abs(stacked), 0.0), axis=0))
        out = rows_ptr + (batch * col_spans + col_span) * num_rows + row
        tl.store(out, tl.sum(total.to(tl.float64), axis=1), mask=row < num_rows)
        tl.store(out + row_kind_stride, tl.sum(abs_total.to(tl.float64), axis=1),
                 mask=row < num_rows)
        if LARGEST:
            tl.store(out + 2 * row_kind_stride, tl.max(largest, axis=1), mask=row < num_rows)

    if COLUMNS:
        col = first_col + lane_c
        out = cols_ptr + (batch * row_spans + row_span) * num_cols + col
        tl.store(out, tl.sum(col_total.to(tl.float64), axis=0), mask=col < num_cols)
        tl.store(out + col_kind_stride, tl.sum(col_abs.to(tl.float64), axis=0),
                 mask=col < num_cols)
        if LARGEST:
            tl.store(out + 2 * col_kind_stride, tl.max(col_max, axis=0), mask=col < num_cols)


@triton.jit  # type: ignore[untyped-decorator]
def _fold_kernel(  # type: ignore[no-untyped-def]
    parts_ptr, out_ptr, num_batches, length, num_blocks, NUM_PARTS: tl.constexpr,
    BLOCK: tl.constexpr
):
    """[kinds, batch, parts, length] to [kinds, batch, length]: sums, sums and maxima of parts."""
    program = tl.program_id(0).to(tl.int64)
    line = program // num_blocks
    place = (program % num_blocks) * BLOCK + tl.arange(0, BLOCK).to(tl.int64)
    total = tl.zeros((BLOCK,), dtype=tl.float64)
    largest = tl.zeros((BLOCK,), dtype=tl.float64)
    for part in range(NUM_PARTS):
        source = parts_ptr + (line * NUM_PARTS + part) * length + place
        x = tl.load(source, mask=place < length, other=0.0)
        total += x
        largest = tl.maximum(largest, x)
    result = tl.where(line >= 2 * num_batches, largest, total)
    tl.store(out_ptr + line * length + place, result, mask=place < length)


@lru_cache(maxsize=4096)
def sums_plan(num_batches: int, num_rows: int, num_cols: int, work: torch.dtype, *,
              columns: bool) -> SumsPlan:
    """How matrices [rows, cols] are cut; ``work`` is what :func:`working_dtype` says."""
    widest = WIDEST_BLOCK_WITH_COLUMNS if columns else WIDEST_ROW_BLOCK
    if work is torch.float64:
        widest //= 2
    block_cols = min(widest, max(SMALLEST_BLOCK, triton.next_power_of_2(num_cols)))
    most = min(MOST_ROWS, TILE // block_cols, triton.next_power_of_2(num_rows))
    block_rows = max(FEWEST_ROWS, most)
    tiles_down = max(1, -(-num_rows // block_rows))
    tiles_across = max(1, -(-num_cols // block_cols))
    row_tiles, col_tiles = 1, tiles_across
    if columns:
        col_tiles = 1
        num_tiles = num_batches * tiles_down * tiles_across
        while row_tiles < MOST_ROW_TILES and num_tiles > 2 * row_tiles * FEWEST_PROGRAMS:
            row_tiles *= 2
    row_spans, col_spans = -(-tiles_down // row_tiles), tiles_across // col_tiles
    v = UNIT_ROUNDOFF[work]
    row_error = error_factor(
        LARGEST_GROUP + col_tiles - 1, block_cols + col_spans - 2, num_cols, v)
    column_error = error_factor(
        ROW_GROUP + row_tiles - 1, block_rows + row_spans - 2, num_rows, v)
    return SumsPlan(block_rows, block_cols, row_tiles, col_tiles, row_spans, col_spans,
                    row_error, column_error)


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def operand_sums(x: Tensor, *, columns: bool = False) -> OperandSums:
    """Sums of the rows, and with ``columns`` of the columns, of x [rows, cols] or [batch, rows,
    cols], which is read once, in place, with any strides (0 and overlaps included).

    It is fastest where the columns lie beside each other in memory; give the transpose otherwise.

    Raises:
        ValueError: ``x`` has another rank.
        TypeError: ``x`` has another dtype than float16, bfloat16, float32, float64.
    """
    if x.dim() not in (2, 3):
        raise ValueError(f"operand_sums takes [(batch,) rows, cols], got shape {tuple(x.shape)}")
    if x.dtype not in SUMMABLE:
        raise TypeError(f"operand_sums takes a floating dtype of up to 64 bits, got {x.dtype}")
    num_rows, num_cols = x.shape[-2:]
    num_batches = x.shape[0] if x.dim() == 3 else 1
    work = working_dtype(x.dtype)
    plan = sums_plan(num_batches, num_rows, num_cols, work, columns=columns)
    row_parts = _unwritten(x, num_batches, plan.col_spans, num_rows, work)
    col_parts = _unwritten(x, num_batches, plan.row_spans, num_cols, work) if columns else row_parts
    if num_batches and (num_rows or columns):
        group, group_axis = grouping(x, plan.block_cols)
        _sums_kernel[(num_batches * plan.row_spans * plan.col_spans,)](
            x, row_parts, col_parts, num_rows, num_cols,
            x.stride(0) if x.dim() == 3 else 0, x.stride(-2), x.stride(-1),
            plan.row_spans, plan.col_spans,
            num_batches * plan.col_spans * num_rows, num_batches * plan.row_spans * num_cols,
            ROW_TILES=plan.row_tiles, COL_TILES=plan.col_tiles,
            BLOCK_R=plan.block_rows, BLOCK_C=plan.block_cols, GROUP=group,
            GROUP_AXIS=group_axis, ROW_GROUP=ROW_GROUP, COLUMNS=columns,
            LARGEST=x.dtype is torch.float16,
            WORK=tl.float64 if work is torch.float64 else tl.float32, num_warps=NUM_WARPS,
        )
    rows = _folded(row_parts, work)
    return OperandSums(rows, _folded(col_parts, work) if columns else None)


def _unwritten(
    x: Tensor, num_batches: int, num_parts: int, length: int, work: torch.dtype
) -> Tensor:
    """[kinds, batch, parts, length] of NaN: what no program writes must not pass as a sum.  One
    part is the result and has its format; several are kept in float64."""
    kinds = 3 if x.dtype is torch.float16 else 2
    return torch.full((kinds, num_batches, num_parts, length), torch.nan, device=x.device,
                      dtype=work if num_parts == 1 else torch.float64)


def _folded(parts: Tensor, work: torch.dtype) -> Tensor:
    kinds, num_batches, num_parts, length = parts.shape
    if num_parts == 1:
        return parts.view(kinds, num_batches, length)
    out = torch.full((kinds, num_batches, length), torch.nan, dtype=work, device=parts.device)
    num_blocks = triton.cdiv(length, FOLD_BLOCK)
    if out.numel():
        _fold_kernel[(kinds * num_batches * num_blocks,)](
            parts, out, num_batches, length, num_blocks, NUM_PARTS=num_parts, BLOCK=FOLD_BLOCK)
    return out


def by_rows(x: Tensor) -> bool:
    """True if the last dimension is the one of the smaller stride."""
    return x.stride(-1) <= x.stride(-2)


def grouping(x: Tensor, block: int) -> tuple[int, int]:
    """How many columns of a tile of ``block`` columns make a group, and which: neighbours (2, the
    axis of the group if the columns are seen as [others, group]) or columns far apart (1).

    A group is what the compiler gives to one thread, so that it is added without other threads.
    With aligned rows a thread loads 16 bytes at a time; without, the threads of a program lie
    beside each other; where the rows do in memory, a thread has 16 bytes of a column.
    """
    if not by_rows(x):
        return min(4, block), 1
    aligned = (
        x.stride(-1) == 1 and x.stride(-2) % 16 == 0 and x.shape[-1] % 16 == 0
        and x.data_ptr() % 16 == 0
    )
    if aligned:
        return min(LARGEST_GROUP, block), 2
    return max(1, min(LARGEST_GROUP, block // (32 * NUM_WARPS))), 1


def error_factor(num_working: int, num_wide: int, num_terms: int, v: float) -> float:
    """(1 + gamma_a(v)) (1 + gamma_b(2^-53)) - 1 for a, b roundings on the way of each of
    ``num_terms`` terms; where v is 2^-53, no order has more of them than terms, plus one for the
    term itself.  Rounded up by more than its own rounding."""
    if v == UNIT_ROUNDOFF[torch.float64]:
        num_working, num_wide = min(num_working + num_wide, num_terms + 1), 0
    first, second = _gamma(num_working, v), _gamma(num_wide, 2.0**-53)
    return (first + second + first * second) * (1.0 + 2.0**-40)


def _gamma(num_roundings: int, roundoff: float) -> float:
    n = max(0, num_roundings)
    return n * roundoff / (1.0 - n * roundoff) if n * roundoff < 1.0 else float("inf")
