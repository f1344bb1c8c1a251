"""Sums and products of sums in a chosen format and order, in NumPy.

Terms are arrays ``[..., n]`` of float32 or float64, the accumulator's format; NumPy's
``accumulate`` adds one after the other in that format.  Half formats accumulate in fp32, as the
contracts say.

A fused multiply-add is emulated.  For fp32 the product is exact in float64, the addition there is
rounded to 53 bits and then to 24: a double rounding, at most ``2^-30`` of an ulp above half of one.
For fp64 the product is split without error (Dekker) and added in extended precision, again with a
second rounding; where a machine has no extended format it is not emulated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc_guard.formats import FLOAT64, Format

Array = NDArray[Any]
Rng = np.random.Generator
Order = Callable[[Array, Rng], Array]
SPLIT = 134217729.0
"""2^27 + 1 (Dekker)."""


def working(acc: Format) -> Any:
    """The NumPy dtype that an accumulator's format is."""
    return np.float64 if acc is FLOAT64 else np.float32


def _sequential(terms: Array, rng: Rng) -> Array:
    return np.add.accumulate(terms, axis=-1)[..., -1]


def _pairwise(terms: Array, rng: Rng) -> Array:
    while terms.shape[-1] > 1:
        half = terms.shape[-1] // 2
        rest = terms[..., 2 * half :]
        terms = np.concatenate([terms[..., :half] + terms[..., half : 2 * half], rest], axis=-1)
    return terms[..., 0]


def _lanes(terms: Array, rng: Rng, width: int = 8) -> Array:
    """A running sum for each lane, then the lanes one after the other, then the leftovers."""
    n = terms.shape[-1] // width * width
    if not n:
        return _sequential(terms, rng)
    body = terms[..., :n].reshape(*terms.shape[:-1], -1, width)
    lanes = np.add.accumulate(body, axis=-2)[..., -1, :]
    return _sequential(np.concatenate([lanes, terms[..., n:]], axis=-1), rng)


def _any_tree(terms: Array, rng: Rng) -> Array:
    """Two neighbours chosen at random are added, again and again: any tree can come of it."""
    parts = [terms[..., i] for i in rng.permutation(terms.shape[-1])]
    while len(parts) > 1:
        i = int(rng.integers(len(parts) - 1))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts[0]


def _by_size(terms: Array, rng: Rng) -> Array:
    """The largest first, so that small ones are lost one by one."""
    places = np.argsort(-np.abs(terms), axis=-1)
    return _sequential(np.take_along_axis(terms, places, -1), rng)


ORDERS: dict[str, Order] = {
    "sequential": _sequential,
    "reversed": lambda terms, rng: _sequential(terms[..., ::-1], rng),
    "permuted": lambda terms, rng: _sequential(terms[..., rng.permutation(terms.shape[-1])], rng),
    "largest first": _by_size,
    "any tree": _any_tree,
    "lanes": _lanes,
    "pairwise": _pairwise,
}
SHALLOW = ("pairwise",)
"""Orders whose depth no contract's is below."""


def summed(terms: Array, order: str, rng: Rng) -> Array:
    """``[...]``: the sum along the last axis in the format of the terms."""
    if not terms.shape[-1]:
        return np.zeros(terms.shape[:-1], dtype=terms.dtype)
    with np.errstate(all="ignore"):
        return np.asarray(ORDERS[order](terms, rng))


def drawn_order(rng: Rng, n: int) -> str:
    """Any order that is not too slow for n terms."""
    names = [o for o in ORDERS if n <= 300 or o != "any tree"]
    return str(rng.choice(names))


def fused(a: Array, b: Array, c: Array) -> Array:
    """``a b + c`` rounded (nearly) once to the format of ``a``."""
    with np.errstate(all="ignore"):
        if a.dtype == np.float32:
            return (a.astype(np.float64) * b + c).astype(np.float32)
        high = a * b
        a1, b1 = (x * SPLIT - (x * SPLIT - x) for x in (a, b))
        a2, b2 = a - a1, b - b1
        low = ((a1 * b1 - high) + a1 * b2 + a2 * b1) + a2 * b2
        low = np.where(np.isfinite(low), low, 0.0)
        return ((high.astype(np.longdouble) + c) + low).astype(np.float64)


def fused_dot(a: Array, b: Array, start: Array | None = None) -> Array:
    """``sum_k a_k b_k`` along the last axis, one fused multiply-add after the other."""
    shape = np.broadcast_shapes(a.shape, b.shape)[:-1]
    total = np.zeros(shape, dtype=a.dtype) if start is None else start
    for k in range(a.shape[-1]):
        total = fused(a[..., k], b[..., k], total)
    return total


def dot(a: Array, b: Array, order: str, rng: Rng) -> Array:
    """``sum_k a_k b_k`` along the last axis; ``fused`` as an order, else rounded products."""
    if order == "fused":
        return fused_dot(a, b)
    with np.errstate(all="ignore"):
        return summed(a * b, order, rng)
