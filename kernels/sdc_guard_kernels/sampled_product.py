"""Chosen elements of a product computed again in float64, with their limits and the verdict.

    C[b, m, n] = beta C0[b, m, n] + alpha sum_k A[b, m, k] B[b, k, n]

for ``num_samples`` elements drawn from a seed: sample i is the element whose place, in C order of
C's shape, is ``r mod (number of elements)``, r being 63 bits of Philox 4x32-10 (Salmon et al. 2011)
with the seed as its key and i as its counter.  The device draws, so a launch costs the host
nothing; an element is drawn twice now and then.  (A place is more likely than another by at most
the share ``elements / 2^63``.)

An element is judged by the limit of the operation itself,

    error = abs_share abs + a_share a + b_share b + addend_share |C0| + constant
    limit = error + result_roundoff (|expected| + error) + result_constant,

abs = sum |A B|, a = sum |A|, b = sum |B| along its row and column; the caller gives the shares
(:class:`SampleNumbers`), and adds to ``abs_share`` what this kernel itself errs by.

Own error.  All is computed in float64, u = 2^-53: products (exact for operands of up to 24 bits),
the tiles of BLOCK_K numbers one upon the other, and then, in any order, the lanes of a tile.  So

    |computed - exact| <= gamma_n(u) sum |A B| + K 2^-1074,  n = min(K, tiles + BLOCK_K - 1),

see :func:`own_error`; the addend, the factors and the limit are 6 more roundings (Higham,
*Accuracy and Stability of Numerical Algorithms*, 2002, section 3.1).  A fused multiply-add only
drops a rounding, so contraction stays on.

Not judged: an element whose definition is not finite, and one for which a permitted evaluation may
overflow: where ``max(|alpha|, 1) abs + |beta C0|``, or ``factor_reach max(|a_k|, |b_k|)``, or
``|expected| + limit`` is not below ``largest``.

Traffic: a row of A and a column of B per sample.  Grid: one program per SAMPLES_PER_PROGRAM
samples.  Premises: round to nearest, subnormals kept.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sdc_guard_kernels.product_checksum import strides_within
from sdc_guard_kernels.rows import widened
from sdc_guard_kernels.verdict import note

WIDEST_BLOCK = 1024
SMALLEST_BLOCK = 16
SAMPLES_PER_PROGRAM = 2


class SampleNumbers(NamedTuple):
    """What the limit of an element is made of; :meth:`tensor` puts it on the device once."""

    alpha: float
    beta: float
    abs_share: float
    a_share: float
    b_share: float
    addend_share: float
    constant: float
    result_roundoff: float
    result_constant: float
    largest: float
    factor_reach: float

    def tensor(self, device: torch.device) -> Tensor:
        """float64 [11], in the order of the fields."""
        return torch.tensor(self, dtype=torch.float64, device=device)


@triton.jit(do_not_specialize=["seed"])  # type: ignore[untyped-decorator]
def _sample_kernel(  # type: ignore[no-untyped-def]
    a_ptr, b_ptr, c_ptr, addend_ptr, numbers_ptr, record_ptr, seed, num_samples,
    num_rows, num_inner, num_cols, num_elements,
    a_stride_batch, a_stride_row, a_stride_inner, b_stride_batch, b_stride_inner, b_stride_col,
    c_stride_batch, c_stride_row, c_stride_col,
    addend_stride_batch, addend_stride_row, addend_stride_col,
    SAMPLES: tl.constexpr, TILES_K: tl.constexpr, BLOCK_K: tl.constexpr, HAS_ADDEND: tl.constexpr,
):
    sample = tl.program_id(0) * SAMPLES + tl.arange(0, SAMPLES)
    drawn = sample < num_samples
    high, low, _third, _fourth = tl.randint4x(seed, sample)
    high = high.to(tl.int64) & 0x7FFFFFFF
    place = ((high << 32) | (low.to(tl.int64) & 0xFFFFFFFF)) % num_elements
    # In 64 bits from here on: a place times a stride passes 2^31 in a matrix of a few GB.
    col = place % num_cols
    row = (place // num_cols) % num_rows
    batch = place // num_cols // num_rows

    a_row = a_ptr + batch * a_stride_batch + row * a_stride_row
    b_col = b_ptr + batch * b_stride_batch + col * b_stride_col
    lane = tl.arange(0, BLOCK_K).to(tl.int64)
    total = tl.zeros((SAMPLES, BLOCK_K), dtype=tl.float64)
    abs_total = tl.zeros((SAMPLES, BLOCK_K), dtype=tl.float64)
    a_total = tl.zeros((SAMPLES, BLOCK_K), dtype=tl.float64)
    b_total = tl.zeros((SAMPLES, BLOCK_K), dtype=tl.float64)
    largest = tl.zeros((SAMPLES, BLOCK_K), dtype=tl.float64)
    # The trip count is a compile-time constant: the interpreter of triton 3.6 takes no other.
    for tile in range(TILES_K):
        inner = tile * BLOCK_K + lane
        exists = drawn[:, None] & (inner < num_inner)[None, :]
        a = tl.load(a_row[:, None] + inner[None, :] * a_stride_inner, mask=exists, other=0.0)
        b = tl.load(b_col[:, None] + inner[None, :] * b_stride_inner, mask=exists, other=0.0)
        a = widened(a).to(tl.float64)
        b = widened(b).to(tl.float64)
        term = a * b
        total += term
        abs_total += tl.abs(term)
        a_total += tl.abs(a)
        b_total += tl.abs(b)
        # The interpreter warns of a maximum of nothing but NaN.
        factor = tl.maximum(tl.abs(a), tl.abs(b))
        largest = tl.maximum(largest, tl.where(factor == factor, factor, 0.0))

    alpha = tl.load(numbers_ptr)
    beta = tl.load(numbers_ptr + 1)
    size = tl.sum(abs_total, axis=1)
    expected = alpha * tl.sum(total, axis=1)
    error = tl.load(numbers_ptr + 2) * size + tl.load(numbers_ptr + 3) * tl.sum(a_total, axis=1)
    error += tl.load(numbers_ptr + 4) * tl.sum(b_total, axis=1) + tl.load(numbers_ptr + 6)
    reach = tl.maximum(tl.abs(alpha), 1.0) * size
    if HAS_ADDEND:
        at = batch * addend_stride_batch + row * addend_stride_row + col * addend_stride_col
        addend = widened(tl.load(addend_ptr + at, mask=drawn, other=0.0)).to(tl.float64)
        expected += beta * addend
        error += tl.load(numbers_ptr + 5) * tl.abs(addend)
        reach += tl.abs(beta * addend)
    reach = tl.maximum(reach, tl.load(numbers_ptr + 10) * tl.max(largest, axis=1))
    limit = error + tl.load(numbers_ptr + 7) * (tl.abs(expected) + error)
    limit += tl.load(numbers_ptr + 8)
    bound = tl.load(numbers_ptr + 9)
    judged = drawn & (reach < bound) & (tl.abs(expected) + limit < bound)
    c_place = batch * c_stride_batch + row * c_stride_row + col * c_stride_col
    c = widened(tl.load(c_ptr + c_place, mask=drawn, other=0.0)).to(tl.float64)
    note(record_ptr, tl.abs(c - expected), limit, place, judged)


def own_error(num_inner: int) -> float:
    """The share of ``sum |A B|`` by which the kernel's own sum errs, the roundings of the addend
    and of the limit included; at most ``K 2^-1074`` comes on top, for products that underflow."""
    block = _block(num_inner)
    tiles = max(1, -(-num_inner // block))
    n = min(num_inner, tiles + block - 1) + 6
    return n * 2.0**-53 / (1.0 - n * 2.0**-53) * (1.0 + 2.0**-40)


def sampled_product(
    a: Tensor, b: Tensor, c: Tensor, numbers: Tensor, record: Tensor, *, seed: int,
    num_samples: int, addend: Tensor | None = None,
) -> None:
    """Judge ``num_samples`` elements of ``c`` and leave the verdict in ``record``, without waiting.

    Args:
        a, b, c: [M, K], [K, N], [M, N], or all with a batch dimension before; float16, bfloat16,
            float32 or float64, any strides.
        numbers: :meth:`SampleNumbers.tensor`.
        record: int64 [2], see :mod:`sdc_guard_kernels.verdict`.
        seed: 63 bits.
        addend: C0 of any shape that broadcasts to ``c``'s, or None.

    Raises:
        ValueError: the shapes do not make a product.
    """
    num_rows, num_inner = a.shape[-2:]
    num_cols = b.shape[-1]
    if c.shape != (*a.shape[:-1], num_cols) or b.shape != (*a.shape[:-2], num_inner, num_cols):
        raise ValueError(f"no product: a {tuple(a.shape)}, b {tuple(b.shape)}, c {tuple(c.shape)}")
    num_elements = c.numel()
    if num_elements == 0 or num_samples == 0:
        return
    batched = a.dim() == 3
    block_k = _block(num_inner)
    _sample_kernel[(triton.cdiv(num_samples, SAMPLES_PER_PROGRAM),)](
        a, b, c, c if addend is None else addend, numbers, record, seed, num_samples,
        num_rows, num_inner, num_cols, num_elements,
        a.stride(0) if batched else 0, a.stride(-2), a.stride(-1),
        b.stride(0) if batched else 0, b.stride(-2), b.stride(-1),
        c.stride(0) if batched else 0, c.stride(-2), c.stride(-1),
        *((0, 0, 0) if addend is None else strides_within(addend, c)),
        SAMPLES=SAMPLES_PER_PROGRAM, TILES_K=triton.cdiv(num_inner, block_k), BLOCK_K=block_k,
        HAS_ADDEND=addend is not None,
        num_warps=4,
    )


def _block(num_inner: int) -> int:
    return min(WIDEST_BLOCK, max(SMALLEST_BLOCK, int(triton.next_power_of_2(num_inner))))
