"""Row sums of any strided matrix, and of its absolute values, in a fixed order.

    sum[r] = x[r, 0] + ... + x[r, K-1]        abs_sum[r] = |x[r, 0]| + ... + |x[r, K-1]|

``abs_sum`` is the quantity that every bound on a summation error is a multiple of, so the check of
a sum needs one pass over the data, not two.  The kernel shares nothing with torch's reductions:
it walks the addresses itself, in 64-bit arithmetic, and torch only allocates its outputs.

Order.  Columns are cut into splits of ``SPLIT_COLS``.  In a split, lane j of ``LANES`` adds the
columns j, j + LANES, ... one after the other; the lanes are then added in float64, in the tree of
``tl.sum``; a second launch adds the splits of a row in the same way.  The order depends on the
shape alone: there are no atomics, and neither the device's size nor its load enters.

Error.  Let u = 2^-53 and gamma_n(v) = n v / (1 - n v).  Every lane adds at most m = SPLIT_COLS /
LANES terms, the first one to zero, without error.

* ``accumulator="float64"``: a split of n terms is a sum in float64 in some order, so by Higham
  (*Accuracy and Stability of Numerical Algorithms*, 2002, eq. 4.6) its error is at most
  c_1 A, c_1 = gamma_{n-1}(u), with A the split's exact abs_sum.  A path from a leaf to the root
  holds at most (m - 1) + (LANES - 1) additions, each of relative error u, hence also
  c_1 = gamma_{m + LANES - 2}(u); the smaller of the two holds.
* ``accumulator="compensated"``: a lane keeps s and the sum c of the exact errors d of its
  additions, s <- s + x, d = s_old + x - s (Knuth's TwoSum, exact in rounding to nearest), in the
  working format of unit roundoff v: float32 for inputs up to float32, else float64.  The lane's
  exact sum is s + sum d, and sum |d| <= gamma_{m-1}(v) sum |x| (Ogita, Rump and Oishi 2005, Lemma
  4.2), and c errs by gamma_{m-1}(v) sum |d|; so s + c errs by g^2 sum|x|, g = gamma_{m-1}(v).
  Then s + c and the lanes are added in float64: c_1 = g^2 + gamma_LANES(u) (1 + g^2).

The second launch adds the N splits in float64; c_2 is the first line's c_1 with n = N.  In all

    |computed sum - exact sum| <= ((1 + c_1)(1 + c_2) - 1) * exact abs_sum,

and the same for ``abs_sum``, whose terms are their own absolute values.  :func:`error_coefficient`
returns the factor.  Premises: no overflow on the way (float64 has none for inputs up to float32),
round to nearest, and no flushing of subnormals in the working format.  A sum of subnormals is
exact then, so there is no absolute term.  A NaN or an infinity in a row makes that row's results
non-finite, and a sum of zeros is +0.

Traffic: one read of x, 16 bytes written per row and split.  Grid: (rows / BLOCK_ROWS, splits); a
program holds BLOCK_ROWS x LANES elements at a time.  The kernel is bound by memory on a device
with full-rate float64; elsewhere ``compensated`` keeps the inner loop out of float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_ROWS = 8
LANES = 128
SPLIT_COLS = 65536
ACCUMULATORS = ("float64", "compensated")

_WORKING_ROUNDOFF = {
    torch.float16: 2.0**-24,
    torch.bfloat16: 2.0**-24,
    torch.float32: 2.0**-24,
    torch.float64: 2.0**-53,
}
_FLOAT64_ROUNDOFF = 2.0**-53


class RowSum(NamedTuple):
    """Float64 vectors of length ``rows``: the sums, and the sums of the absolute values."""

    sum: Tensor
    abs_sum: Tensor


@triton.jit  # type: ignore[untyped-decorator]
def _row_sum_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    sum_ptr,
    abs_sum_ptr,
    num_rows,
    num_cols,
    stride_row,
    stride_col,
    num_splits,
    SPLIT_COLS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    LANES: tl.constexpr,
    COMPENSATED: tl.constexpr,
    WORK: tl.constexpr,
):
    # Cast before multiplying: a row times its stride passes 2^31 in a matrix of a few GB.
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS).to(tl.int64)
    split = tl.program_id(1).to(tl.int64)
    lane = tl.arange(0, LANES).to(tl.int64)
    row_exists = row < num_rows
    row_ptr = x_ptr + row[:, None] * stride_row

    total = tl.zeros((BLOCK_ROWS, LANES), dtype=WORK)
    abs_total = tl.zeros((BLOCK_ROWS, LANES), dtype=WORK)
    total_error = tl.zeros((BLOCK_ROWS, LANES), dtype=WORK)
    abs_error = tl.zeros((BLOCK_ROWS, LANES), dtype=WORK)

    first = split * SPLIT_COLS
    for start in range(0, SPLIT_COLS, LANES):
        col = first + start + lane
        exists = row_exists[:, None] & (col < num_cols)[None, :]
        x = tl.load(row_ptr + col[None, :] * stride_col, mask=exists, other=0.0).to(WORK)
        magnitude = tl.abs(x)
        new = total + x
        abs_new = abs_total + magnitude
        if COMPENSATED:
            part = new - total
            total_error += (total - (new - part)) + (x - part)
            abs_part = abs_new - abs_total
            abs_error += (abs_total - (abs_new - abs_part)) + (magnitude - abs_part)
        total = new
        abs_total = abs_new

    lane_sum = total.to(tl.float64) + total_error.to(tl.float64)
    lane_abs_sum = abs_total.to(tl.float64) + abs_error.to(tl.float64)
    out = row * num_splits + split
    tl.store(sum_ptr + out, tl.sum(lane_sum, axis=1), mask=row_exists)
    tl.store(abs_sum_ptr + out, tl.sum(lane_abs_sum, axis=1), mask=row_exists)


def row_sum(x_RK: Tensor, *, accumulator: str = "float64") -> RowSum:
    """Sum the rows of a matrix [rows, cols] of any strides, stride 0 and overlaps included.

    Args:
        x_RK: float16, bfloat16, float32 or float64; it is read in place, never copied.
        accumulator: ``"float64"`` or ``"compensated"``, see the module's docstring.

    Raises:
        ValueError: ``x_RK`` is no matrix, or ``accumulator`` is none of the two.
        TypeError: ``x_RK`` has another dtype.
    """
    if x_RK.dim() != 2:
        raise ValueError(f"row_sum takes a matrix, got shape {tuple(x_RK.shape)}; use a 2-D view")
    if x_RK.dtype not in _WORKING_ROUNDOFF:
        raise TypeError(f"row_sum takes a floating dtype of up to 64 bits, got {x_RK.dtype}")
    if accumulator not in ACCUMULATORS:
        raise ValueError(f"accumulator is {accumulator!r}, not one of {ACCUMULATORS}")
    num_rows, num_cols = x_RK.shape
    num_splits = _num_splits(num_cols)
    # An output that no program writes must not pass as a sum, so it starts as NaN.
    sums = torch.full((2, num_rows, num_splits), torch.nan, dtype=torch.float64, device=x_RK.device)
    if num_rows == 0:
        return RowSum(sums[0, :, 0], sums[1, :, 0])
    _launch(x_RK, sums[0], sums[1], num_splits, accumulator)
    if num_splits == 1:
        return RowSum(sums[0, :, 0], sums[1, :, 0])
    folded = row_sum(sums.view(2 * num_rows, num_splits), accumulator="float64").sum
    return RowSum(folded[:num_rows], folded[num_rows:])


def error_coefficient(num_cols: int, dtype: torch.dtype, *, accumulator: str = "float64") -> float:
    """The factor c with ``|sum - exact sum| <= c * exact abs_sum`` for rows of ``num_cols``.

    It is derived in the module's docstring, and rounded up by a relative 2^-40, which is more than
    the rounding of its own evaluation.
    """
    if accumulator not in ACCUMULATORS:
        raise ValueError(f"accumulator is {accumulator!r}, not one of {ACCUMULATORS}")
    split_cols = min(num_cols, SPLIT_COLS)
    lane_terms = -(-split_cols // LANES)
    if accumulator == "float64":
        num_additions = min(split_cols - 1, lane_terms + LANES - 2)
        split = _gamma(num_additions, _FLOAT64_ROUNDOFF)
    else:
        lane = _gamma(lane_terms - 1, _WORKING_ROUNDOFF[dtype]) ** 2
        split = lane + _gamma(LANES, _FLOAT64_ROUNDOFF) * (1.0 + lane)
    num_splits = _num_splits(num_cols)
    fold = error_coefficient(num_splits, torch.float64) if num_splits > 1 else 0.0
    return (split + fold + split * fold) * (1.0 + 2.0**-40)


def _gamma(num_additions: int, roundoff: float) -> float:
    n = max(0, num_additions)
    return n * roundoff / (1.0 - n * roundoff)


def _num_splits(num_cols: int) -> int:
    return max(1, -(-num_cols // SPLIT_COLS))


def _launch(
    x_RK: Tensor, sum_RS: Tensor, abs_sum_RS: Tensor, num_splits: int, accumulator: str
) -> None:
    num_rows, num_cols = x_RK.shape
    compensated = accumulator == "compensated"
    narrow = compensated and x_RK.dtype is not torch.float64
    # A short row needs no full split; whole powers of two keep the number of compilations small.
    split_cols = min(SPLIT_COLS, max(LANES, triton.next_power_of_2(num_cols)))
    grid = (triton.cdiv(num_rows, BLOCK_ROWS), num_splits)
    _row_sum_kernel[grid](
        x_RK,
        sum_RS,
        abs_sum_RS,
        num_rows,
        num_cols,
        x_RK.stride(0),
        x_RK.stride(1),
        num_splits,
        SPLIT_COLS=split_cols,
        BLOCK_ROWS=BLOCK_ROWS,
        LANES=LANES,
        COMPENSATED=compensated,
        WORK=tl.float32 if narrow else tl.float64,
        enable_fp_fusion=False,
    )
