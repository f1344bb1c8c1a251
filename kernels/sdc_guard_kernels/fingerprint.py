"""The two sums of a tensor's fingerprint, in one pass over any strides.

The elements in C order, each in little-endian bytes, are one string of bytes; cut into words
w_0, w_1, ... of 64 bits, the last one filled up with zeros. With all arithmetic modulo 2^64,

    S_1 = sum_j mix_1(w_j  +  (j + 1) G_1)        S_2 = sum_j mix_2(w_j xor (j + 1) G_2),

G_1, G_2 odd constants, mix_1 the finalizer of SplitMix64 (Steele, Lea and Flood 2014, with D.
Stafford's constants), mix_2 that of MurmurHash3 (A. Appleby): each a chain of ``x ^= x >> s`` and
multiplications by odd constants, hence a bijection.  ``sdc_guard.fingerprints`` adds shape and
dtype, says what the result proves, and holds the reference in NumPy that shares no code with this
file.

Error: none; integer arithmetic that wraps.  Sums modulo 2^64 come out alike in any order, so the
result depends neither on the grid nor on the schedule, and the position of a word enters through
(j + 1) G alone.

A contiguous tensor whose memory is aligned to 8 bytes and holds whole words is read as words.
Otherwise a program gathers the elements of its words, through up to 5 merged dimensions: one
64-bit division per element and dimension beyond the first.  Indices and offsets are 64 bits wide.

Grid: at most ``MAX_PROGRAMS`` programs of 4^n consecutive blocks of ``BLOCK`` elements, or of
``BLOCK`` words where those are read.  Traffic: one read of the tensor and two integer atomics per
program.  The sums start at 0, which is the right answer for no words only; a result that no program
wrote agrees with that of a tensor of one word or more with probability 2^-128.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024
MAX_DIMS = 5
MAX_PROGRAMS = 8192
WORD_BYTES = 8

_G_1 = tl.constexpr(0x9E3779B97F4A7C15)
_G_2 = tl.constexpr(0xD1B54A32D192ED03)
_UNSIGNED = {1: tl.uint8, 2: tl.uint16, 4: tl.uint32, 8: tl.uint64}


@triton.jit
def _mix_1(x):  # type: ignore[no-untyped-def]
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


@triton.jit
def _mix_2(x):  # type: ignore[no-untyped-def]
    x = (x ^ (x >> 33)) * 0xFF51AFD7ED558CCD
    x = (x ^ (x >> 33)) * 0xC4CEB9FE1A85EC53
    return x ^ (x >> 33)


@triton.jit(do_not_specialize=["size_0", "size_1", "size_2", "size_3"])  # type: ignore[untyped-decorator]
def _fingerprint_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    sums_ptr,
    num_elements,
    size_0,
    size_1,
    size_2,
    size_3,
    stride_0,
    stride_1,
    stride_2,
    stride_3,
    stride_4,
    NUM_DIMS: tl.constexpr,
    PACK: tl.constexpr,
    ELEMENT_BITS: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK).to(tl.int64)
    part = tl.arange(0, PACK).to(tl.int64)
    # (first + lane) G = first G + lane G: the multiplication of the lanes leaves the loop.
    lane_key_1 = lane.to(tl.uint64) * _G_1
    lane_key_2 = lane.to(tl.uint64) * _G_2
    sum_1 = tl.zeros((BLOCK,), dtype=tl.uint64)
    sum_2 = tl.zeros((BLOCK,), dtype=tl.uint64)
    for step in range(STEPS):
        first = (program * STEPS + step) * BLOCK
        element = (first + lane)[:, None] * PACK + part[None, :]
        exists = element < num_elements
        rest = element
        offset = tl.zeros((BLOCK, PACK), dtype=tl.int64)
        if NUM_DIMS > 1:
            outer = rest // size_0
            offset += (rest - outer * size_0) * stride_0
            rest = outer
        if NUM_DIMS > 2:
            outer = rest // size_1
            offset += (rest - outer * size_1) * stride_1
            rest = outer
        if NUM_DIMS > 3:
            outer = rest // size_2
            offset += (rest - outer * size_2) * stride_2
            rest = outer
        if NUM_DIMS > 4:
            outer = rest // size_3
            offset += (rest - outer * size_3) * stride_3
            rest = outer
        if NUM_DIMS == 1:
            offset += rest * stride_0
        if NUM_DIMS == 2:
            offset += rest * stride_1
        if NUM_DIMS == 3:
            offset += rest * stride_2
        if NUM_DIMS == 4:
            offset += rest * stride_3
        if NUM_DIMS == 5:
            offset += rest * stride_4
        x = tl.load(x_ptr + offset, mask=exists, other=0).to(tl.uint64)
        # Each element has its own bits of the word, so this sum has no carries.
        word = tl.sum(x << (part * ELEMENT_BITS).to(tl.uint64)[None, :], axis=1)
        # The word exists if its first element does.
        is_word = (first + lane) * PACK < num_elements
        key = (first + 1).to(tl.uint64)
        sum_1 += tl.where(is_word, _mix_1(word + (key * _G_1 + lane_key_1)), 0)
        sum_2 += tl.where(is_word, _mix_2(word ^ (key * _G_2 + lane_key_2)), 0)
    total_1 = tl.sum(sum_1).to(tl.int64, bitcast=True)
    total_2 = tl.sum(sum_2).to(tl.int64, bitcast=True)
    tl.atomic_add(sums_ptr, total_1, sem="relaxed")
    tl.atomic_add(sums_ptr + 1, total_2, sem="relaxed")


def word_sums(x: Tensor) -> Tensor:
    """S_1 and S_2 of a tensor as int64 [2] on its device, the bits of unsigned numbers; nothing
    waits.

    Args:
        x: elements of 1, 2, 4, 8 or 16 bytes, any strides; its memory is read, also where a lazy
            negative or conjugate stands for other numbers.

    Raises:
        ValueError: more than ``MAX_DIMS`` dimensions are left once those that continue each other
            are merged.
    """
    sums = torch.zeros(2, dtype=torch.int64, device=x.device)
    if x.numel() == 0:
        return sums
    dims = _dims(x)
    itemsize = min(x.element_size(), WORD_BYTES)
    if len(dims) > MAX_DIMS:
        raise ValueError(
            f"a tensor of shape {list(x.shape)} and strides {list(x.stride())} has {len(dims)} "
            f"dimensions that cannot be merged; at most {MAX_DIMS} are taken")
    num_elements = math.prod(size for size, _ in dims)
    num_bytes = num_elements * itemsize
    is_dense = len(dims) == 1 and dims[0][1] == 1
    if is_dense and num_bytes % WORD_BYTES == 0 and x.data_ptr() % WORD_BYTES == 0:
        num_elements, itemsize = num_bytes // WORD_BYTES, WORD_BYTES
        dims = [(num_elements, 1)]
    pack = WORD_BYTES // itemsize
    num_blocks = triton.cdiv(num_elements, BLOCK)
    # Few values, because each is a compilation.
    steps = 1
    while num_blocks > steps * MAX_PROGRAMS:
        steps *= 4
    inner_first = [*reversed(dims), *[(1, 0)] * (MAX_DIMS - len(dims))]
    _fingerprint_kernel[(triton.cdiv(num_blocks, steps),)](
        triton.reinterpret(x, _UNSIGNED[itemsize]),
        sums,
        num_elements,
        *[size for size, _ in inner_first[:-1]],
        *[stride for _, stride in inner_first],
        NUM_DIMS=len(dims),
        PACK=pack,
        ELEMENT_BITS=8 * itemsize,
        STEPS=steps,
        BLOCK=BLOCK // pack,
    )
    return sums


def num_merged(x: Tensor) -> int:
    """Number of dimensions that the kernel walks; it takes ``MAX_DIMS`` at most."""
    return len(_dims(x))


def _dims(x: Tensor) -> list[tuple[int, int]]:
    """(size, stride) in C order, those merged that continue each other; at least one.  An element
    of 16 bytes is a dimension of two words."""
    words = max(1, x.element_size() // WORD_BYTES)
    in_words = [(n, stride * words) for n, stride in zip(x.shape, x.stride(), strict=True)]
    merged: list[tuple[int, int]] = []
    for size, stride in [*in_words, (words, 1)]:
        if size == 1:
            continue
        if merged and merged[-1][1] == stride * size:
            merged[-1] = (merged[-1][0] * size, stride)
        else:
            merged.append((size, stride))
    return merged or [(1, 1)]
