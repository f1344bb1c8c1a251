"""Sliding windows in NumPy: the link between a large array and a small one by a kernel's taps.

Tap ``k`` of a kernel links position ``i`` of the small array (the output of a convolution or of a
pool) to position ``i * stride + k * dilation`` of the large one (its padded input).  Everything
that slides a window is one of four loops over the taps, each step a strided slice of the large
array and a matrix product by BLAS:

- :func:`gathered`    ``small[o, i]  = sum_{c, k} weight[o, c, k] large[c, i s + k d]``
- :func:`scattered`   ``large[c, j] += sum_{o, k} weight[o, c, k] small[o, i]`` at ``j = i s + k d``
- :func:`correlated`  ``weight[o, c, k] = sum_{n, i} small[n, o, i] large[n, c, i s + k d]``
- :func:`taps`        the slices themselves, for pools and for im2col
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Where = Any
"""An index of an array's last dimensions, which NumPy's types cannot express with an ellipsis."""
Sizes = tuple[int, ...]


def per_dim(value: Any, rank: int) -> Sizes:
    """``value`` as one number per spatial dimension; a single one stands for all."""
    numbers = (value,) if isinstance(value, int) else tuple(int(v) for v in value)
    return numbers * rank if len(numbers) == 1 else numbers


@dataclass(frozen=True, slots=True)
class Window:
    """Kernel size, stride, padding and dilation per spatial dimension."""

    kernel: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes

    @property
    def num_taps(self) -> int:
        return math.prod(self.kernel)

    def reach(self, small: Sequence[int]) -> Sizes:
        """Extent of the large array, padding included, that a small array of that size reads."""
        return tuple((n - 1) * s + (k - 1) * d + 1 if n else 0 for n, s, k, d in zip(
            small, self.stride, self.kernel, self.dilation, strict=True))

    def slices(self, small: Sequence[int]) -> Iterator[tuple[Sizes, Where]]:
        """Each tap with the slices of the padded large array that it links to."""
        for tap in itertools.product(*(range(k) for k in self.kernel)):
            yield tap, (..., *(
                slice(t * d, t * d + (n - 1) * s + 1 if n else t * d, s)
                for t, d, n, s in zip(tap, self.dilation, small, self.stride, strict=True)))

    def padded(self, large: NDArray[Any], small: Sequence[int], fill: float = 0.0) -> NDArray[Any]:
        """The large array with its padding, at least as long as the taps reach (``ceil_mode`` and
        output padding reach further than the padding)."""
        rank = len(self.kernel)
        extent = self.reach(small)
        width = [(0, 0)] * (large.ndim - rank)
        for size, pad, reach in zip(large.shape[-rank:], self.padding, extent, strict=True):
            width.append((pad, max(pad, reach - size - pad)))
        return np.pad(large, width, constant_values=fill)

    def cropped(self, padded: NDArray[Any], large: Sequence[int]) -> NDArray[Any]:
        """The part of a padded array that is the large one."""
        where: Where = (..., *(slice(p, p + n) for p, n in zip(self.padding, large, strict=True)))
        return padded[where]


def taps(large: NDArray[Any], small: Sequence[int], window: Window, fill: float = 0.0
         ) -> Iterator[tuple[Sizes, NDArray[Any]]]:
    """Each tap with what it reads: a view of the padded large array in the small one's shape."""
    padded = window.padded(large, small, fill)
    for tap, where in window.slices(small):
        yield tap, padded[where]


def _at(tap: Sizes) -> Where:
    return (..., *tap)


def gathered(large: F64, weight: F64, small: Sequence[int], window: Window) -> F64:
    """The convolution: large [N, G, C, ...], weight [G, O, C, taps...] -> [N, G, O, small...]."""
    num, groups, channels = large.shape[:3]
    total = np.zeros((num, groups, weight.shape[1], math.prod(small)),
                     dtype=np.result_type(large, weight))
    for tap, read in taps(large, small, window):
        total += weight[_at(tap)] @ read.reshape(num, groups, channels, -1)
    return total.reshape(*total.shape[:3], *small)


def scattered(small: F64, weight: F64, large: Sequence[int], window: Window) -> F64:
    """Its adjoint: small [N, G, O, ...], weight [G, O, C, taps...] -> [N, G, C, large...]."""
    num, groups, channels = small.shape[:3]
    sizes = small.shape[3:]
    extent = window.reach(sizes)
    padded = np.zeros((num, groups, weight.shape[2], *(
        max(n + 2 * p, r) for n, p, r in zip(large, window.padding, extent, strict=True))),
        dtype=np.result_type(small, weight))
    flat = small.reshape(num, groups, channels, -1)
    for tap, where in window.slices(sizes):
        part = weight[_at(tap)].swapaxes(-1, -2) @ flat
        padded[where] += part.reshape(*part.shape[:3], *sizes)
    return window.cropped(padded, large)


def correlated(large: F64, small: F64, window: Window) -> F64:
    """The weight's gradient: large [N, G, C, ...], small [N, G, O, ...] -> [G, O, C, taps...]."""
    num, groups, channels = small.shape[:3]
    flat = small.reshape(num, groups, channels, -1)
    total = np.zeros((groups, channels, large.shape[2], *window.kernel))
    for tap, read in taps(large, small.shape[3:], window):
        columns = read.reshape(num, groups, large.shape[2], -1)
        total[_at(tap)] = (flat @ columns.swapaxes(-1, -2)).sum(0)
    return total
