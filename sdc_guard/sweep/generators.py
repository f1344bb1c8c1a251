"""The raw words of torch's random generators, by integer arithmetic of our own.

On CPUs torch draws from MT19937 (Matsumoto and Nishimura 1998), seeded with the 2002
initialisation; on CUDA devices from Philox4x32-10 (Salmon et al., SC11), one counter for each
thread.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

_N, _M = 624, 397
_TOP, _REST, _TWIST = np.uint64(0x80000000), np.uint64(0x7FFFFFFF), np.uint64(0x9908B0DF)
_LOW = np.uint64(0xFFFFFFFF)
_PHILOX_M = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_PHILOX_W = (0x9E3779B9, 0xBB67AE85)


def mt19937(seed: int, count: int) -> Words:
    """The first ``count`` 32-bit words after seeding with the low 32 bits of ``seed``."""
    word = seed & 0xFFFFFFFF
    first = [word]
    for i in range(1, _N):
        word = (1812433253 * (word ^ (word >> 30)) + i) & 0xFFFFFFFF
        first.append(word)
    state = np.array(first, np.uint64)
    blocks = []
    for _ in range(-(-count // _N)):
        state = _twisted(state)
        blocks.append(_tempered(state))
    return np.concatenate(blocks)[:count] if blocks else np.zeros(0, np.uint64)


def _twisted(state: Words) -> Words:
    """The next 624 words: each from its successor and the word 397 places on, the last ones from
    words that are new themselves."""
    new = state.copy()
    for start, stop in ((0, _N - _M), (_N - _M, 2 * (_N - _M)), (2 * (_N - _M), _N - 1),
                        (_N - 1, _N)):
        i = np.arange(start, stop)
        # new[] holds old words where none is made yet, and (i + 1) mod N is made for the last.
        joined = (new[i] & _TOP) | (new[(i + 1) % _N] & _REST)
        new[i] = new[(i + _M) % _N] ^ (joined >> np.uint64(1)) ^ np.where(
            joined & np.uint64(1), _TWIST, np.uint64(0))
    return new


def _tempered(word: Words) -> Words:
    word = word ^ (word >> np.uint64(11))
    word = word ^ ((word << np.uint64(7)) & np.uint64(0x9D2C5680))
    word = word ^ ((word << np.uint64(15)) & np.uint64(0xEFC60000))
    return word ^ (word >> np.uint64(18))


def philox4x32(counters_4N: Words, key: int, rounds: int = 10) -> Words:
    """Four 32-bit words for each counter of four words, [4, N], under a 64-bit key."""
    c0, c1, c2, c3 = (c & _LOW for c in counters_4N)
    k0, k1 = key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF
    for _ in range(rounds):
        first, second = c0 * _PHILOX_M[0], c2 * _PHILOX_M[1]
        c0, c1, c2, c3 = (
            (second >> np.uint64(32)) ^ c1 ^ np.uint64(k0), second & _LOW,
            (first >> np.uint64(32)) ^ c3 ^ np.uint64(k1), first & _LOW)
        k0, k1 = (k0 + _PHILOX_W[0]) & 0xFFFFFFFF, (k1 + _PHILOX_W[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3])


def pairs(words: Words) -> Words:
    """64-bit words as torch joins two: the first is the upper half."""
    return (words[0::2] << np.uint64(32)) | words[1::2]
