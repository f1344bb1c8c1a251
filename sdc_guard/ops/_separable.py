"""Linear maps that act on each of the last dimensions by itself: boxes, interpolation weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
from torch import Tensor

from sdc_guard.bounds.gamma import gamma, own_rounding, rounding
from sdc_guard.formats import Format, format_of
from sdc_guard.ops._registry import F64, Reference


def applied(x: F64, matrices: Sequence[F64]) -> F64:
    """``matrices[d]`` [out, in] applied along the d-th of the last dimensions, in float64."""
    for d, matrix in enumerate(matrices):
        axis = x.ndim - len(matrices) + d
        x = np.moveaxis(np.moveaxis(x, axis, -1) @ matrix.T, -1, axis)
    return x


def outer(vectors: Sequence[F64]) -> F64:
    """The outer product, one dimension per vector."""
    return reduce(np.multiply.outer, vectors)


def weighted(x: F64, pairs: Sequence[tuple[F64, F64]], fmt: Format, held: Tensor,
             formula: str, *, depth: int | None = None) -> Reference:
    """The maps with weights W applied to ``x``, each weight known within B.

    A kernel's weights lie within ``|W| + B`` in size.  The T products of a result, T the largest
    number of them, are added in any order in ``fmt``, each with a rounding per dimension for its
    weights, their product and that with x:

        |y^ - y| <= ((|W| + B)...) |x| - (|W|...) |x| + gamma_{T + 4 rank}(u) ((|W| + B)...) |x|.

    ``depth`` is the longest chain of sums where the kernel's order is known: the contract's T.
    """
    with np.errstate(all="ignore"):
        expected = applied(x, [w for w, _ in pairs])
        size = np.abs(x)
        known = applied(size, [np.abs(w) for w, _ in pairs])
        wide = applied(size, [np.abs(w) + b for w, b in pairs])
        terms = int(np.prod([max(int((np.abs(w) + b > 0).sum(1).max(initial=0)), 1)
                             for w, b in pairs]))
        shift = wide - known + own_rounding(4 * terms + 4, wide) + (4 * terms + 4) * fmt.eta
        proof, contract = (shift + gamma(n + 4 * len(pairs), fmt.u) * wide
                           for n in (terms, terms if depth is None else min(depth, terms)))
        proof, contract = (e + rounding(np.abs(expected) + e, format_of(held.dtype))
                           for e in (proof, contract))
        # A kernel works one dimension after the other: what is there before the small weights of
        # the last one may be larger than the result.
        dims = tuple(range(x.ndim - len(pairs), x.ndim))
        reach = size.max(axis=dims, keepdims=True, initial=0.0)
        for w, b in pairs:
            reach = reach * max(1.0, float((np.abs(w) + b).sum(1).max(initial=0)))
    magnitude = np.maximum(wide, reach) if np.isfinite(x).all() else np.inf
    return Reference(expected, proof, contract, formula, magnitude)
