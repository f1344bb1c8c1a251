"""Eigenvalues of symmetric matrices and singular values: contracts of LAPACK.

The computed decomposition is exact for ``A + E`` with orthogonal factors, but for ``p(n) u``:
``||A - U S V^T|| <= p u ||A||``, ``||U^T U - I|| <= p u``, and by Weyl every eigenvalue or singular
value is within ``p u ||A||`` (LAPACK Users' Guide, sections 4.7 and 4.9; ``p`` "a modestly growing
function").  No proof is known with constants, so these are contracts:
``p = ROUNDINGS (max(m, n) + 8)``, half of it for the values, Frobenius norms on the left.  Measured
with MKL 2024.2 (drivers gesdd and syevd): at most 0.2 of it, for 30 kinds of matrices up to 200 x
200 and 100 x 500: constant ones, rank 1 and 2, graded, Hilbert, Kahan, Wilkinson, permutations,
clustered spectra, one outlier.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sdc_guard.formats import FLOAT64, Format

F64 = NDArray[np.float64]
ROUNDINGS, OF_VALUES = 40.0, 20.0
SMALLEST = 2.0**10
"""Matrices with a largest element below ``SMALLEST tiny / u`` are not judged."""


def share(shape: tuple[int, ...], fmt: Format, roundings: float = ROUNDINGS) -> float:
    """``p u`` of matrices of that shape, with as much for our own evaluation in float64."""
    return roundings * (max(shape[-2:]) + 8) * (fmt.u + FLOAT64.u)


def frobenius(a: NDArray[np.float64]) -> F64:
    """``||A||_F`` of each matrix, (..., 1, 1), without overflow."""
    size = np.abs(a)
    most = size.max((-2, -1), keepdims=True, initial=0.0)
    scale = np.where((most > 0) & np.isfinite(most), most, 1.0)
    return np.asarray(np.sqrt(np.square(size / scale).sum((-2, -1), keepdims=True)) * scale)


def in_range(a: NDArray[np.float64], fmt: Format) -> NDArray[np.bool_]:
    """Matrices, (..., 1, 1), that are 0 or far from both ends of the range."""
    most = np.abs(a).max((-2, -1), keepdims=True, initial=0.0)
    low = SMALLEST * fmt.tiny / fmt.u
    rows = a.shape[-1] + a.shape[-2]
    return np.asarray((most == 0) | ((most > low) & (most * rows < fmt.max / 16)))
