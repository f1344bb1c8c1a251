"""Reductions of tensors of any strides: which program reads what, and in which order.

The dimensions of a reduction are *kept* or *reduced*.  On the host, neighbours in memory are merged
into one where every operand allows it, so most calls have one dimension of either kind; a kernel
takes any number.  Sizes and strides travel as tuples, the innermost dimension first, and an element
is addressed by its flat index in them (:func:`offsets`): kept elements 0 .. K-1, terms 0 .. R-1.

A program holds a tile of ``block_kept`` kept elements and ``block_reduced`` terms, walks
``iterations`` tiles along the terms, and lane j of an element adds up terms j, j + block_reduced,
...  Where the terms lie closer in memory than the kept elements, the terms are the tile's last axis
(*rows*), else the kept elements are (*columns*): neighbouring threads read neighbouring addresses
in both.  What one program leaves of an element is a *split*; where there are few kept elements,
their terms are cut into many splits, which a second launch folds.  Everything here follows from
shapes and strides alone, so the order of evaluation does too; there are no atomics.

``iterations`` is a constant of the compiled kernel; it is rounded up to three significant bits, so
that shapes share compilations.  What is walked in vain is masked and costs no memory traffic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

TILE = 2048
"""Elements of a tile: 16 for each of 128 threads."""
ROW_LANES = 512
COLUMN_LANES = 128
PROGRAMS = 1024
"""Programs that fill a device; fewer kept blocks than this are cut into splits."""
MIN_ITERATIONS = 4
MAX_ITERATIONS = 1024
"""Tiles of a split: not so few that launching them costs more than they do, and few enough that the
sum of a lane keeps its error bound small."""

Sizes = tuple[int, ...]


@triton.jit
def offsets(index, sizes, strides):  # type: ignore[no-untyped-def]
    """Addresses in elements, int64, of flat indices of any shape; the innermost size is first.

    The index is widened before it meets a stride: their product passes 2^31 in a tensor of a few
    GB.  The last size is not asked: a masked index beyond it has an address nobody reads.
    """
    if len(sizes) == 1:
        return index.to(tl.int64) * strides[0]
    rest = index // sizes[0]
    offset = (index % sizes[0]).to(tl.int64) * strides[0]
    for d in tl.static_range(1, len(sizes) - 1):
        offset += (rest % sizes[d]).to(tl.int64) * strides[d]
        rest = rest // sizes[d]
    return offset + rest.to(tl.int64) * strides[len(sizes) - 1]


@triton.jit  # type: ignore[untyped-decorator]
def kept_block(num_kept_blocks, BLOCK: tl.constexpr, INDEX: tl.constexpr):  # type: ignore[no-untyped-def]
    """Indices of this program's kept elements, and its split."""
    program = tl.program_id(0)
    first = (program % num_kept_blocks).to(INDEX) * BLOCK
    return first + tl.arange(0, BLOCK).to(INDEX), (program // num_kept_blocks).to(INDEX)


@triton.jit
def widened(x):  # type: ignore[no-untyped-def]
    """A bfloat16 as the float32 that its bits begin; anything else as it is.  The interpreter's own
    conversion of subnormals is wrong (triton 3.6 to 3.9), and it compares the bits of -0 and 0."""
    if x.dtype.is_bf16():
        x = (x.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    return x


class Group(NamedTuple):
    """Kept or reduced dimensions after merging, innermost first: sizes, and for each operand its
    strides.  There is at least one dimension; where a size is 0 it is the only one."""

    sizes: Sizes
    strides: tuple[Sizes, ...]

    @property
    def num(self) -> int:
        found = 1
        for size in self.sizes:
            found *= size
        return found


def merged(sizes: Sequence[int], strides: Sequence[Sequence[int]]) -> Group:
    """Dimensions in the order of the first operand's strides, merged where one continues the other
    in every operand.

    Args:
        sizes: of the dimensions.
        strides: of each operand, in elements, one for each dimension.
    """
    if 0 in sizes:
        return Group((0,), ((0,),) * len(strides))
    dims = [(tuple(s[d] for s in strides), n) for d, n in enumerate(sizes) if n > 1]
    found: list[tuple[Sizes, int]] = []
    for step, size in sorted(dims):
        if found:
            inner, length = found[-1]
            if step == tuple(s * length for s in inner):
                found[-1] = (inner, length * size)
                continue
        found.append((step, size))
    found = found or [((0,) * len(strides), 1)]
    return Group(tuple(n for _, n in found),
                 tuple(tuple(step[i] for step, _ in found) for i in range(len(strides))))


class Plan(NamedTuple):
    """How one reduction is cut up; see the module's docstring.

    ``kept`` has the strides of the inputs, then of the outputs; ``reduced`` those of the inputs.
    """

    kept: Group
    reduced: Group
    num_kept: int
    num_reduced: int
    block_kept: int
    block_reduced: int
    iterations: int
    num_splits: int
    columns: bool

    @property
    def num_kept_blocks(self) -> int:
        return -(-self.num_kept // self.block_kept)

    @property
    def grid(self) -> tuple[int]:
        return (self.num_kept_blocks * self.num_splits,)

    @property
    def index(self) -> Any:
        """Type of the flat indices: 32 bits where they fit, because they are divided."""
        last_term = self.num_splits * self.iterations * self.block_reduced
        last_kept = self.num_kept_blocks * self.block_kept
        return tl.int32 if max(last_term, last_kept) < 2**31 else tl.int64

    @property
    def packed(self) -> Sizes:
        """Strides of the kept elements in the order of their flat index."""
        found = [1]
        for size in self.kept.sizes[:-1]:
            found.append(found[-1] * size)
        return tuple(found)

    @property
    def constants(self) -> dict[str, Any]:
        """What every reducing kernel is compiled for."""
        return {"BLOCK_KEPT": self.block_kept, "BLOCK_REDUCED": self.block_reduced,
                "ITERATIONS": self.iterations, "REDUCED_AXIS": 0 if self.columns else 1,
                "INDEX": self.index}

    @property
    def fold_constants(self) -> dict[str, Any]:
        """What the kernel that folds the splits is compiled for; its tiles are columns."""
        block_kept, block_splits = _tile(self.num_kept, self.num_splits, columns=True)
        return {"BLOCK_KEPT": block_kept, "BLOCK_SPLITS": block_splits,
                "ITERATIONS": _three_bits(-(-self.num_splits // block_splits)),
                "INDEX": self.index}

    @property
    def fold_grid(self) -> tuple[int]:
        return (-(-self.num_kept // int(self.fold_constants["BLOCK_KEPT"])),)


def plan_reduction(
    shape: Sequence[int],
    dims: Sequence[int],
    inputs: Sequence[Sequence[int]],
    outputs: Sequence[Sequence[int]] = (),
) -> Plan:
    """The plan of a reduction of operands of one shape.

    Args:
        shape: of the operands.
        dims: the reduced dimensions, each once and not negative.
        inputs: strides of each operand, in elements.
        outputs: strides of each result, one for each *kept* dimension.
    """
    kept_dims = [d for d in range(len(shape)) if d not in dims]
    kept = merged([shape[d] for d in kept_dims],
                  [*([s[d] for d in kept_dims] for s in inputs), *outputs])
    reduced = merged([shape[d] for d in dims], [[s[d] for d in dims] for s in inputs])
    kept_step, term_step = (g.strides[0][0] or 2**62 for g in (kept, reduced))
    columns = kept_step < term_step
    num_kept, num_reduced = kept.num, reduced.num
    block_kept, block_reduced = _tile(num_kept, num_reduced, columns=columns)
    tiles = max(1, -(-num_reduced // block_reduced))
    kept_blocks = max(1, -(-num_kept // block_kept))
    splits = min(-(-PROGRAMS // kept_blocks), max(1, tiles // MIN_ITERATIONS))
    splits = max(splits, -(-tiles // MAX_ITERATIONS))
    iterations = _three_bits(-(-tiles // splits))
    return Plan(kept, reduced, num_kept, num_reduced, block_kept, block_reduced, iterations,
                -(-tiles // iterations), columns)


def normalised(x: Tensor, dims: Sequence[int] | None) -> tuple[int, ...]:
    """Dimensions of x, sorted and not negative; all of them for None.

    Raises:
        ValueError: if one is named twice or does not exist.
    """
    rank = x.dim()
    if dims is None:
        return tuple(range(rank))
    found = tuple(sorted(d + rank if d < 0 else d for d in dims))
    if len(set(found)) < len(found) or any(not 0 <= d < rank for d in found):
        raise ValueError(f"dims are {tuple(dims)}, for a tensor of {rank} dimensions")
    return found


def contiguous_strides(sizes: Sequence[int]) -> tuple[int, ...]:
    """Strides of a tensor of these sizes in C order."""
    found = [1]
    for size in reversed(sizes[1:]):
        found.append(found[-1] * size)
    return tuple(reversed(found))[: len(sizes)]


def _tile(num_kept: int, num_reduced: int, *, columns: bool) -> tuple[int, int]:
    """Kept elements and terms of a tile: enough of the last axis for whole lines of memory, the
    rest of the tile for the other one, and what that cannot use for the last axis again."""
    kept, terms = (int(triton.next_power_of_2(max(n, 1))) for n in (num_kept, num_reduced))
    if columns:
        block_terms = min(terms, TILE // min(kept, COLUMN_LANES))
        return min(kept, TILE // block_terms), block_terms
    block_kept = min(kept, TILE // min(terms, ROW_LANES))
    return block_kept, min(terms, TILE // block_kept)


def _three_bits(number: int) -> int:
    """The least number of at most three significant bits that is not smaller."""
    step = 1 << max(0, number.bit_length() - 3)
    return -(-number // step) * step
