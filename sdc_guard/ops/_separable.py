"""Linear maps that act on each of the last dimensions by itself: boxes, interpolation weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from sdc_guard.ops._registry import F64


def applied(x: F64, matrices: Sequence[F64]) -> F64:
    """``matrices[d]`` [out, in] applied along the d-th of the last dimensions, in float64."""
    for d, matrix in enumerate(matrices):
        axis = x.ndim - len(matrices) + d
        x = np.moveaxis(np.moveaxis(x, axis, -1) @ matrix.T, -1, axis)
    return x


def outer(vectors: Sequence[F64]) -> F64:
    """The outer product, one dimension per vector."""
    return reduce(np.multiply.outer, vectors)
