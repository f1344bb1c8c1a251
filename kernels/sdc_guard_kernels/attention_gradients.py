"""Some rows of the gradients of attention recomputed from the saved output and log-sum-exp.

With ``s_mn = c q_m k_n + mask_mn``, ``P = exp(s - lse)``, ``dP = do v^T``, ``D_m = do_m o_m`` and
``dS = P (dP - D)``,

    dq_m = c sum_n dS_mn k_n,      dk_n = c sum_m dS_mn q_m,      dv_n = sum_m P_mn do_m,

the last two summed over the heads that share the key.  A row of dq is one pass over the keys of its
head, a row of dk and dv one pass over the queries of its heads.

Limit: of ``sdc_guard.bounds.attention`` (contract), computed beside the row: with delta and g as in
:mod:`sdc_guard_kernels.attention_rows` for ``|s - lse|``, ``a = |do||v| + sum|do o|``,

    w   = (1 + g)(f a P + 2 u |dS| + 2 Dv eta P)
    E   = (g + v)|dS| + w + eta_v + 2 tiny (|dP - D| + a) + eta + phi ((1 + g)|dS| + w)
    |dq^ - dq| <= |c| (sum E |k| (1 + o) + o sum|dS||k|) + A,           dk likewise with q
    |dv^ - dv| <= (sum P |do| (g (1 + phi) + phi + v))(1 + o) + o sum P |do| + flush sum|do| + A

plus the rounding to the stored format.  u holds the 2^-53 of an evaluation by these formulas in any
order; limits are enlarged by 2^-30 for the rounding of their own evaluation.

Not judged: rows whose operands, saved output or log-sum-exp are not finite, where a product or
``a`` reaches half the accumulator's range, or where a score that counts errs by more than 12.

Grid: one program per sampled row.  Memory per row: dq reads keys and values of its head; dk and dv
read queries, incoming gradient, output and log-sum-exp of their heads, once each.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sdc_guard_kernels.attention_rows import (
    TILE,
    Operands,
    block_of,
    geometry,
    growth,
    row_scores,
)
from sdc_guard_kernels.rows import widened
from sdc_guard_kernels.sampling import SEED_BIT, stratum
from sdc_guard_kernels.verdict import note


class GradientFactors(NamedTuple):
    """The numbers of the limits; ``order``, ``absolute``: o and A, of dq, and of dk and dv."""

    scale: float
    score: float
    u: float
    largest_product: float
    phi: float
    difference: float
    underflow: float
    v: float
    floor: float
    tiny: float
    order_q: float
    absolute_q: float
    order_k: float
    absolute_k: float
    absolute_v: float
    flush: float
    stored_u: float
    tail: float
    largest: float


class Saved(NamedTuple):
    """``grad`` and ``out`` [B, H, M, Dv], ``lse`` [B, H, M' >= M] or [B, H, M', 1]."""

    grad: Tensor
    out: Tensor
    lse: Tensor


class Plan(NamedTuple):
    """What the launches need besides their operands; made once for shapes and strides."""

    table: Tensor
    factors: Tensor
    num_query_rows: int
    num_key_rows: int
    causal: bool
    block: int
    block_d: int
    block_v: int


@triton.jit
def _difference(s, delta, lse, dp, abs_dp, d, abs_d, factor_ptr):  # type: ignore[no-untyped-def]
    """For a row of pairs: ``P``, ``P g``, ``dS / c``, its error E, and 1 where nothing holds."""
    u = tl.load(factor_ptr + 2)
    counts = s > float("-inf")
    distance = tl.where(counts, lse - s, 0.0)
    p = tl.where(counts, tl.exp(-distance), 0.0)
    g = growth(delta + u * tl.abs(distance))
    difference = dp - d
    bound = abs_dp + abs_d
    ds = p * difference
    size = tl.abs(ds)
    wide = tl.load(factor_ptr + 5) * bound * p + 2.0 * u * size + tl.load(factor_ptr + 6) * p
    wide = (1.0 + g) * wide
    error = (g + tl.load(factor_ptr + 7)) * size + wide + tl.load(factor_ptr + 8)
    error += 2.0 * tl.load(factor_ptr + 9) * (tl.abs(difference) + bound)
    error += tl.load(factor_ptr + 4) * ((1.0 + g) * size + wide)
    near = counts & (distance <= 2.0 * delta + 1500.0)
    lost = (near & ((delta <= 12.0) == 0)).to(tl.int32)
    lost |= (bound < tl.load(factor_ptr + 3)).to(tl.int32) == 0
    return p, p * g, ds, error, lost


@triton.jit
def _note_row(  # type: ignore[no-untyped-def]
    record_ptr, factor_ptr, got, exact, limit, magnitude, row, judged
):
    """Round the limit to the stored format and note the verdict of a row of elements."""
    largest = tl.load(factor_ptr + 18)
    judged = judged & (magnitude + limit < largest)
    limit += tl.load(factor_ptr + 16) * (tl.abs(exact) + limit) + tl.load(factor_ptr + 17)
    limit *= 1.0 + 1.0 / 1073741824
    judged = judged & (tl.abs(exact) + limit < largest)
    note(record_ptr, tl.abs(widened(got).to(tl.float64) - exact), limit, row, judged)


@triton.jit  # type: ignore[untyped-decorator]
def _query_rows_kernel(  # type: ignore[no-untyped-def]
    query_ptr,
    key_ptr,
    value_ptr,
    mask_ptr,
    out_ptr,
    lse_ptr,
    grad_ptr,
    dq_ptr,
    table_ptr,
    factor_ptr,
    record_ptr,
    seed,
    num_samples,
    CAUSAL: tl.constexpr,
    HAS_MASK: tl.constexpr,
    BLOCK: tl.constexpr,
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
    lane = tl.arange(0, BLOCK).to(tl.int64)
    d = tl.arange(0, BLOCK_D).to(tl.int64)
    e = tl.arange(0, BLOCK_V).to(tl.int64)
    at = b * tl.load(table_ptr + 7) + h * tl.load(table_ptr + 8) + m * tl.load(table_ptr + 9)
    q = tl.load(query_ptr + at + d * tl.load(table_ptr + 10), mask=d < head_size, other=0.0)
    q = widened(q).to(tl.float64)
    at = b * tl.load(table_ptr + 23) + h * tl.load(table_ptr + 24) + m * tl.load(table_ptr + 25)
    o = tl.load(out_ptr + at + e * tl.load(table_ptr + 26), mask=e < value_size, other=0.0)
    at = b * tl.load(table_ptr + 30) + h * tl.load(table_ptr + 31) + m * tl.load(table_ptr + 32)
    do = tl.load(grad_ptr + at + e * tl.load(table_ptr + 33), mask=e < value_size, other=0.0)
    do = widened(do).to(tl.float64)
    at = b * tl.load(table_ptr + 27) + h * tl.load(table_ptr + 28) + m * tl.load(table_ptr + 29)
    lse = widened(tl.load(lse_ptr + at)).to(tl.float64)
    own = do * widened(o).to(tl.float64)
    row_dot = tl.sum(own, 0)
    abs_dot = tl.sum(tl.abs(own), 0)
    keys = b * tl.load(table_ptr + 11) + shared * tl.load(table_ptr + 12)
    keys = keys + (d * tl.load(table_ptr + 14))[None, :]
    values = b * tl.load(table_ptr + 15) + shared * tl.load(table_ptr + 16)
    values = values + (e * tl.load(table_ptr + 18))[None, :]
    masks = b * tl.load(table_ptr + 19) + h * tl.load(table_ptr + 20) + m * tl.load(table_ptr + 21)

    largest_product = tl.load(factor_ptr + 3)
    exact = tl.zeros((BLOCK_D,), dtype=tl.float64)
    size = tl.zeros((BLOCK_D,), dtype=tl.float64)
    error = tl.zeros((BLOCK_D,), dtype=tl.float64)
    largest = tl.zeros((BLOCK,), dtype=tl.float64)
    lost = tl.zeros((BLOCK,), dtype=tl.int32)
    lost |= (tl.abs(lse) < float("inf")).to(tl.int32) == 0
    # Not `range`: its bound would have to be a launch argument in the interpreter of 3.6.
    start = num_keys * 0
    while start < num_keys:
        n = start + lane
        exists = n < num_keys
        k = widened(tl.load(key_ptr + keys + (n * tl.load(table_ptr + 13))[:, None],
                    mask=exists[:, None] & (d < head_size)[None, :], other=0.0)).to(tl.float64)
        v = widened(tl.load(value_ptr + values + (n * tl.load(table_ptr + 17))[:, None],
                    mask=exists[:, None] & (e < value_size)[None, :], other=0.0)).to(tl.float64)
        addend = tl.zeros((BLOCK,), dtype=tl.float64)
        if HAS_MASK:
            addend = widened(tl.load(mask_ptr + masks + n * tl.load(table_ptr + 22), mask=exists,
                             other=0.0)).to(tl.float64)
        seen = exists & (n <= m) if CAUSAL else exists
        s, delta, largest_here = row_scores(q, k, addend, seen, factor_ptr)
        lost |= ((largest_here < largest_product) & (s < float("inf"))).to(tl.int32) == 0
        product = v * do[None, :]
        _p, _pg, ds, wrong, unknown = _difference(
            s, delta, lse, tl.sum(product, 1), tl.sum(tl.abs(product), 1), row_dot, abs_dot,
            factor_ptr)
        lost |= unknown
        # Lanes without a key multiply keys of 0.
        exact += tl.sum(ds[:, None] * k, 0)
        size += tl.sum(tl.abs(ds)[:, None] * tl.abs(k), 0)
        error += tl.sum(wrong[:, None] * tl.abs(k), 0)
        largest = tl.maximum(largest, tl.abs(ds))
        start += BLOCK
    scale = tl.abs(tl.load(factor_ptr))
    order = tl.load(factor_ptr + 10)
    limit = scale * (error * (1.0 + order) + order * size) + tl.load(factor_ptr + 11)
    at = b * tl.load(table_ptr + 34) + h * tl.load(table_ptr + 35) + m * tl.load(table_ptr + 36)
    got = tl.load(dq_ptr + at + d * tl.load(table_ptr + 37), mask=d < head_size, other=0.0)
    _note_row(record_ptr, factor_ptr, got, exact * tl.load(factor_ptr), limit,
              scale * size + tl.max(largest, 0), row + tl.zeros_like(d),
              (tl.max(lost, 0) == 0) & (d < head_size))


@triton.jit  # type: ignore[untyped-decorator]
def _key_rows_kernel(  # type: ignore[no-untyped-def]
    query_ptr,
    key_ptr,
    value_ptr,
    mask_ptr,
    out_ptr,
    lse_ptr,
    grad_ptr,
    dk_ptr,
    dv_ptr,
    table_ptr,
    factor_ptr,
    dk_record_ptr,
    dv_record_ptr,
    seed,
    num_samples,
    CAUSAL: tl.constexpr,
    HAS_MASK: tl.constexpr,
    HAS_DK: tl.constexpr,
    HAS_DV: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    row, _ = stratum(seed, tl.program_id(0).to(tl.int64), num_samples, tl.load(table_ptr + 46))
    queries, num_keys = tl.load(table_ptr + 2), tl.load(table_ptr + 3)
    head_size, value_size = tl.load(table_ptr + 4), tl.load(table_ptr + 5)
    sharing = tl.load(table_ptr + 6)
    key_heads = tl.load(table_ptr + 1) // sharing
    n = row % num_keys
    shared = row // num_keys % key_heads
    b = row // (num_keys * key_heads)
    lane = tl.arange(0, BLOCK).to(tl.int64)
    d = tl.arange(0, BLOCK_D).to(tl.int64)
    e = tl.arange(0, BLOCK_V).to(tl.int64)
    key_at = b * tl.load(table_ptr + 11) + shared * tl.load(table_ptr + 12)
    key_at += n * tl.load(table_ptr + 13)
    k = tl.load(key_ptr + key_at + d * tl.load(table_ptr + 14), mask=d < head_size, other=0.0)
    k = widened(k).to(tl.float64)
    value_at = b * tl.load(table_ptr + 15) + shared * tl.load(table_ptr + 16)
    value_at += n * tl.load(table_ptr + 17)
    v = tl.load(value_ptr + value_at + e * tl.load(table_ptr + 18), mask=e < value_size, other=0.0)
    v = widened(v).to(tl.float64)

    largest_product, phi = tl.load(factor_ptr + 3), tl.load(factor_ptr + 4)
    dk = tl.zeros((BLOCK_D,), dtype=tl.float64)
    dk_size = tl.zeros((BLOCK_D,), dtype=tl.float64)
    dk_error = tl.zeros((BLOCK_D,), dtype=tl.float64)
    dv = tl.zeros((BLOCK_V,), dtype=tl.float64)
    dv_size = tl.zeros((BLOCK_V,), dtype=tl.float64)
    dv_error = tl.zeros((BLOCK_V,), dtype=tl.float64)
    abs_grad = tl.zeros((BLOCK_V,), dtype=tl.float64)
    largest = tl.zeros((BLOCK,), dtype=tl.float64)
    lost = tl.zeros((BLOCK,), dtype=tl.int32)
    # One loop over the queries of all heads that share the key.
    start = sharing * queries * 0
    while start < sharing * queries:
        index = start + lane
        exists = index < sharing * queries
        m = index % queries
        h = shared * sharing + index // queries
        wide = exists[:, None] & (d < head_size)[None, :]
        wide_v = exists[:, None] & (e < value_size)[None, :]
        at = b * tl.load(table_ptr + 7) + h * tl.load(table_ptr + 8) + m * tl.load(table_ptr + 9)
        at = at[:, None] + (d * tl.load(table_ptr + 10))[None, :]
        q = widened(tl.load(query_ptr + at, mask=wide, other=0.0)).to(tl.float64)
        at = b * tl.load(table_ptr + 23) + h * tl.load(table_ptr + 24) + m * tl.load(table_ptr + 25)
        at = at[:, None] + (e * tl.load(table_ptr + 26))[None, :]
        o = widened(tl.load(out_ptr + at, mask=wide_v, other=0.0)).to(tl.float64)
        at = b * tl.load(table_ptr + 30) + h * tl.load(table_ptr + 31) + m * tl.load(table_ptr + 32)
        at = at[:, None] + (e * tl.load(table_ptr + 33))[None, :]
        do = widened(tl.load(grad_ptr + at, mask=wide_v, other=0.0)).to(tl.float64)
        at = b * tl.load(table_ptr + 27) + h * tl.load(table_ptr + 28) + m * tl.load(table_ptr + 29)
        lse = widened(tl.load(lse_ptr + at, mask=exists, other=0.0)).to(tl.float64)
        addend = tl.zeros((BLOCK,), dtype=tl.float64)
        if HAS_MASK:
            at = b * tl.load(table_ptr + 19) + h * tl.load(table_ptr + 20)
            at += m * tl.load(table_ptr + 21) + n * tl.load(table_ptr + 22)
            addend = widened(tl.load(mask_ptr + at, mask=exists, other=0.0)).to(tl.float64)
        seen = exists & (n <= m) if CAUSAL else exists
        s, delta, largest_here = row_scores(k, q, addend, seen, factor_ptr)
        lost |= ((largest_here < largest_product) & (s < float("inf"))).to(tl.int32) == 0
        lost |= (tl.abs(lse) < float("inf")).to(tl.int32) == 0
        product, own = do * v[None, :], do * o
        p, pg, ds, wrong, unknown = _difference(
            s, delta, lse, tl.sum(product, 1), tl.sum(tl.abs(product), 1), tl.sum(own, 1),
            tl.sum(tl.abs(own), 1), factor_ptr)
        lost |= unknown
        dk += tl.sum(ds[:, None] * q, 0)
        dk_size += tl.sum(tl.abs(ds)[:, None] * tl.abs(q), 0)
        dk_error += tl.sum(wrong[:, None] * tl.abs(q), 0)
        dv += tl.sum(p[:, None] * do, 0)
        dv_size += tl.sum(p[:, None] * tl.abs(do), 0)
        grown = pg * (1.0 + phi) + p * (phi + tl.load(factor_ptr + 7))
        dv_error += tl.sum(grown[:, None] * tl.abs(do), 0)
        abs_grad += tl.sum(tl.abs(do), 0)
        largest = tl.maximum(largest, tl.abs(ds))
        start += BLOCK
    known = tl.max(lost, 0) == 0
    order = tl.load(factor_ptr + 12)
    if HAS_DK:
        scale = tl.abs(tl.load(factor_ptr))
        limit = scale * (dk_error * (1.0 + order) + order * dk_size) + tl.load(factor_ptr + 13)
        dk_at = b * tl.load(table_ptr + 38) + shared * tl.load(table_ptr + 39)
        dk_at += n * tl.load(table_ptr + 40)
        got = tl.load(dk_ptr + dk_at + d * tl.load(table_ptr + 41), mask=d < head_size, other=0.0)
        # Each head has a largest dS of its own.
        _note_row(dk_record_ptr, factor_ptr, got, dk * tl.load(factor_ptr), limit,
                  scale * dk_size + tl.max(largest, 0) * sharing, row + tl.zeros_like(d),
                  known & (d < head_size))
    if HAS_DV:
        limit = dv_error * (1.0 + order) + order * dv_size + tl.load(factor_ptr + 15) * abs_grad
        limit += tl.load(factor_ptr + 14)
        dv_at = b * tl.load(table_ptr + 42) + shared * tl.load(table_ptr + 43)
        dv_at += n * tl.load(table_ptr + 44)
        got = tl.load(dv_ptr + dv_at + e * tl.load(table_ptr + 45), mask=e < value_size, other=0.0)
        _note_row(dv_record_ptr, factor_ptr, got, dv, limit, dv_size, row + tl.zeros_like(e),
                  known & (e < value_size))


def plan_gradients(
    operands: Operands, saved: Saved, gradients: tuple[Tensor | None, ...],
    factors: GradientFactors, *, causal: bool, num_samples: int,
) -> Plan:
    """The plan of a check of dq, dk and dv (each in the shape of its operand, or None)."""
    query, key, value, _ = operands
    query_rows, key_rows = (int(t.shape[0] * t.shape[1] * t.shape[2]) for t in (query, key))
    none = (0, 0, 0, 0)
    strides = [s for t in gradients for s in (none if t is None else t.stride())]
    table = [query_rows, *geometry(operands), *saved.out.stride(), *saved.lse.stride()[:3],
             *saved.grad.stride(), *strides, key_rows]
    block_d, block_v = block_of(query.shape[3]), block_of(value.shape[3])
    block = max(1, min(128, TILE // max(block_d, block_v)))
    return Plan(
        torch.tensor(table, dtype=torch.int64, device=query.device),
        torch.tensor(factors, dtype=torch.float64, device=query.device),
        min(query_rows, num_samples), min(key_rows, num_samples), causal, block, block_d, block_v)


def check_query_rows(
    plan: Plan, operands: Operands, saved: Saved, dq: Tensor, record: Tensor, seed: int
) -> None:
    """Judge sampled rows of the queries' gradient; the record's index is the row."""
    query, key, value, mask = operands
    _query_rows_kernel[(plan.num_query_rows,)](
        query, key, value, query if mask is None else mask, saved.out, saved.lse, saved.grad, dq,
        plan.table, plan.factors, record, seed | SEED_BIT, plan.num_query_rows,
        CAUSAL=plan.causal, HAS_MASK=mask is not None, BLOCK=plan.block, BLOCK_D=plan.block_d,
        BLOCK_V=plan.block_v, num_warps=8)


def check_key_rows(
    plan: Plan, operands: Operands, saved: Saved, dk: Tensor | None, dv: Tensor | None,
    dk_record: Tensor | None, dv_record: Tensor | None, seed: int,
) -> None:
    """Judge sampled rows of the gradients of keys and values; the record's index is the row."""
    query, key, value, mask = operands
    record = dk_record if dk_record is not None else dv_record
    _key_rows_kernel[(plan.num_key_rows,)](
        query, key, value, query if mask is None else mask, saved.out, saved.lse, saved.grad,
        key if dk is None else dk, value if dv is None else dv, plan.table, plan.factors,
        record if dk_record is None else dk_record, record if dv_record is None else dv_record,
        seed | SEED_BIT, plan.num_key_rows, CAUSAL=plan.causal, HAS_MASK=mask is not None,
        HAS_DK=dk is not None, HAS_DV=dv is not None, BLOCK=plan.block, BLOCK_D=plan.block_d,
        BLOCK_V=plan.block_v, num_warps=8)
