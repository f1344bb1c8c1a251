"""Sums of n terms.

*Proof.*  In any order, with any tree, ``|computed - exact| <= gamma_{n-1} sum|x|`` (Higham 2002,
eq. 4.4); where ``n u >= 1`` and rounding is to nearest, ``(n-1) u sum|x|`` holds (Jeannerod and
Rump 2013).  The second form is the smaller one and is used throughout.

*Contract.*  A tree of depth h errs by at most ``h u sum|x|`` to first order.  ATen's CPU kernel adds
in four cascaded levels of ``2^p`` terms each, ``p = max(4, ceil(log2(n) / 4))``, in up to 4 x 16
parallel lanes that are then combined one after the other, and one partial sum per thread
(``aten/src/ATen/native/cpu/SumKernel.cpp``, ``cascade_sum``): ``h = 4 * 2^p + 64 + threads``.  The
top level has no limit, which ``p`` accounts for: ``n <= 2^(4 p)``.  CUDA's reduction has at most that
depth for the sizes that fit a device: its blocks halve trees over 512 threads whose serial part
is ``n / (threads * blocks)``.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sdc_guard.bounds.gamma import own_rounding
from sdc_guard.formats import Format

LANES = 64
THREADS = 64


def any_order(n: int, abs_sum: NDArray[Any] | float, acc: Format) -> NDArray[Any]:
    """``(n - 1) u sum|x|``: the proof bound of a sum of n terms of format ``acc``, any order."""
    return np.asarray(max(n - 1, 0) * acc.u * np.asarray(abs_sum))


def cascade_depth(n: int) -> int:
    """Depth h of ATen's cascade for n terms, at most ``n - 1``."""
    if n <= 1:
        return 0
    level = 2 ** max(4, math.ceil(math.log2(n) / 4))
    return min(n - 1, 4 * level + LANES + THREADS)


@cache
def vector_bytes() -> int:
    """Narrowest vector that an ATen kernel may use on this CPU.  On a CPU with AVX-512 most kernels
    still run their AVX2 version (``REGISTER_DISPATCH`` in ``DispatchStub.h``)."""
    wide = ("AVX512", "AVX2", "SVE256")
    return 32 if torch.backends.cpu.get_cpu_capability() in wide else 16


def lane_depth(n: int, acc: Format) -> int:
    """Depth of ``vec::reduce_all`` and its kin (``ATen/cpu/vec/functional_base.h``): one running sum
    per SIMD lane, then the lanes (16 at most) and a vector's length of leftovers one by one.
    CUDA's warps are wider than any of these vectors."""
    lanes = vector_bytes() // (4 if acc.precision <= 24 else 8)
    return max(min(n - 1, math.ceil(n / lanes) + 2 * LANES // 4), 0)


def cascade(n: int, abs_sum: NDArray[Any] | float, acc: Format) -> NDArray[Any]:
    """``h u sum|x|`` with the depth h of the backend's own algorithm: the contract bound."""
    return np.asarray(cascade_depth(n) * acc.u * np.asarray(abs_sum))


def reference_error(n: int, abs_sum: NDArray[Any] | float) -> NDArray[Any]:
    """Error of NumPy's float64 sum of n terms, any order."""
    return own_rounding(max(n, 1), abs_sum)
