"""How the row kernels address their operands, judge an element, and which format they work in.

A *row* is what an operator reduces: all elements along one dimension (softmax over any dimension)
or along the last few, merged into one (norms).  What is left of the shape is merged as far as the
strides of every operand, and the C order in which a record numbers the elements, allow; at most
three dimensions (r0, r1, r2) may remain.  A program has the rows of one (r0, r1) and BLOCK_ROWS
values of r2, so addresses along r2 and along the columns stay plain progressions and are read in
whole lines whichever of the two lies side by side in memory.

*Working format.*  Row statistics are folded in float64 always.  Elements are worked on in float64
too, unless the result is a half format: its last rounding, at least 2^-12, is over a thousand
times float32's, so float32 is enough there and costs a device with slow float64 nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sdc_guard_kernels.strided import widened as widened

TILE = 4096
"""Elements that a program holds at a time."""
NUM_WARPS = 8
U64 = 2.0**-53
HALVES = (torch.float16, torch.bfloat16)
FLOATS = (*HALVES, torch.float32, torch.float64)


class Work(NamedTuple):
    """The working format of a kernel's elements.

    ``u``: unit roundoff.  ``exp_error``: relative error of an exponential.  ``argument_error``:
    relative error of its argument on the way.  ``tiny``: what may be flushed to zero.  ``eta``:
    spacing of subnormals.
    """

    u: float
    exp_error: float
    argument_error: float
    tiny: float
    eta: float


# tl.exp of float64 is libdevice's, documented with 1 ulp = 2 u at most; doubled.
FLOAT64 = Work(U64, 4 * U64, 0.0, 2.0**-1022, 2.0**-1074)
# tl.exp of float32 is ex2.approx of the product with log2(e): the constant and the product are
# rounded once each (2 u of the argument), and ex2.approx errs by 2^-22 relatively at most (PTX ISA,
# ex2); doubled, and one more u for the argument's own second order.
FLOAT32 = Work(2.0**-24, 2.0**-21, 3 * 2.0**-24, 2.0**-126, 2.0**-149)
LOG_ERROR = 4 * U64
"""tl.log of float64 is libdevice's, documented with 1 ulp at most; doubled."""


def work_of(result: torch.dtype) -> Work:
    """The working format for results of a dtype."""
    return FLOAT32 if result in HALVES else FLOAT64


def triton_type(work: Work) -> tl.dtype:
    """The working format as a kernel's argument."""
    return tl.float32 if work is FLOAT32 else tl.float64


class Rows(NamedTuple):
    """Rows of ``num_cols`` elements: sizes (r0, r1, r2) of what is left, and for each operand its
    four strides (r0, r1, r2, column)."""

    sizes: tuple[int, int, int]
    num_cols: int
    strides: tuple[tuple[int, int, int, int], ...]

    @property
    def num_rows(self) -> int:
        return math.prod(self.sizes)


def c_order(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a contiguous tensor: the numbering of elements in a record."""
    return tuple(math.prod(shape[d + 1:]) for d in range(len(shape)))


def rows_of(
    shape: Sequence[int], columns: Sequence[int], strides: Sequence[Sequence[int]]
) -> Rows | None:
    """Rows along the dimensions ``columns`` of operands of one shape; None where the columns do not
    merge into one dimension, or the others into three.

    Args:
        shape: of all operands, expanded with stride 0 where need be.
        columns: dimensions of a row, in order.
        strides: of each operand, in elements.
    """
    cols = _merged([d for d in columns if shape[d] != 1], shape, strides)
    kept = [d for d in range(len(shape)) if d not in columns and shape[d] != 1]
    rows = _merged(kept, shape, strides)
    if len(cols) > 1 or len(rows) > 3:
        return None
    num_cols, col_strides = cols[0] if cols else (1, (0,) * len(strides))
    rows = [(1, (0,) * len(strides))] * (3 - len(rows)) + rows
    sizes = (rows[0][0], rows[1][0], rows[2][0])
    each = tuple(
        (rows[0][1][i], rows[1][1][i], rows[2][1][i], col_strides[i]) for i in range(len(strides)))
    return Rows(sizes, num_cols, each)


def _merged(
    dims: Sequence[int], shape: Sequence[int], strides: Sequence[Sequence[int]]
) -> list[tuple[int, tuple[int, ...]]]:
    found: list[tuple[int, tuple[int, ...]]] = []
    for d in dims:
        own = tuple(s[d] for s in strides)
        if found and all(a == b * shape[d] for a, b in zip(found[-1][1], own, strict=True)):
            found[-1] = (found[-1][0] * shape[d], own)
        else:
            found.append((shape[d], own))
    return found


class Tile(NamedTuple):
    """What a program holds: BLOCK_ROWS x BLOCK_COLS elements; ``blocks`` programs share an
    (r0, r1)."""

    block_rows: int
    block_cols: int
    blocks: int
    num_programs: int

    def chunks(self, num_cols: int) -> int:
        return -(-num_cols // self.block_cols)

    def end(self, num_cols: int) -> int:
        """Where a loop over the columns ends: known when a kernel is compiled, because triton 3.6's
        interpreter takes no other bound."""
        return self.chunks(num_cols) * self.block_cols


def tile_of(rows: Rows, most: int = TILE) -> Tile:
    """A tile of ``most`` elements at most, a power of 2 of no less than 32, whose long side lies
    along what is side by side in memory."""
    inner, n = rows.sizes[2], max(rows.num_cols, 1)
    sideways = inner > 1 and all(abs(s[3]) > abs(s[2]) for s in rows.strides)
    least_rows = min(32, _power(inner)) if sideways else 1
    block_cols = min(_power(n), most // least_rows)
    block_rows = max(least_rows, min(_power(inner), most // block_cols))
    blocks = -(-inner // block_rows)
    return Tile(block_rows, block_cols, blocks, blocks * rows.sizes[0] * rows.sizes[1])


def _power(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def sum_depth(tile: Tile, num_cols: int) -> int:
    """Roundings on the longest path of a row's float64 sum: any order in a chunk, then chunks one
    after the other."""
    return min(num_cols, tile.block_cols) + tile.chunks(num_cols)


def coefficients(values: Sequence[float], device: torch.device) -> Tensor:
    """Float64 coefficients in device memory: a scalar argument would arrive as float32."""
    return torch.tensor(values, dtype=torch.float64).to(device)


@triton.jit  # type: ignore[untyped-decorator]
def place_of_rows(blocks, R1, BLOCK_ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """(r0, r1, r2) of this program, int64; r2 is a block."""
    program = tl.program_id(0).to(tl.int64)
    outer = program // blocks
    r2 = (program % blocks) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS).to(tl.int64)
    return outer // R1, outer % R1, r2


@triton.jit
def offset_of_rows(r0, r1, r2, s0, s1, s2):  # type: ignore[no-untyped-def]
    """Offsets of the first elements of rows, in elements."""
    return r0 * s0 + r1 * s1 + r2 * s2


