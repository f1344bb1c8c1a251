"""Some rows of scaled dot-product attention, and their log-sum-exp, recomputed and judged.

For a sampled (image b, head h, query m), over the keys n,

    s_n = c sum_d q_d k_nd + mask_n,    p_n = exp(s_n - max s),    l = sum p,
    o = sum_n p_n v_n / l,              lse = max s + log l,

in float64, with keys shared by groups of heads, an additive mask, and a causal one (n <= m).

Limit: of ``sdc_guard.bounds.attention`` (contract), whose quantities are computed beside the row:
``delta_n = f |c| sum|q||k| + 2 u |s|``, ``g_n = e^{delta_n + u |s_n - max s|} - 1`` (as x + x^2 up
to x = 1, which is more), and

    r_l  = (1 + phi) sum p g / l + R
    |o^ - o|     <= (((1 + phi) sum p g |v| + P sum p |v|) / l + flush sum|v| + |o| r_l) / (1 - r_l)
                    + 3 u |o| + A
    |lse^ - lse| <= -log(1 - r_l) + phi |log l| + 3 u (|max s| + |lse|)

plus the rounding to the stored format; the caller derives :class:`Factors`.  *Own rounding:* u and
f hold the 2^-53 of an evaluation by these formulas in any order (module ``bounds.attention``), and
phi the exponential's 1 ulp in float64; ``-log(1 - r) <= r / (1 - r)`` replaces the logarithm where
it would cancel.  Limits are enlarged by 2^-30 for the rounding of their own evaluation.

Two passes over the keys, not the online form: ``g`` grows with the distance from the *final*
maximum, which the first pass finds; the second reads the keys from cache.

Not judged: a row with an operand that is not finite (a kernel multiplies by p = 0), with a product
that reaches half the accumulator's range, or with a score that errs by more than 12 and counts; the
log-sum-exp of a row without keys, whose output is 0.

Grid: one program per sampled row, ``BLOCK_N`` keys at a time.  Memory: keys twice, values and mask
once per row: (2 D + Dv) N elements; nothing else is read or written.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sdc_guard_kernels.rows import widened
from sdc_guard_kernels.sampling import SEED_BIT, stratum
from sdc_guard_kernels.verdict import note

LARGEST_HEAD = 512
TILE = 2048
"""Numbers of an operand that a program holds: of twice as many, float64 values spill."""


class Factors(NamedTuple):
    """The numbers of the limits; ``out_u``, ``lse_u`` 0 where nothing is stored more narrowly."""

    scale: float
    score: float
    u: float
    largest_product: float
    phi: float
    row: float
    terms: float
    flush: float
    absolute: float
    out_u: float
    out_tail: float
    out_largest: float
    lse_u: float
    lse_tail: float
    lse_largest: float


class Operands(NamedTuple):
    """``query`` [B, H, M, D], ``key`` [B, Hk, N, D], ``value`` [B, Hk, N, Dv], ``mask`` broadcast
    to [B, H, M, N] or None; H is a multiple of Hk."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None


class Plan(NamedTuple):
    """What a launch needs besides its operands; made once for shapes and strides."""

    table: Tensor
    factors: Tensor
    num_rows: int
    causal: bool
    block_n: int
    block_d: int
    block_v: int


@triton.jit
def growth(x):  # type: ignore[no-untyped-def]
    """An upper bound of ``e^x - 1`` for x >= 0, finite."""
    return tl.where(x <= 1.0, x + x * x, tl.exp(tl.minimum(x, 690.0)))


@triton.jit
def row_scores(q, k, mask, seen, factor_ptr):  # type: ignore[no-untyped-def]
    """Scores of q [D] with k [N, D]: (s, its error delta, the largest product), s -inf where not
    ``seen``; ``delta`` is finite wherever the operands are."""
    scale = tl.load(factor_ptr)
    product = k * q[None, :]
    s = tl.sum(product, 1) * scale + mask
    size = tl.sum(tl.abs(product), 1)
    s = tl.where(seen, s, float("-inf"))
    sized = tl.abs(scale) * size
    finite = tl.where(s > float("-inf"), tl.abs(s), 0.0)
    delta = tl.load(factor_ptr + 1) * sized + 2.0 * tl.load(factor_ptr + 2) * finite
    return s, delta, tl.maximum(size, sized) + (size - size)


