"""Sums of n terms.

*Proof.*  In any order, with any tree, ``|computed - exact| <= gamma_{n-1} sum|x|`` (Higham 2002,
eq. 4.4); where ``n u >= 1`` and rounding is to nearest, ``(n-1) u sum|x|`` holds (Jeannerod and
Rump 2013).  The second form is the smaller one and is used throughout.

*Contract.*  A tree of depth h errs by at most ``h u sum|x|`` to first order.  ATen's CPU kernel
(``aten/src/ATen/native/cpu/SumKernel.cpp``, ``cascade_sum``) adds m terms in four cascaded levels
of ``2^p`` terms, ``p = max(4, floor(ceil(log2 m) / 4))``, the last of them open:
``level(m) = 4 * 2^p + m / 2^(3 p)``.  It does so in up to 4 x 16 parallel lanes, then adds the
lanes
one after the other, so m is between ``n / 64`` and n.  Reduced dimensions that do not merge into
one run in memory are summed run by run, each added to the result *in the result's own dtype*; and a
sum of at least 32768 elements to a single number is cut into one part per thread, each rounded to
the result's dtype.  Hence

    h = max_m level(m) + 64 + runs (if more than one) + parts.

CUDA's reduction has at most that depth for the sizes that fit a device: its blocks halve trees over
512 threads whose serial part is ``n / (threads * blocks)``.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sdc_guard.bounds.gamma import gamma
from sdc_guard.formats import FLOAT64, Format

LANES = 64
PARALLEL_FROM = 32768
"""ATen's grain size: a sum of fewer elements stays on one thread."""


def any_order(n: int, abs_sum: NDArray[Any] | float, acc: Format) -> NDArray[Any]:
    """``(n - 1) u sum|x|``: the proof bound of a sum of n terms of format ``acc``, any order."""
    return np.asarray(max(n - 1, 0) * acc.u * np.asarray(abs_sum))


def _levels(m: int) -> int:
    """``level(m)``: depth of the four cascaded levels for m terms in one lane."""
    power = max(4, math.ceil(math.log2(max(m, 1))) // 4)
    return int(4 * 2**power + math.ceil(m / 2 ** (3 * power)))


def cascade_depth(n: int, runs: int = 1, parts: int = 0) -> int:
    """Depth h of ATen's cascade, at most ``n - 1`` for all n terms together.

    Args:
        n: number of terms, ``n / runs`` of them in each run.
        runs: runs in memory that are summed one by one.
        parts: pieces that are summed apart and put together at the end.
    """
    if n <= 1:
        return 0
    run = math.ceil(n / runs)
    deepest = max(_levels(math.ceil(run / lanes)) for lanes in (1, 4, 16, LANES)) + LANES
    return min(n - 1, min(run - 1, deepest) + (runs if runs > 1 else 0) + parts)


@cache
def vector_bytes() -> int:
    """Narrowest vector that an ATen kernel may use on this CPU.  On a CPU with AVX-512 most kernels
    still run their AVX2 version (``REGISTER_DISPATCH`` in ``DispatchStub.h``)."""
    wide = ("AVX512", "AVX2", "SVE256")
    return 32 if torch.backends.cpu.get_cpu_capability() in wide else 16


def lane_depth(n: int, acc: Format) -> int:
    """Depth of ``vec::reduce_all`` and its kin (``ATen/cpu/vec/functional_base.h``): one running
    sum per SIMD lane, then the lanes (16 at most) and a vector's length of leftovers one by one.
    CUDA's warps are wider than any of these vectors."""
    lanes = vector_bytes() // (4 if acc.precision <= 24 else 8)
    return max(min(n - 1, math.ceil(n / lanes) + 2 * LANES // 4), 0)


def cascade(
    n: int, abs_sum: NDArray[Any] | float, acc: Format, runs: int = 1, parts: int = 0
) -> NDArray[Any]:
    """``h u sum|x|`` with the depth h of the backend's own algorithm: the contract bound."""
    return np.asarray(cascade_depth(n, runs, parts) * acc.u * np.asarray(abs_sum))


def reference_error(
    n: int, abs_sum: NDArray[Any] | float, u: float = FLOAT64.u
) -> NDArray[Any]:
    """Error of our own sum of n terms with roundoff ``u``, any order, stored in float64."""
    size = np.abs(np.asarray(abs_sum))
    return np.asarray(size * (gamma(max(n, 1), u) + FLOAT64.u) + FLOAT64.eta)
