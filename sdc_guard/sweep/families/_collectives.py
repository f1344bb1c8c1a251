"""What collectives are given and must give, by integer arithmetic: sums, products and extremes that
are exact in any order, and elements that say whose they were and where.

Rank ``r`` gives ``given[r]`` and must get ``expected[r]``, 1-D arrays of bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc_guard.sweep.declared import Bits
from sdc_guard.sweep.exact import LAYOUTS, encode, encode_integers
from sdc_guard.sweep.families._exact_case import index_code

Integers = NDArray[np.int64]
Work = tuple[list[Bits], list[Bits]]
"""``given`` and ``expected``."""
LOWEST_EXPONENT, HIGHEST_EXPONENT = -8, 5
"""Of the last place: float16 holds 2^11 * 2^4, and at these no number is subnormal."""


def drawn(op: str, dtype: str, num_ranks: int, count: int, random: np.random.Generator) -> Work:
    """Operands and answers of a collective of so many ranks; ``count`` elements each, a multiple of
    ``num_ranks`` where ranks get parts of it."""
    if op == "all_reduce product":
        return _product(dtype, num_ranks, count, random)
    if op in ("all_reduce max", "all_reduce min"):
        return _extreme(op, dtype, num_ranks, count, random)
    if op in ("all_reduce sum", "reduce", "reduce_scatter"):
        return _sum(op, dtype, num_ranks, count, random)
    salt = int(random.integers(0, 1 << 20))
    given = [index_code(count, dtype, salt + rank * count) for rank in range(num_ranks)]
    return given, _moved(op, given)


def _moved(op: str, given: list[Bits]) -> list[Bits]:
    size = len(given)
    if op == "broadcast":
        return [given[-1]] * size
    if op == "all_gather":
        return [np.concatenate(given)] * size
    if op == "all_to_all":
        parts = [np.split(bits, size) for bits in given]
        return [np.concatenate([parts[sender][rank] for sender in range(size)])
                for rank in range(size)]
    if op == "scatter":
        return list(np.split(given[0], size))
    assert op == "send and receive", op
    return [given[(rank - 1) % size] for rank in range(size)]


def _sum(
    op: str, dtype: str, num_ranks: int, count: int, random: np.random.Generator
) -> Work:
    """In each element either integers on all ranks whose partial sums fit the significand, or one
    number of full length on one rank and zeros on the others; times a power of two."""
    shape = (num_ranks, count)
    layout = LAYOUTS.get(dtype)
    if layout is None:
        limit = 2 ** (8 * np.dtype(dtype).itemsize - 1) // num_ranks
        values = random.integers(0 if dtype == "uint8" else 1 - limit, limit, shape, dtype=np.int64)
        given = [encode_integers(row, dtype) for row in values]
        total = encode_integers(values.sum(0), dtype)
    else:
        limit = 2**layout.precision // num_ranks
        values = random.integers(-limit, limit + 1, shape, dtype=np.int64)
        whole = _full(layout.precision, count, random)
        owner, is_whole = random.integers(0, num_ranks, count), random.integers(0, 2, count) == 1
        ranks = np.arange(num_ranks)[:, None]
        values = np.where(is_whole, np.where(ranks == owner, whole, 0), values)
        exponent = random.integers(LOWEST_EXPONENT, HIGHEST_EXPONENT, count, dtype=np.int64)
        given = [encode(row, dtype, exponent) for row in values]
        total = encode(values.sum(0), dtype, exponent)
    if op == "reduce":
        return given, [total, *[total[:0]] * (num_ranks - 1)]
    return given, (list(np.split(total, num_ranks)) if op == "reduce_scatter"
                   else [total] * num_ranks)


def _product(dtype: str, num_ranks: int, count: int, random: np.random.Generator) -> Work:
    """A number of full length on one rank, 1/2, 1 and 2 of either sign on the others."""
    whole = _full(LAYOUTS[dtype].precision, count, random)
    owner = random.integers(0, num_ranks, count)
    sign = 1 - 2 * random.integers(0, 2, (num_ranks, count), dtype=np.int64)
    power = random.integers(-1, 2, (num_ranks, count), dtype=np.int64)
    is_owner = np.arange(num_ranks)[:, None] == owner
    sign, power = np.where(is_owner, 1, sign), np.where(is_owner, 0, power)
    scale = -LAYOUTS[dtype].precision  # the one of full length lies in [1/2, 1)
    given = [np.where(mine, encode(whole, dtype, scale), encode(s, dtype, p))
             for mine, s, p in zip(is_owner, sign, power, strict=True)]
    expected = encode(whole * sign.prod(0), dtype, power.sum(0) + scale)
    return given, [expected] * num_ranks


def _extreme(
    op: str, dtype: str, num_ranks: int, count: int, random: np.random.Generator
) -> Work:
    layout = LAYOUTS.get(dtype)
    limit = 2**layout.precision if layout else 2 ** (8 * np.dtype(dtype).itemsize - 1) - 1
    values = random.integers(-limit, limit, (num_ranks, count), dtype=np.int64)
    best: Callable[..., Any] = np.max if op.endswith("max") else np.min
    found = encode_integers(best(values, axis=0), dtype)
    return [encode_integers(row, dtype) for row in values], [found] * num_ranks


def _full(precision: int, count: int, random: np.random.Generator) -> Integers:
    """Integers of either sign with ``precision`` bits."""
    size = random.integers(2 ** (precision - 1), 2**precision, count, dtype=np.int64)
    return np.asarray(size * (1 - 2 * random.integers(0, 2, count, dtype=np.int64)))