@triton.jit  # type: ignore[untyped-decorator]
def _attention_rows_kernel(  # type: ignore[no-untyped-def]
    query_ptr,
    key_ptr,
    value_ptr,
    mask_ptr,
    out_ptr,
    lse_ptr,
    table_ptr,
    factor_ptr,
    out_record_ptr,
    lse_record_ptr,
    seed,
    num_samples,
    CAUSAL: tl.constexpr,
    HAS_MASK: tl.constexpr,
    HAS_LSE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    row, _ = stratum(seed, tl.program_id(0).to(tl.int64), num_samples, tl.load(table_ptr))
    heads, queries = tl.load(table_ptr + 1), tl.load(table_ptr + 2)
    num_keys, head_size, value_size = (
        tl.load(table_ptr + 3), tl.load(table_ptr + 4), tl.load(table_ptr + 5))
    m = row % queries
    h = row // queries % heads
    b = row // (queries * heads)
    shared = h // tl.load(table_ptr + 6)
    lane = tl.arange(0, BLOCK_N).to(tl.int64)
    d = tl.arange(0, BLOCK_D).to(tl.int64)
    e = tl.arange(0, BLOCK_V).to(tl.int64)
    at = b * tl.load(table_ptr + 7) + h * tl.load(table_ptr + 8) + m * tl.load(table_ptr + 9)
    q = tl.load(query_ptr + at + d * tl.load(table_ptr + 10), mask=d < head_size, other=0.0)
    q = widened(q).to(tl.float64)
    keys = b * tl.load(table_ptr + 11) + shared * tl.load(table_ptr + 12)
    keys = keys + (d * tl.load(table_ptr + 14))[None, :]
    values = b * tl.load(table_ptr + 15) + shared * tl.load(table_ptr + 16)
    values = values + (e * tl.load(table_ptr + 18))[None, :]
    masks = b * tl.load(table_ptr + 19) + h * tl.load(table_ptr + 20) + m * tl.load(table_ptr + 21)

    u, largest_product = tl.load(factor_ptr + 2), tl.load(factor_ptr + 3)
    # Lanes that hold no key leave 0 and -inf behind.
    top_lane = tl.full((BLOCK_N,), float("-inf"), dtype=tl.float64)
    lost = tl.zeros((BLOCK_N,), dtype=tl.int32)
    # Not `range`: its bound would have to be a launch argument in the interpreter of 3.6.
    start = num_keys * 0
    while start < num_keys:
        n = start + lane
        exists = n < num_keys
        k = widened(tl.load(key_ptr + keys + (n * tl.load(table_ptr + 13))[:, None],
                    mask=exists[:, None] & (d < head_size)[None, :], other=0.0)).to(tl.float64)
        addend = tl.zeros((BLOCK_N,), dtype=tl.float64)
        if HAS_MASK:
            addend = widened(tl.load(mask_ptr + masks + n * tl.load(table_ptr + 22), mask=exists,
                             other=0.0)).to(tl.float64)
        seen = exists & (n <= m) if CAUSAL else exists
        s, delta, product = row_scores(q, k, addend, seen, factor_ptr)
        # Comparisons with NaN are false.
        lost |= ((product < largest_product) & (s < float("inf"))).to(tl.int32) == 0
        top_lane = tl.maximum(top_lane, s)
        start += BLOCK_N
    top = tl.max(top_lane, 0)
    empty = (top > float("-inf")) == 0
    top = tl.where(empty, 0.0, top)

    total = tl.zeros((BLOCK_N,), dtype=tl.float64)
    weighted = tl.zeros((BLOCK_N,), dtype=tl.float64)
    out = tl.zeros((BLOCK_V,), dtype=tl.float64)
    plain = tl.zeros((BLOCK_V,), dtype=tl.float64)
    grown = tl.zeros((BLOCK_V,), dtype=tl.float64)
    abs_values = tl.zeros((BLOCK_V,), dtype=tl.float64)
    start = num_keys * 0
    while start < num_keys:
        n = start + lane
        exists = n < num_keys
        k = widened(tl.load(key_ptr + keys + (n * tl.load(table_ptr + 13))[:, None],
                    mask=exists[:, None] & (d < head_size)[None, :], other=0.0)).to(tl.float64)
        addend = tl.zeros((BLOCK_N,), dtype=tl.float64)
        if HAS_MASK:
            addend = widened(tl.load(mask_ptr + masks + n * tl.load(table_ptr + 22), mask=exists,
                             other=0.0)).to(tl.float64)
        seen = exists & (n <= m) if CAUSAL else exists
        s, delta, product = row_scores(q, k, addend, seen, factor_ptr)
        counts = s > float("-inf")
        distance = tl.where(counts, top - s, 0.0)
        near = counts & (distance <= 2.0 * delta + 1500.0)
        lost |= near & ((delta <= 12.0) == 0)
        p = tl.where(counts, tl.exp(-distance), 0.0)
        pg = p * growth(delta + u * distance)
        total += p
        weighted += pg
        v = widened(tl.load(value_ptr + values + (n * tl.load(table_ptr + 17))[:, None],
                    mask=exists[:, None] & (e < value_size)[None, :], other=0.0)).to(tl.float64)
        out += tl.sum(p[:, None] * v, 0)
        plain += tl.sum(p[:, None] * tl.abs(v), 0)
        grown += tl.sum(pg[:, None] * tl.abs(v), 0)
        abs_values += tl.sum(tl.abs(v), 0)
        start += BLOCK_N

    length = tl.where(empty, 1.0, tl.sum(total, 0))
    phi = tl.load(factor_ptr + 4)
    r = tl.sum(weighted, 0) / length * (1.0 + phi) + tl.load(factor_ptr + 5)
    r = tl.minimum(r, 1.0 - 1.0 / 1048576)
    out = out / length
    limit = grown / length * (1.0 + phi) + plain / length * tl.load(factor_ptr + 6)
    limit += tl.load(factor_ptr + 7) * abs_values
    limit = (limit + tl.abs(out) * r) / (1.0 - r) + 3.0 * u * tl.abs(out)
    limit += tl.load(factor_ptr + 8)
    judged = (tl.max(lost, 0) == 0) & (e < value_size)
    # A sum of sizes bounds the largest one; it is not finite if a value is not.
    largest = tl.load(factor_ptr + 11)
    judged = judged & (abs_values * length + limit < largest)
    limit += tl.load(factor_ptr + 9) * (tl.abs(out) + limit) + tl.load(factor_ptr + 10)
    limit *= 1.0 + 1.0 / 1073741824
    judged = judged & (tl.abs(out) + limit < largest)
    at = b * tl.load(table_ptr + 23) + h * tl.load(table_ptr + 24) + m * tl.load(table_ptr + 25)
    got = tl.load(out_ptr + at + e * tl.load(table_ptr + 26), mask=e < value_size, other=0.0)
    defect = tl.abs(widened(got).to(tl.float64) - out)
    note(out_record_ptr, defect, limit, row + tl.zeros_like(e), judged)

    if HAS_LSE:
        # One quantity, in the shape that a record takes.
        index = (b * heads + h) * tl.load(table_ptr + 30) + m
        place = index + tl.arange(0, 1).to(tl.int64)
        zero = (place - index).to(tl.float64)
        lse = top + tl.log(length) + zero
        log_error = tl.where(r < 1.0 / 1024, r / (1.0 - r), -tl.log(1.0 - r))
        limit = log_error + phi * tl.abs(tl.log(length)) + 3.0 * u * (tl.abs(top) + tl.abs(lse))
        limit += tl.load(factor_ptr + 12) * (tl.abs(lse) + limit) + tl.load(factor_ptr + 13)
        limit *= 1.0 + 1.0 / 1073741824
        judged = (tl.max(lost, 0) + zero == 0.0) & (tl.where(empty, 1.0, 0.0) + zero == 0.0)
        judged = judged & (tl.abs(lse) + limit < tl.load(factor_ptr + 14))
        at = b * tl.load(table_ptr + 27) + h * tl.load(table_ptr + 28) + m * tl.load(table_ptr + 29)
        got = widened(tl.load(lse_ptr + at)).to(tl.float64)
        note(lse_record_ptr, tl.abs(got - lse), limit, place, judged)


def block_of(size: int) -> int:
    """The power of two that holds a head; at least 16."""
    return max(16, int(triton.next_power_of_2(size)))


def geometry(operands: Operands) -> list[int]:
    """Sizes and strides of the operands, as every kernel on attention reads them."""
    query, key, value, mask = operands
    return [
        int(query.shape[1]), int(query.shape[2]), int(key.shape[2]), int(query.shape[3]),
        int(value.shape[3]), int(query.shape[1] // key.shape[1]), *query.stride(), *key.stride(),
        *value.stride(), *(mask.stride() if mask is not None else (0, 0, 0, 0)),
    ]


def takes(operands: Operands) -> bool:
    """True for heads of a size that a tile holds, and for operands that are not empty."""
    sizes = (int(operands.query.shape[3]), int(operands.value.shape[3]))
    return max(sizes) <= LARGEST_HEAD and all(t.numel() for t in operands[:3])


def plan_rows(
    operands: Operands, out: Tensor, lse: Tensor | None, factors: Factors, *, causal: bool,
    num_samples: int,
) -> Plan:
    """The plan of a check of ``out`` [B, H, M, Dv] and, where given, of ``lse`` [B, H, M' >= M]
    or [B, H, M', 1]."""
    query = operands.query
    rows = int(query.shape[0] * query.shape[1] * query.shape[2])
    layout = (*lse.stride()[:3], int(lse.shape[2])) if lse is not None else (0, 0, 0, 0)
    table = [rows, *geometry(operands), *out.stride(), *layout]
    block_d, block_v = block_of(query.shape[3]), block_of(operands.value.shape[3])
    return Plan(
        torch.tensor(table, dtype=torch.int64, device=query.device),
        torch.tensor(factors, dtype=torch.float64, device=query.device),
        min(rows, num_samples), causal, min(128, TILE // max(block_d, block_v)), block_d, block_v)


def check_rows(
    plan: Plan, operands: Operands, out: Tensor, lse: Tensor | None, out_record: Tensor,
    lse_record: Tensor | None, seed: int,
) -> None:
    """Judge sampled rows of ``out`` (index: the row) and of ``lse`` (index: its element)."""
    query, key, value, mask = operands
    _attention_rows_kernel[(plan.num_rows,)](
        query, key, value, query if mask is None else mask, out, out if lse is None else lse,
        plan.table, plan.factors, out_record, out_record if lse_record is None else lse_record,
        seed | SEED_BIT, plan.num_rows, CAUSAL=plan.causal, HAS_MASK=mask is not None,
        HAS_LSE=lse is not None, BLOCK_N=plan.block_n, BLOCK_D=plan.block_d,
        BLOCK_V=plan.block_v, num_warps=8)
