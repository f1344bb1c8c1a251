"""gamma_n and single roundings.

``gamma_n = n u / (1 - n u)`` bounds ``|prod (1 + d_i)^{+-1} - 1|`` for n roundings ``|d_i| <= u``
(Higham 2002, lemma 3.1), for ``n u < 1``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc_guard.formats import FLOAT64, Format


def gamma(n: float, u: float) -> float:
    """``n u / (1 - n u)``, rounded up; infinite where ``n u >= 1``, where the lemma is silent."""
    return n * u / (1.0 - n * u) * (1.0 + 2.0**-50) if n * u < 1.0 else float("inf")


def rounding(magnitude: NDArray[Any] | float, fmt: Format) -> NDArray[Any]:
    """Largest error of one rounding to nearest of a number at most ``magnitude`` in size:
    ``u |x| + eta / 2`` (the second term where the result is subnormal)."""
    return np.asarray(np.abs(magnitude) * fmt.u + 0.5 * fmt.eta)


def stored(error: NDArray[Any] | float, expected: NDArray[Any], fmt: Format) -> NDArray[Any]:
    """Bound after rounding to ``fmt``: ``e + u (|x| + e) + eta / 2`` for a computed value within
    ``e`` of ``x``.  Nothing is added where ``fmt`` is the format of the computation's last step
    and that rounding is already part of ``e``; callers decide."""
    return np.asarray(error + rounding(np.abs(expected) + error, fmt))


def own_rounding(n: int, magnitude: NDArray[Any] | float) -> NDArray[Any]:
    """Error of our own float64 evaluation: ``gamma_n(2^-53) * magnitude`` plus one underflow."""
    return np.asarray(np.abs(magnitude) * gamma(n, FLOAT64.u) + FLOAT64.eta)
