"""The row checksum of a product, its limit and its verdict, in one pass over A and C.

With the sums of B's rows (:mod:`sdc_guard_kernels.operand_sums`), ``C = beta C0 + alpha A B`` has

    sum_n C[m, n] = alpha sum_k A[m, k] (sum_n B[k, n]) + beta sum_n C0[m, n]

(Huang and Abraham 1984).  For each row m the kernel computes both sides and the quantities of
which a limit on their distance is made,

    abs = sum_k |A[m, k]| b_abs[k]    a = sum_k |A[m, k]|    b = sum_k b_abs[k]
    s = sum_n |C0[m, n]|              c = sum_n |C[m, n]|

    limit = abs_share abs + a_share a + b_share b + addend_share s + result_share c + constant,

and leaves ``note(|difference|, limit)`` under the index of the row.  The caller chooses the shares
(:class:`Numbers`) so that the sum over a row of what each element may be off is at most
the limit, and adds what this kernel itself may err by.

Own error.  All sums over k and n run in the working format (float32; float64 if any operand is
float64) of unit roundoff v: products, groups of at most 8 columns, then the tiles of BLOCK_K or
BLOCK_N one upon the other; what is left of a row, at most BLOCK numbers, is added in float64,
u = 2^-53.  With T tiles of A, T' of C, and for every order of ``tl.sum`` (Higham, *Accuracy and
Stability of Numerical Algorithms*, 2002, sections 3.1 and 4.2), eta being the smallest subnormal of
the working format:

    |computed - exact| <= e abs + K eta   for alpha's sum and for ``abs``,
        e = (1 + e_B) (1 + gamma_{T + 7}(v)) (1 + gamma_{BLOCK_K}(u)) - 1,
    |computed - exact| <= f s, f c        for the sums of C0 and C (no product, no underflow),
        f = (1 + gamma_{T' + 6}(v)) (1 + gamma_{BLOCK_N}(u)) - 1,

e_B the error of the sums of B; the same e holds for ``a`` and ``b``.  A product may underflow,
which costs eta, times what follows: K eta in all, the rest of the factor being absorbed where a
caller doubles it.  A fused multiply-add only drops a rounding, so contraction stays on.  The
expected sum and the limit are put together in float64, 4 roundings.  :class:`ChecksumPlan` has e, f
and K eta.

Not judged: a row whose expected sum or limit is not finite in the working format.  A row of C with
a NaN or an infinity is over any limit if nothing there may overflow: if ``max(|alpha|, 1) abs +
|beta| s`` is at most ``largest_row``, so that the row's own sum cannot overflow here, and at most
``largest_element``, so that no element can, and ``factor_reach max(a, b)`` is no larger either.
For float16, where that would leave out all large rows, the largest |b| stands for b, and its
product with a for ``abs`` if that is less.  A row of C that is finite is judged whatever its size:
an infinity never leaves a sum again, so nothing has overflowed.

Traffic: one read of A, C and a full C0, and per program one of the 2 K sums of B out of the cache.
Grid: one program per matrix and block of BLOCK_M rows; with ``row_share`` below 1, that share of
all blocks, consecutive from a place that the seed decides, so each is looked at with this
probability.  The order of evaluation depends on shapes and alignment alone.  Premises: round to
nearest, subnormals kept.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sdc_guard_kernels.operand_sums import (
    LARGEST_GROUP,
    NUM_WARPS,
    UNIT_ROUNDOFF,
    by_rows,
    error_factor,
    grouping,
)
from sdc_guard_kernels.rows import widened
from sdc_guard_kernels.verdict import note

TILE = 8192
"""Elements of A or C that a program holds at a time; half as many of float64."""
WIDEST_BLOCK = 512
TRANSPOSED_BLOCK = 256
SMALLEST_BLOCK = 16
SMALLEST_ROW_BLOCK = 16
LARGEST_ROW_BLOCK = 64
TRANSPOSED_ROW_BLOCK = 32
NO_ADDEND, ADDEND, ADDEND_ROW = 0, 1, 2

SMALLEST_SUBNORMAL = {torch.float32: 2.0**-149, torch.float64: 2.0**-1074}


class ChecksumPlan(NamedTuple):
    """How a product is cut, and the kernel's own error: ``inner_error`` is e without e_B,
    ``outer_error`` is f, ``underflow`` is K eta (see the module's docstring)."""

    block_m: int
    block_k: int
    block_n: int
    tiles_k: int
    tiles_n: int
    num_blocks: int
    inner_error: float
    outer_error: float
    underflow: float


class Numbers(NamedTuple):
    """What a call's limits are made of; :meth:`tensor` puts it on the device once per site."""

    alpha: float
    beta: float
    abs_share: float
    a_share: float
    b_share: float
    addend_share: float
    result_share: float
    constant: float
    largest_element: float
    largest_row: float
    factor_reach: float

    def tensor(self, device: torch.device) -> Tensor:
        """float64 [11], in the order of the fields."""
        return torch.tensor(self, dtype=torch.float64, device=device)


@triton.jit(do_not_specialize=["first_block"])  # type: ignore[untyped-decorator]
def _checksum_kernel(  # type: ignore[no-untyped-def]
    a_ptr, sums_ptr, c_ptr, addend_ptr, numbers_ptr, record_ptr,
    num_rows, num_inner, num_cols, num_blocks, all_blocks, first_block,
    a_stride_batch, a_stride_row, a_stride_inner, sums_stride_batch, sums_stride_kind,
    c_stride_batch, c_stride_row, c_stride_col,
    addend_stride_batch, addend_stride_row, addend_stride_col,
    TILES_K: tl.constexpr, TILES_N: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr, A_GROUP: tl.constexpr,
    A_AXIS: tl.constexpr, C_GROUP: tl.constexpr, C_AXIS: tl.constexpr,
    ADDEND_KIND: tl.constexpr, USE_LARGEST: tl.constexpr, WORK: tl.constexpr,
):
    # [.., FIRST, LAST], of which the axis of the group is summed: neighbours, or columns far apart.
    A_FIRST: tl.constexpr = BLOCK_K // A_GROUP if A_AXIS == 2 else A_GROUP
    A_LAST: tl.constexpr = BLOCK_K // A_FIRST
    C_FIRST: tl.constexpr = BLOCK_N // C_GROUP if C_AXIS == 2 else C_GROUP
    C_LAST: tl.constexpr = BLOCK_N // C_FIRST
    # Cast before multiplying: a row times its stride passes 2^31 in a matrix of a few GB.
    block = (tl.program_id(0).to(tl.int64) + first_block) % all_blocks
    batch = block // num_blocks
    row = (block % num_blocks) * BLOCK_M + tl.arange(0, BLOCK_M).to(tl.int64)
    row_exists = row < num_rows
    lane_k = tl.arange(0, BLOCK_K).to(tl.int64)
    lane_n = tl.arange(0, BLOCK_N).to(tl.int64)

    a_row = a_ptr + batch * a_stride_batch + row[:, None] * a_stride_row
    b_sum_ptr = sums_ptr + batch * sums_stride_batch
    product = tl.zeros((BLOCK_M, BLOCK_K // A_GROUP), dtype=WORK)
    abs_product = tl.zeros((BLOCK_M, BLOCK_K // A_GROUP), dtype=WORK)
    a_abs = tl.zeros((BLOCK_M, BLOCK_K // A_GROUP), dtype=WORK)
    b_total = tl.zeros((1, BLOCK_K // A_GROUP), dtype=WORK)
    b_largest = tl.zeros((BLOCK_K,), dtype=WORK)
    # The next tile is under way while one is added.  The trip counts are compile-time constants:
    # the interpreter of triton 3.6 takes no others.
    exists = row_exists[:, None] & (lane_k < num_inner)[None, :]
    a_next = tl.load(a_row + lane_k[None, :] * a_stride_inner, mask=exists, other=0.0)
    for tile in range(TILES_K):
        a = widened(a_next).to(WORK)
        inner = tile * BLOCK_K + lane_k
        inner_exists = inner < num_inner
        after = inner + BLOCK_K
        exists = row_exists[:, None] & (after < num_inner)[None, :]
        a_next = tl.load(a_row + after[None, :] * a_stride_inner, mask=exists, other=0.0)
        b_sum = tl.load(b_sum_ptr + inner, mask=inner_exists, other=0.0).to(WORK)
        b_abs = tl.load(b_sum_ptr + sums_stride_kind + inner, mask=inner_exists,
                        other=0.0).to(WORK)
        magnitude = tl.abs(a)
        term, abs_term = a * b_sum[None, :], magnitude * b_abs[None, :]
        product += tl.sum(tl.reshape(term, (BLOCK_M, A_FIRST, A_LAST)), axis=A_AXIS)
        abs_product += tl.sum(tl.reshape(abs_term, (BLOCK_M, A_FIRST, A_LAST)), axis=A_AXIS)
        a_abs += tl.sum(tl.reshape(magnitude, (BLOCK_M, A_FIRST, A_LAST)), axis=A_AXIS)
        b_total += tl.sum(tl.reshape(b_abs, (1, A_FIRST, A_LAST)), axis=A_AXIS)
        if USE_LARGEST:
            b_largest = tl.maximum(b_largest, tl.load(
                b_sum_ptr + 2 * sums_stride_kind + inner, mask=inner_exists, other=0.0).to(WORK))

    c_row = c_ptr + batch * c_stride_batch + row[:, None] * c_stride_row
    addend_base = addend_ptr + batch * addend_stride_batch
    result = tl.zeros((BLOCK_M, BLOCK_N // C_GROUP), dtype=WORK)
    abs_result = tl.zeros((BLOCK_M, BLOCK_N // C_GROUP), dtype=WORK)
    if ADDEND_KIND == 1:
        addend = tl.zeros((BLOCK_M, BLOCK_N // C_GROUP), dtype=WORK)
        abs_addend = tl.zeros((BLOCK_M, BLOCK_N // C_GROUP), dtype=WORK)
    exists = row_exists[:, None] & (lane_n < num_cols)[None, :]
    c_next = tl.load(c_row + lane_n[None, :] * c_stride_col, mask=exists, other=0.0)
    for tile in range(TILES_N):
        c = widened(c_next).to(WORK)
        col = tile * BLOCK_N + lane_n
        after = col + BLOCK_N
        exists = row_exists[:, None] & (after < num_cols)[None, :]
        c_next = tl.load(c_row + after[None, :] * c_stride_col, mask=exists, other=0.0)
        result += tl.sum(tl.reshape(c, (BLOCK_M, C_FIRST, C_LAST)), axis=C_AXIS)
        abs_result += tl.sum(tl.reshape(tl.abs(c), (BLOCK_M, C_FIRST, C_LAST)), axis=C_AXIS)
        if ADDEND_KIND == 1:
            place = row[:, None] * addend_stride_row + col[None, :] * addend_stride_col
            exists = row_exists[:, None] & (col < num_cols)[None, :]
            d = widened(tl.load(addend_base + place, mask=exists, other=0.0)).to(WORK)
            addend += tl.sum(tl.reshape(d, (BLOCK_M, C_FIRST, C_LAST)), axis=C_AXIS)
            abs_addend += tl.sum(tl.reshape(tl.abs(d), (BLOCK_M, C_FIRST, C_LAST)), axis=C_AXIS)
    if ADDEND_KIND == 2:
        addend = tl.zeros((BLOCK_N,), dtype=WORK)
        abs_addend = tl.zeros((BLOCK_N,), dtype=WORK)
        for tile in range(TILES_N):
            col = tile * BLOCK_N + lane_n
            d = widened(tl.load(addend_base + col * addend_stride_col, mask=col < num_cols,
                        other=0.0)).to(WORK)
            addend += d
            abs_addend += tl.abs(d)

    alpha = tl.load(numbers_ptr)
    beta = tl.load(numbers_ptr + 1)
    size = tl.sum(abs_product.to(tl.float64), axis=1)
    a_size = tl.sum(a_abs.to(tl.float64), axis=1)
    result_size = tl.sum(abs_result.to(tl.float64), axis=1)
    expected = alpha * tl.sum(product.to(tl.float64), axis=1)
    limit = tl.load(numbers_ptr + 2) * size + tl.load(numbers_ptr + 3) * a_size
    b_size = tl.sum(b_total.to(tl.float64), axis=1)
    limit += tl.load(numbers_ptr + 4) * b_size
    limit += tl.load(numbers_ptr + 7)
    scale = tl.maximum(tl.abs(alpha), 1.0)
    largest = size
    largest_b = b_size
    if USE_LARGEST:
        largest_b = tl.zeros_like(b_size) + tl.max(b_largest, axis=0).to(tl.float64)
        largest = tl.minimum(size, a_size * largest_b)
    largest = tl.maximum(
        largest * scale, tl.load(numbers_ptr + 10) * tl.maximum(a_size, largest_b))
    row_reach = scale * size
    if ADDEND_KIND > 0:
        # The last axis: of a row of columns, or of rows of groups.
        addend_size = tl.sum(abs_addend.to(tl.float64), axis=ADDEND_KIND % 2)
        expected += beta * tl.sum(addend.to(tl.float64), axis=ADDEND_KIND % 2)
        limit += tl.load(numbers_ptr + 5) * addend_size
        largest += tl.abs(beta) * addend_size
        row_reach += tl.abs(beta) * addend_size
    # An overflow of the row's own sum looks like an infinity in it, see the module's docstring.
    broken = (result_size < float("inf")) == 0
    limit += tl.where(broken, 0.0, tl.load(numbers_ptr + 6) * result_size)
    found = tl.sum(result.to(tl.float64), axis=1)
    defect = tl.where(broken, float("inf"), tl.abs(expected - found))
    small = (largest <= tl.load(numbers_ptr + 8)) & (row_reach <= tl.load(numbers_ptr + 9))
    judged = row_exists & (tl.abs(expected) < float("inf")) & (small | (broken == 0))
    note(record_ptr, defect, limit, batch * num_rows + row, judged)


@lru_cache(maxsize=4096)
def checksum_plan(
    num_batches: int, num_rows: int, num_inner: int, num_cols: int, work: torch.dtype, *,
    a_by_rows: bool,
) -> ChecksumPlan:
    """``a_by_rows``: the inner dimension of A is the one of the smaller stride."""
    wide = work is torch.float64
    tile, widest = (TILE // 2, WIDEST_BLOCK // 2) if wide else (TILE, WIDEST_BLOCK)
    widest = widest if a_by_rows else min(widest, TRANSPOSED_BLOCK)
    block_k, block_n = _block(num_inner, widest), _block(num_cols, widest)
    most = LARGEST_ROW_BLOCK if a_by_rows else TRANSPOSED_ROW_BLOCK
    most = min(most, triton.next_power_of_2(num_rows), tile // max(block_k, block_n))
    block_m = max(SMALLEST_ROW_BLOCK, most)
    v = UNIT_ROUNDOFF[work]
    tiles_k, tiles_n = max(1, -(-num_inner // block_k)), max(1, -(-num_cols // block_n))
    return ChecksumPlan(
        block_m, block_k, block_n, tiles_k, tiles_n, num_batches * -(-num_rows // block_m),
        error_factor(tiles_k + LARGEST_GROUP - 1, block_k, num_inner, v),
        error_factor(tiles_n + LARGEST_GROUP - 2, block_n, num_cols, v),
        num_inner * SMALLEST_SUBNORMAL[work],
    )


def working_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """float64 if one of them is, else float32."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def product_checksum(
    a: Tensor, sums: Tensor, c: Tensor, numbers: Tensor, record: Tensor, *,
    addend: Tensor | None = None, row_share: float = 1.0,
    seed: int = 0,
) -> None:
    """Judge the rows of ``c`` and leave the verdict in ``record``, without waiting.

    Args:
        a: [M, K] or [batch, M, K], float16, bfloat16, float32 or float64, any strides.
        sums: ``operand_sums(b).rows`` for b [(batch,) K, N], or of one matrix for all batches:
            [kinds, batch or 1, K].
        c: [M, N] or [batch, M, N], any strides.
        numbers: :meth:`Numbers.tensor`.
        record: int64 [2], see :mod:`sdc_guard_kernels.verdict`.
        addend: C0 of any shape that broadcasts to ``c``'s, or None.
        row_share, seed: look at this share of the blocks of rows, from one that the seed decides.

    Raises:
        ValueError: the shapes do not make a product.
    """
    num_rows, num_inner = a.shape[-2:]
    num_batches = a.shape[0] if a.dim() == 3 else 1
    num_cols = c.shape[-1]
    if c.shape[:-1] != a.shape[:-1] or sums.shape[2] != num_inner \
            or sums.shape[1] not in (1, num_batches):
        raise ValueError(f"no product: a {tuple(a.shape)}, sums {tuple(sums.shape)}, "
                         f"c {tuple(c.shape)}")
    work = working_dtype(a.dtype, sums.dtype, c.dtype, a.dtype if addend is None else addend.dtype)
    plan = checksum_plan(num_batches, num_rows, num_inner, num_cols, work, a_by_rows=by_rows(a))
    if plan.num_blocks == 0 or num_cols == 0:
        return
    addend_strides, kind = (0, 0, 0), NO_ADDEND
    if addend is not None:
        addend_strides = strides_within(addend, c)
        kind = ADDEND if addend_strides[1] else ADDEND_ROW
    a_group, a_axis = grouping(a, plan.block_k)
    c_group, c_axis = grouping(c, plan.block_n)
    looked_at = min(plan.num_blocks, max(1, math.ceil(row_share * plan.num_blocks)))
    _checksum_kernel[(looked_at,)](
        a, sums, c, c if addend is None else addend, numbers, record,
        num_rows, num_inner, num_cols, plan.num_blocks // num_batches, plan.num_blocks,
        seed % plan.num_blocks if looked_at < plan.num_blocks else 0,
        a.stride(0) if a.dim() == 3 else 0, a.stride(-2), a.stride(-1),
        sums.stride(1) if sums.shape[1] > 1 else 0, sums.stride(0),
        c.stride(0) if c.dim() == 3 else 0, c.stride(-2), c.stride(-1), *addend_strides,
        TILES_K=plan.tiles_k, TILES_N=plan.tiles_n, BLOCK_M=plan.block_m, BLOCK_K=plan.block_k,
        BLOCK_N=plan.block_n, A_GROUP=a_group, A_AXIS=a_axis, C_GROUP=c_group,
        C_AXIS=c_axis, ADDEND_KIND=kind, USE_LARGEST=sums.shape[0] == 3,
        WORK=tl.float64 if work is torch.float64 else tl.float32,
        num_warps=NUM_WARPS,
    )


def strides_within(x: Tensor, c: Tensor) -> tuple[int, int, int]:
    """Strides (batch, row, column) with which ``x`` is read as if it had the shape of ``c``.

    Raises:
        ValueError: ``x`` does not broadcast to ``c``.
    """
    if x.dim() > c.dim() or any(
        size not in (1, full) for size, full in zip(x.shape[::-1], c.shape[::-1], strict=False)
    ):
        raise ValueError(f"{tuple(x.shape)} does not broadcast to {tuple(c.shape)}")
    strides = [0] * (3 - x.dim()) + [
        0 if size == 1 else stride for size, stride in zip(x.shape, x.stride(), strict=True)]
    return strides[0], strides[1], strides[2]


def _block(length: int, widest: int) -> int:
    return min(widest, max(SMALLEST_BLOCK, int(triton.next_power_of_2(length))))
