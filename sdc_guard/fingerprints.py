"""A fingerprint of 128 bits of a tensor's bits, position by position, the same on every device.

Two tensors of one shape and dtype that hold the same bits in the same places have one fingerprint,
whatever their strides; what differs in anything else has another one, in the sense below.

Definition.  The elements in C order, each in little-endian bytes, are one string of bytes, cut into
words w_0, ..., w_{n-1} of 64 bits, the last one filled up with zeros.  The header, the ASCII text
``<dtype>[<sizes>]`` such as ``float32[2,3]``, gives words h_0, h_1, ... in the same way.  With all
arithmetic modulo 2^64,

    S_1 = sum_j mix_1(w_j  +  (j + 1) G_1)  +  sum_j mix_1(h_j  -  (j + 1) G_1)
    S_2 = sum_j mix_2(w_j xor (j + 1) G_2)  +  sum_j mix_2(h_j xor -(j + 1) G_2)

and the fingerprint is mix_1(S_1) 2^64 + mix_2(S_2).  mix_1 is the finalizer of SplitMix64 (Steele,
Lea and Flood 2014, constants by D. Stafford), mix_2 that of MurmurHash3 (A. Appleby); G_1, G_2 are
odd.  Each step of a mix, ``x ^= x >> s`` or a multiplication by an odd number, can be undone, so
both are bijections of the 64-bit words.

What it sees, for two tensors of one shape and dtype:

* *Every change within one word*, so of any one element of up to 8 bytes, and of any part of one of
  16: at that position w -> mix_k(w ...) is a bijection, so one term of each sum changes and no
  other; both sums differ, and so do both halves.  This is a proof, without probabilities: a flip
  of any bits, a sign, -0.0 for 0.0, another NaN payload.
* *A change of two words*, such as two elements exchanged or one bit flipped in both: given the
  first change, exactly one new value of the second word restores S_1, and exactly one S_2.  The
  fingerprint misses the change only if these two are one value and it occurs; for a mix that
  behaves like a random bijection that has probability 2^-128.
* *More changes, and other shapes and dtypes* (the header tells them apart, and no zero that fills
  up a word can pass for an element): the difference of the sums is that of many mixed terms; 2^-128
  under the same heuristic.

It is no cryptographic hash: whoever wants a collision can make one.

Sums need no order, so a device adds its blocks as they come and still gets the same bits.  On a
device our kernel (``sdc_guard_kernels.fingerprint``) makes S_1 and S_2 in one pass; the NumPy path
here is its reference, needs about 2 MB beyond the tensor, and calls no aten kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits, device_bits

BLOCK_WORDS = 2**15
"""Words mixed at a time: with their temporaries they stay in a core's cache."""

_MODULUS = 2**64
_WORD_BYTES = 8
_WORD = np.dtype("<u8")
_MIXES = (
    (0x9E3779B97F4A7C15, ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)), 31),
    (0xD1B54A32D192ED03, ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53)), 33),
)


def fingerprint(tensor: Tensor) -> int:
    """The fingerprint of a tensor's bits, shape and dtype, 0 to 2^128 - 1; see the module.

    Any dtype with elements of 1, 2, 4, 8 or 16 bytes, any strides and device.  A lazy negative or
    conjugate counts as the numbers it stands for.  On a device this waits for the result.
    """
    tensor = bits.resolved(tensor.detach())
    sums = _device_sums(tensor) if device_bits.has_kernels(tensor) else None
    return sealed(sums or host_sums(tensor), tensor.dtype, tuple(tensor.shape))


def host_sums(tensor: Tensor) -> tuple[int, int]:
    """The sums over the tensor's words alone, by NumPy."""
    total_1, total_2, first = 0, 0, 0
    for words in _blocks_of_words(tensor):
        sum_1, sum_2 = _mixed_sums(words, first)
        total_1, total_2, first = total_1 + sum_1, total_2 + sum_2, first + len(words)
    return total_1 % _MODULUS, total_2 % _MODULUS


def sealed(sums: tuple[int, int], dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    """The fingerprint from the sums over a tensor's words."""
    halves = [
        _mixed((a + b) % _MODULUS, k)
        for k, (a, b) in enumerate(zip(sums, _header_sums(dtype, shape), strict=True))
    ]
    return halves[0] << 64 | halves[1]


def _device_sums(tensor: Tensor) -> tuple[int, int] | None:
    from sdc_guard_kernels.fingerprint import MAX_DIMS, num_merged, word_sums

    if num_merged(tensor) > MAX_DIMS:
        return None
    with device_bits.launching_on(tensor):
        first, second = word_sums(tensor).tolist()
    return first % _MODULUS, second % _MODULUS


@lru_cache(maxsize=4096)
def _header_sums(dtype: torch.dtype, shape: tuple[int, ...]) -> tuple[int, int]:
    text = f"{str(dtype).removeprefix('torch.')}[{','.join(map(str, shape))}]".encode("ascii")
    totals = [0, 0]
    for j in range(0, len(text), _WORD_BYTES):
        word = int.from_bytes(text[j : j + _WORD_BYTES], "little")
        position = -(j // _WORD_BYTES + 1)
        totals[0] += _mixed((word + position * _MIXES[0][0]) % _MODULUS, 0)
        totals[1] += _mixed(word ^ position * _MIXES[1][0] % _MODULUS, 1)
    return totals[0] % _MODULUS, totals[1] % _MODULUS


def _mixed(word: int, k: int) -> int:
    _, rounds, last = _MIXES[k]
    for shift, factor in rounds:
        word = (word ^ word >> shift) * factor % _MODULUS
    return word ^ word >> last


def _blocks_of_words(tensor: Tensor) -> Iterator[NDArray[np.uint64]]:
    """The words of a tensor in C order, some at a time."""
    host = bits.on_host(tensor)
    array = bits.raw(host)
    itemsize = host.element_size()
    step = BLOCK_WORDS * _WORD_BYTES // itemsize
    # A strided array is walked by an iterator, whose slices are copies of the block alone.
    flat: Any = array.reshape(-1) if array.flags.c_contiguous else array.flat
    for start in range(0, array.size, step):
        block = np.ascontiguousarray(flat[start : start + step]).view(np.uint8)
        missing = -len(block) % _WORD_BYTES
        if missing:
            block = np.concatenate([block, np.zeros(missing, dtype=np.uint8)])
        yield block.view(_WORD)


def _mixed_sums(words: NDArray[np.uint64], first: int) -> tuple[int, int]:
    """Both sums over words at positions ``first``, ``first + 1``, ..."""
    sums = []
    for k, (generator, rounds, last) in enumerate(_MIXES):
        start = np.uint64((first + 1) * generator % _MODULUS)
        mixed = _lane_keys(generator)[: len(words)] + start
        if k == 0:
            mixed += words
        else:
            mixed ^= words
        shifted = np.empty_like(mixed)
        for shift, factor in rounds:
            np.right_shift(mixed, np.uint64(shift), out=shifted)
            mixed ^= shifted
            mixed *= np.uint64(factor)
        np.right_shift(mixed, np.uint64(last), out=shifted)
        mixed ^= shifted
        sums.append(int(mixed.sum(dtype=np.uint64)))
    return sums[0], sums[1]


@lru_cache(maxsize=len(_MIXES))
def _lane_keys(generator: int) -> NDArray[np.uint64]:
    return np.arange(BLOCK_WORDS, dtype=np.uint64) * np.uint64(generator)
