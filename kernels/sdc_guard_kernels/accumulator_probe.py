"""Dot products by ``tl.dot``, one for each pair of rows: the answers of a device that is probed.

    out[t] = sum_k a[t, k] b[t, k],    t < T

A program loads TILE rows of a and of b, forms the product [TILE, TILE] of the first with the
transposed second in *one* ``tl.dot`` of inner size LENGTH (so the matrix unit is the only thing
that adds) and keeps its diagonal.  The diagonal is picked by adding zeros, which is exact, and
signed zeros aside changes no bit; what stands beside the diagonal is replaced, not multiplied, so a
NaN there cannot reach it.

There is no bound: what the sum does with its terms is what is asked.  ``tile=64`` is large enough
for Hopper's ``wgmma``, ``tile=16`` takes ``mma``; ``precision`` is ``tl.dot``'s own argument and
matters for float32 only.  In the interpreter ``tl.dot`` is NumPy's product in fp32, and that is
what the answers tell.

Grid: T / TILE programs.  Traffic: one read of a and b, 4 bytes written per pair.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILES = (16, 64)
PRECISIONS = ("ieee", "tf32")
MIN_LENGTH = 32
MAX_LENGTH = 128

_FP8 = tuple(
    getattr(torch, name) for name in ("float8_e4m3fn", "float8_e5m2") if hasattr(torch, name)
)
DTYPES: tuple[torch.dtype, ...] = (torch.float32, torch.float16, torch.bfloat16, *_FP8)


@triton.jit  # type: ignore[untyped-decorator]
def _paired_dots_kernel(  # type: ignore[no-untyped-def]
    a_ptr,
    b_ptr,
    out_ptr,
    num_pairs,
    length,
    stride_a_row,
    stride_a_col,
    stride_b_row,
    stride_b_col,
    TILE: tl.constexpr,
    LENGTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    lane = tl.arange(0, TILE)
    # Cast before multiplying: a row times its stride may pass 2^31.
    row = tl.program_id(0).to(tl.int64) * TILE + lane.to(tl.int64)
    col = tl.arange(0, LENGTH).to(tl.int64)
    exists = (row < num_pairs)[:, None] & (col < length)[None, :]
    a = tl.load(
        a_ptr + row[:, None] * stride_a_row + col[None, :] * stride_a_col, mask=exists, other=0.0
    )
    b = tl.load(
        b_ptr + row[:, None] * stride_b_row + col[None, :] * stride_b_col, mask=exists, other=0.0
    )
    product = tl.dot(a, tl.trans(b), input_precision=PRECISION, out_dtype=tl.float32)
    diagonal = tl.where(lane[:, None] == lane[None, :], product, 0.0)
    tl.store(out_ptr + row, tl.sum(diagonal, axis=1), mask=row < num_pairs)


def paired_dots(a_TK: Tensor, b_TK: Tensor, *, tile: int = 64, precision: str = "ieee") -> Tensor:
    """``sum_k a[t, k] b[t, k]`` for every t by ``tl.dot``, float32 [T].

    Args:
        a_TK, b_TK: float32, float16, bfloat16 or float8, [T, K] with K <= MAX_LENGTH, any strides.
        tile: rows of a matrix product, 16 or 64.
        precision: ``"ieee"`` or ``"tf32"``, how float32 operands are read.

    Raises:
        ValueError: shapes differ, are no matrices or too long, or a word is unknown.
        TypeError: the dtypes differ or are none of these.
    """
    if a_TK.dim() != 2 or a_TK.shape != b_TK.shape or a_TK.shape[1] > MAX_LENGTH:
        raise ValueError(
            f"paired_dots takes two matrices of one shape with at most {MAX_LENGTH} columns, got "
            f"{tuple(a_TK.shape)} and {tuple(b_TK.shape)}"
        )
    if a_TK.dtype != b_TK.dtype or a_TK.dtype not in DTYPES:
        raise TypeError(f"paired_dots takes one dtype of {DTYPES}, got {a_TK.dtype}, {b_TK.dtype}")
    if tile not in TILES or precision not in PRECISIONS:
        raise ValueError(f"tile {tile!r} is not in {TILES} or {precision!r} not in {PRECISIONS}")
    num_pairs, length = a_TK.shape
    # An answer that no program wrote must not pass for one, so it starts as NaN.
    out = torch.full((num_pairs,), torch.nan, dtype=torch.float32, device=a_TK.device)
    if num_pairs == 0:
        return out
    _paired_dots_kernel[(triton.cdiv(num_pairs, tile),)](
        a_TK,
        b_TK,
        out,
        num_pairs,
        length,
        a_TK.stride(0),
        a_TK.stride(1),
        b_TK.stride(0),
        b_TK.stride(1),
        TILE=tile,
        LENGTH=max(MIN_LENGTH, triton.next_power_of_2(length)),
        PRECISION=precision,
    )
    return out
