"""What happens to the bits of struck elements.

A damage is a pure function: its parameters are drawn before, so it does the same each time.  It
changes ``words``, the bits of all elements in C order as unsigned integers, at ``where`` (flat
places, ascending).  It never leaves a bool that is neither 0 nor 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sdc_guard.formats import format_of, is_covered_float
from sdc_guard.inject.flip import num_bits

Words = NDArray[Any]
Where = NDArray[np.intp]
Damage = Callable[[Words, Where, torch.dtype], None]


def _mask(words: Words, bit_numbers: tuple[int, ...], dtype: torch.dtype) -> Any:
    limit = num_bits(dtype)
    return words.dtype.type(sum(1 << bit for bit in set(bit_numbers) if bit < limit))


@dataclass(frozen=True, slots=True)
class FlipBits:
    """Inverts some bits (0 is the least significant); those that the dtype has not are left out."""

    bit_numbers: tuple[int, ...]

    def __call__(self, words: Words, where: Where, dtype: torch.dtype) -> None:
        words[where] ^= _mask(words, self.bit_numbers, dtype)


@dataclass(frozen=True, slots=True)
class SetBit:
    """Holds one bit at ``value``; does nothing where the dtype has no such bit."""

    bit: int
    value: int

    def __call__(self, words: Words, where: Where, dtype: torch.dtype) -> None:
        mask = _mask(words, (self.bit,), dtype)
        words[where] = words[where] | mask if self.value else words[where] & ~mask


@dataclass(frozen=True, slots=True)
class Zero:
    """Positive zero, False for bool."""

    def __call__(self, words: Words, where: Where, dtype: torch.dtype) -> None:
        words[where] = 0


@dataclass(frozen=True, slots=True)
class Scramble:
    """Each element gets another value: with probability ``single`` one bit is inverted, else 2 to
    all of them (uniform), at uniform places; fixed by ``seed`` and the number of elements."""

    seed: int
    single: float = 0.4

    def __call__(self, words: Words, where: Where, dtype: torch.dtype) -> None:
        generator = np.random.default_rng(self.seed)
        width, num = num_bits(dtype), len(where)
        count = np.ones(num, dtype=np.int64)
        if width > 1:
            several = generator.integers(2, width + 1, size=num)
            count = np.where(generator.random(num) < self.single, count, several)
        # The bits with the ``count`` smallest of random keys.
        rank = generator.random((num, width)).argsort(axis=1).argsort(axis=1)
        chosen = rank < count[:, None]
        weights = np.left_shift(np.uint64(1), np.arange(width, dtype=np.uint64))
        masks = np.where(chosen, weights, np.uint64(0)).sum(axis=1, dtype=np.uint64)
        words[where] ^= masks.astype(words.dtype)


@dataclass(frozen=True, slots=True)
class NotFinite:
    """NaN (``kind`` 0) or plus or minus infinity (1, 2).  Integers, which have none, get their
    largest value (0, 1) or smallest (2); bool True."""

    kind: int

    def __call__(self, words: Words, where: Where, dtype: torch.dtype) -> None:
        width = num_bits(dtype)
        if is_covered_float(dtype):
            stored = format_of(dtype).precision - 1
            pattern = ((1 << (width - 1 - stored)) - 1) << stored
            pattern |= (1 << (stored - 1), 0, 1 << (width - 1))[self.kind]
        elif dtype is torch.bool:
            pattern = 1
        elif dtype.is_signed:
            pattern = (1 << (width - 1)) - (self.kind != 2)
        else:
            pattern = 0 if self.kind == 2 else (1 << width) - 1
        words[where] = words.dtype.type(pattern)


@dataclass(frozen=True, slots=True)
class Precision:
    """Keeps ``significant`` bits of each floating number (the hidden one included), rounded to the
    nearest, ties to even, or cut off with ``truncates``; the range of exponents stays.  NaN,
    infinities, integers and bool stay as they are."""

    significant: int
    truncates: bool = False

    def __call__(self, words: Words, where: Where, dtype: torch.dtype) -> None:
        if not is_covered_float(dtype):
            return
        precision = format_of(dtype).precision
        drop = precision - self.significant
        if drop < 1:
            return
        unsigned = words.dtype.type
        exponent = unsigned(((1 << (num_bits(dtype) - precision)) - 1) << (precision - 1))
        old = words[where]
        new = old
        if not self.truncates:
            odd = (old >> unsigned(drop)) & unsigned(1)
            new = old + unsigned((1 << (drop - 1)) - 1) + odd
        new = new & ~unsigned((1 << drop) - 1)
        words[where] = np.where((old & exponent) == exponent, old, new)


@dataclass(frozen=True, slots=True)
class SwapRows:
    """Exchanges two rows of ``row_length`` elements, with numbers ``first`` and ``second`` modulo
    the number of rows, whatever ``where`` is; nothing where both are the same row."""

    first: int
    second: int
    row_length: int

    def __call__(self, words: Words, where: Where, dtype: torch.dtype) -> None:
        rows = words.reshape(-1, self.row_length)
        a, b = self.first % len(rows), self.second % len(rows)
        rows[[a, b]] = rows[[b, a]]


@dataclass(frozen=True, slots=True)
class Misplaced:
    """Each element gets the old number of the next one (in C order; the last gets the first's)."""

    def __call__(self, words: Words, where: Where, dtype: torch.dtype) -> None:
        words[where] = words[(where + 1) % len(words)]
