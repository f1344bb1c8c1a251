"""The bits of two tensors compared under the undo of a symmetry, which is never materialised.

With ``got`` recomputed and ``held`` the result under test, element i of ``got`` (i a multi-index)
must have the bits of one element of ``held``:

    undone(got[i]) = held[map(i)],      map(i)[d] = start + (i[d] + shift) mod length

``where = (dim, start, length)`` takes a part of ``held``, ``roll = (dim, shift)`` says that along
``dim`` element 0 of ``got`` stands at place ``shift`` of that part, and ``negated`` flips the sign
bit of ``got``.  With ``nans_alike`` two NaNs agree whatever their signs and payloads; with
``zeros_alike`` two zeros agree whatever their signs.  Both ask the bits, not a comparison of
floats: x is a NaN if its bits without the sign exceed those of infinity, and zero if they are 0,
so no flushing of subnormals can make two elements alike.

Error: none.  Everything is integer arithmetic on the elements' bits; no floating instruction is
executed.  Elements of 16 bytes, and complex ones of which parts may be alike, are two words each
and differ if one of the words does.

Verdict.  The record has the layout of :mod:`sdc_guard_kernels.verdict` and the bits that ``note``
would leave for a defect of 1 where an element differs, 0 where none does, and a limit of 0.5:
share 2 or 0, the smallest C-order index in ``got`` that differs, and the number of elements that
differ.  It is made without ``note``, which would divide in float64 for each element.  A record
whose first word is still 0 was not written at all: :func:`difference` refuses to read "equal" from
it.  ``mask``, where wanted, gets one byte per element in C order, 1 where it differs; it starts as
255, so that an element that no program wrote counts as different.

Walk (:mod:`sdc_guard_kernels.index_walk`).  The dimension along which ``held`` has the smallest
stride becomes the columns of a tile, the others, merged, its rows.  Contiguous tensors walk as one
dimension without a division.  A kernel takes 5 merged dimensions; for more, which no operator of a
network makes, one launch is made for each index of the outer ones.  Any strides will do: 0,
overlapping, with an offset; they are 64 bits wide, as is every index.

Grid: at most ``MAX_PROGRAMS`` programs, each of which takes 4^n consecutive tiles of ``TILE``
elements and keeps counts in registers.  Traffic: one read of both tensors, one byte per element
for a mask, and one or two integer atomics per program.  Maximum and addition of integers give one
result in any order, so the record does not depend on the schedule.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sdc_guard_kernels.index_walk import ABSENT, walk
from sdc_guard_kernels.verdict import NO_INDEX, new_records

TILE = 2048
CROSSED_COLS = 32
"""Columns of a tile where ``got`` and ``held`` are fastest along different dimensions."""
MAX_DIMS = 5
MAX_PROGRAMS = 8192
UNWRITTEN = 255

_NOWHERE = tl.constexpr(2**63 - 1)
_WORD = {1: tl.int8, 2: tl.int16, 4: tl.int32, 8: tl.int64}
# The bits of infinity, which no number and every NaN exceeds once the sign is off.
_INFINITY = {
    torch.float16: 0x7C00,
    torch.bfloat16: 0x7F80,
    torch.float32: 0x7F80_0000,
    torch.float64: 0x7FF0_0000_0000_0000,
}
_PART = {
    torch.complex32: torch.float16,
    torch.complex64: torch.float32,
    torch.complex128: torch.float64,
}


class Undo(NamedTuple):
    """How a recomputed tensor lies on the held one; see the module's docstring.

    ``where``: (dimension, start, length) of the part of ``held``, None for all of it.
    ``roll``: (dimension, shift), None for none.  ``negated``, ``nans_alike`` and ``zeros_alike``
    are for floating and complex dtypes.
    """

    where: tuple[int, int, int] | None = None
    roll: tuple[int, int] | None = None
    negated: bool = False
    nans_alike: bool = False
    zeros_alike: bool = False


class Difference(NamedTuple):
    """``num_different`` elements; ``first``: the smallest C-order index of one, 0 if there is none
    and :data:`~sdc_guard_kernels.verdict.NO_INDEX` if beyond 32 bits."""

    num_different: int
    first: int


IDENTITY = Undo()


@triton.jit  # type: ignore[untyped-decorator]
def _along(  # type: ignore[no-untyped-def]
    rest, size, shift, got_stride, held_stride, place_stride, ROLLED: tl.constexpr
):
    """Take the fastest dimension off a flat index: the rest, and what the dimension adds to the
    offsets in ``got`` and ``held`` and to the place."""
    outer = rest // size
    at = rest - outer * size
    held_at = at
    if ROLLED:
        moved = at + shift
        held_at = tl.where(moved < size, moved, moved - size)
    return outer, at * got_stride, held_at * held_stride, at * place_stride


@triton.jit  # type: ignore[untyped-decorator]
def _word_differs(  # type: ignore[no-untyped-def]
    got,
    held,
    SIGN: tl.constexpr,
    MAGNITUDE: tl.constexpr,
    INFINITY: tl.constexpr,
    NEGATED: tl.constexpr,
    NANS_ALIKE: tl.constexpr,
    ZEROS_ALIKE: tl.constexpr,
):
    if NEGATED:
        got = got ^ SIGN
    differs = got != held
    if NANS_ALIKE:
        differs = differs & (((got & MAGNITUDE) <= INFINITY) | ((held & MAGNITUDE) <= INFINITY))
    if ZEROS_ALIKE:
        differs = differs & (((got | held) & MAGNITUDE) != 0)
    return differs


@triton.jit(do_not_specialize=["num_rows", "shift", "size_1", "size_2", "size_3", "size_4"])  # type: ignore[untyped-decorator]
def _compare_kernel(  # type: ignore[no-untyped-def]
    got_ptr,
    held_ptr,
    record_ptr,
    mask_ptr,
    got_base,
    held_base,
    place_base,
    num_rows,
    num_cols,
    shift,
    size_1,
    size_2,
    size_3,
    size_4,
    got_stride_0,
    got_stride_1,
    got_stride_2,
    got_stride_3,
    got_stride_4,
    held_stride_0,
    held_stride_1,
    held_stride_2,
    held_stride_3,
    held_stride_4,
    place_stride_0,
    place_stride_1,
    place_stride_2,
    place_stride_3,
    place_stride_4,
    NUM_DIMS: tl.constexpr,
    ROLLED_DIM: tl.constexpr,
    WORDS: tl.constexpr,
    SIGN: tl.constexpr,
    MAGNITUDE: tl.constexpr,
    INFINITY: tl.constexpr,
    NEGATED: tl.constexpr,
    NANS_ALIKE: tl.constexpr,
    ZEROS_ALIKE: tl.constexpr,
    WITH_MASK: tl.constexpr,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    num_col_tiles = tl.cdiv(num_cols, COLS)
    num_here = tl.zeros((ROWS, COLS), dtype=tl.int32)
    first_here = tl.full((ROWS, COLS), _NOWHERE, dtype=tl.int64)
    for step in range(STEPS):
        tile = program * STEPS + step
        tile_row = tile // num_col_tiles
        row = tile_row * ROWS + tl.arange(0, ROWS).to(tl.int64)
        col = (tile - tile_row * num_col_tiles) * COLS + tl.arange(0, COLS).to(tl.int64)
        exists = (row < num_rows)[:, None] & (col < num_cols)[None, :]

        got_row = tl.zeros((ROWS,), dtype=tl.int64) + got_base
        held_row = tl.zeros((ROWS,), dtype=tl.int64) + held_base
        place_row = tl.zeros((ROWS,), dtype=tl.int64) + place_base
        rest = row
        if NUM_DIMS > 1:
            rest, g, h, p = _along(
                rest, size_1, shift, got_stride_1, held_stride_1, place_stride_1, ROLLED_DIM == 1)
            got_row, held_row, place_row = got_row + g, held_row + h, place_row + p
        if NUM_DIMS > 2:
            rest, g, h, p = _along(
                rest, size_2, shift, got_stride_2, held_stride_2, place_stride_2, ROLLED_DIM == 2)
            got_row, held_row, place_row = got_row + g, held_row + h, place_row + p
        if NUM_DIMS > 3:
            rest, g, h, p = _along(
                rest, size_3, shift, got_stride_3, held_stride_3, place_stride_3, ROLLED_DIM == 3)
            got_row, held_row, place_row = got_row + g, held_row + h, place_row + p
        if NUM_DIMS > 4:
            rest, g, h, p = _along(
                rest, size_4, shift, got_stride_4, held_stride_4, place_stride_4, ROLLED_DIM == 4)
            got_row, held_row, place_row = got_row + g, held_row + h, place_row + p

        held_col = col
        if ROLLED_DIM == 0:
            moved = col + shift
            held_col = tl.where(moved < num_cols, moved, moved - num_cols)
        got_at = got_ptr + (got_row[:, None] + (col * got_stride_0)[None, :])
        held_at = held_ptr + (held_row[:, None] + (held_col * held_stride_0)[None, :])
        differs = _word_differs(
            tl.load(got_at, mask=exists, other=0), tl.load(held_at, mask=exists, other=0),
            SIGN, MAGNITUDE, INFINITY, NEGATED, NANS_ALIKE, ZEROS_ALIKE)
        if WORDS == 2:
            differs = differs | _word_differs(
                tl.load(got_at + 1, mask=exists, other=0),
                tl.load(held_at + 1, mask=exists, other=0),
                SIGN, MAGNITUDE, INFINITY, NEGATED, NANS_ALIKE, ZEROS_ALIKE)
        differs = differs & exists
        place = place_row[:, None] + (col * place_stride_0)[None, :]
        if WITH_MASK:
            tl.store(mask_ptr + place, differs.to(tl.uint8), mask=exists)
        num_here += differs.to(tl.int32)
        first_here = tl.minimum(first_here, tl.where(differs, place, _NOWHERE))

    num_different = tl.sum(tl.ravel(num_here.to(tl.int64)))
    first = tl.minimum(tl.min(tl.ravel(first_here)), 0xFFFFFFFF)
    # Share 2.0 and the place, as `note` packs them; share 0 at place 0 where nothing differs.
    packed = tl.where(num_different > 0, (0x40000000 << 32) + (0xFFFFFFFF - first), 0xFFFFFFFF)
    tl.atomic_max(record_ptr, packed, sem="relaxed")
    tl.atomic_add(record_ptr + 1, num_different, mask=num_different > 0, sem="relaxed")


def difference(got: Tensor, held: Tensor, undo: Undo = IDENTITY) -> Difference:
    """Compare two tensors; waits for the device once.  Arguments and errors: :func:`compare_bits`.

    Raises:
        RuntimeError: the kernel left no verdict, which must not pass for "equal".
    """
    (record,) = new_records(1, got.device)
    compare_bits(got, held, record, undo)
    worst, num_different = record.tolist()
    if got.numel() and not worst:
        raise RuntimeError(
            f"the comparison of {got.dtype}{list(got.shape)} on {got.device} left no verdict: the "
            "kernel did not run")
    return Difference(num_different, NO_INDEX - (worst & 0xFFFFFFFF) if num_different else 0)


def difference_mask(got: Tensor, held: Tensor, undo: Undo = IDENTITY) -> Tensor:
    """uint8 tensor of ``got``'s shape on its device: 0 where the bits agree, 1 where they differ,
    :data:`UNWRITTEN` where nobody looked.  Arguments and errors: :func:`compare_bits`."""
    mask = torch.full(got.shape, UNWRITTEN, dtype=torch.uint8, device=got.device)
    compare_bits(got, held, new_records(1, got.device)[0], undo, mask=mask)
    return mask


def compare_bits(
    got: Tensor, held: Tensor, record: Tensor, undo: Undo = IDENTITY, *, mask: Tensor | None = None
) -> None:
    """Launch the comparison; nothing waits.

    Args:
        got: any dtype with elements of 1, 2, 4, 8 or 16 bytes, any strides; its memory is read,
            also where a lazy negative or conjugate stands for other numbers.
        held: same dtype and device, and the shape of ``got`` once ``undo.where`` is taken of it.
        record: zeroed int64 [2] (:func:`~sdc_guard_kernels.verdict.new_records`), which gets the
            verdict; an empty tensor leaves it zero.
        undo: the index map.
        mask: contiguous uint8 of ``got``'s shape, or None for none.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or ``undo`` does not fit them.
    """
    shape, held_base = _part(got, held, undo)
    if mask is not None and (
        mask.shape != got.shape or mask.dtype is not torch.uint8 or not mask.is_contiguous()
    ):
        raise ValueError(f"mask is {mask.dtype}{list(mask.shape)}; give contiguous uint8{shape}")
    if got.numel() == 0:
        return
    format_of_part = _PART.get(got.dtype, got.dtype)
    judged_by_part = undo.negated or undo.nans_alike or undo.zeros_alike
    if judged_by_part and format_of_part not in _INFINITY:
        raise ValueError(f"signs and NaNs of {got.dtype} are not known here; compare its bits")
    words = 2 if got.element_size() == 16 or (judged_by_part and got.is_complex()) else 1
    word_bits = 8 * got.element_size() // words
    word = _WORD[word_bits // 8]

    dims = walk(tuple(shape), got.stride(), held.stride(), undo.roll)
    outer, dims = dims[:-MAX_DIMS], dims[-MAX_DIMS:]
    cols = min(TILE, triton.next_power_of_2(dims[-1].size))
    if len(dims) > 1 and dims[-1].got_stride > dims[-2].got_stride > 0:
        cols = min(cols, CROSSED_COLS)
    rows = TILE // cols
    num_rows = math.prod(d.size for d in dims[:-1])
    num_tiles = triton.cdiv(num_rows, rows) * triton.cdiv(dims[-1].size, cols)
    # Few values, because each is a compilation.
    steps = 1
    while num_tiles > steps * MAX_PROGRAMS:
        steps *= 4
    rolled = [i for i, d in enumerate(reversed(dims)) if d.shift]
    inner_first = [*reversed(dims), *[ABSENT] * (MAX_DIMS - len(dims))]
    for at in itertools.product(*(range(d.size) for d in outer)):
        bases = [0, held_base, 0]
        for i, d in zip(at, outer, strict=True):
            bases[0] += i * d.got_stride
            bases[1] += (i + d.shift) % d.size * d.held_stride
            bases[2] += i * d.place_stride
        _compare_kernel[(triton.cdiv(num_tiles, steps),)](
            triton.reinterpret(got, word),
            triton.reinterpret(held, word),
            record,
            record if mask is None else mask,
            words * bases[0],
            words * bases[1],
            bases[2],
            num_rows,
            dims[-1].size,
            dims[-1 - rolled[0]].shift if rolled else 0,
            *[d.size for d in inner_first[1:]],
            *[words * d.got_stride for d in inner_first],
            *[words * d.held_stride for d in inner_first],
            *[d.place_stride for d in inner_first],
            NUM_DIMS=len(dims),
            ROLLED_DIM=rolled[0] if rolled else -1,
            WORDS=words,
            SIGN=-(1 << (word_bits - 1)),
            MAGNITUDE=(1 << (word_bits - 1)) - 1,
            INFINITY=_INFINITY.get(format_of_part, 0),
            NEGATED=undo.negated,
            NANS_ALIKE=undo.nans_alike,
            ZEROS_ALIKE=undo.zeros_alike,
            WITH_MASK=mask is not None,
            STEPS=steps,
            ROWS=rows,
            COLS=cols,
            num_warps=8 if word_bits == 64 else 4,
        )


def _part(got: Tensor, held: Tensor, undo: Undo) -> tuple[list[int], int]:
    """Shape of the part of ``held`` and the offset of its first element, both checked."""
    if got.dtype is not held.dtype or got.device != held.device:
        raise ValueError(f"bits of {got.dtype} on {got.device} and {held.dtype} on {held.device} "
                         "cannot be compared: give tensors of one dtype on one device")
    shape, base = list(held.shape), 0
    if undo.where is not None:
        dim, start, length = undo.where
        if not 0 <= dim < held.dim() or not 0 <= start <= start + length <= shape[dim]:
            raise ValueError(f"part {undo.where} (dimension, start, length) is not in a tensor of "
                             f"shape {shape}")
        base, shape[dim] = start * held.stride(dim), length
    if list(got.shape) != shape:
        raise ValueError(f"bits of shapes {list(got.shape)} and {shape} cannot be compared")
    if undo.roll is not None and not 0 <= undo.roll[0] < held.dim():
        raise ValueError(f"roll {undo.roll} (dimension, shift) is not in a tensor of shape {shape}")
    return shape, base
