"""Products of Householder reflectors ``I - tau v v^T``, and QR factorizations by them.

Constants of Higham 2002, lemma 19.2 and theorem 19.4, counted out: v and tau are right within
``gamma_{m+8}``, so a reflector is within ``6 gamma_{m+8}`` of an orthogonal one, and applying it
errs by ``(2 gamma_{m+3} + 3 u) ||b||``: together ``9 gamma_{m+8}`` for each, ``gamma_{10 r (m+8)}``
for r of them, ``e = gamma_{20 r (m+8)}`` with the triangles of blocked reflectors (section 19.5),
which are formed and applied as products of the same length.  Then

* ``||a_j - Q r_j|| <= (1 + sqrt(r)) e ||a_j||``, and ``||Q^T Q - I||_F <= 3 sqrt(r) e``: the proof;
* of given reflectors, column j of a product with C errs by at most ``e ||c_j||``.

Contract: ``CONTRACT (m + 8) u`` in the place of ``e`` and of its products, ``GIVEN (m + 8) u`` for
given reflectors, which LAPACK keeps with a margin of 10 (measured with MKL 2024.2 up to 200 rows:
constant matrices, rank 1, graded, Hilbert, Kahan, 30 binades).  LAPACK Users' Guide, section 4.1: a
modestly growing function of the dimensions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc_guard.bounds.gamma import gamma
from sdc_guard.formats import FLOAT64, Format

F64 = NDArray[np.float64]
CONTRACT, GIVEN = 16.0, 6.0
"""Roundings for each row."""


def proof_share(m: int, reflectors: int, fmt: Format) -> float:
    """``e``, with the rounding of our own evaluation by reflectors in float64."""
    n = 20 * max(reflectors, 1) * (m + 8)
    return gamma(n, fmt.u) + gamma(n, FLOAT64.u)


def contract_share(m: int, fmt: Format, roundings: float = CONTRACT) -> float:
    """``CONTRACT (m + 8) u``, with our own rounding."""
    return roundings * (m + 8) * (fmt.u + FLOAT64.u)


def underflow(m: int, reflectors: int, fmt: Format) -> float:
    """All that underflows in an element."""
    return 8.0 * (m + 8) * (reflectors + 1) * fmt.eta


def vectors(packed: NDArray[Any], reflectors: int) -> NDArray[Any]:
    """The v of each reflector as columns: 1 on the diagonal, 0 above."""
    v = np.tril(packed[..., :reflectors], -1)
    i = np.arange(min(v.shape[-2:]))
    v[..., i, i] = 1.0
    return v


def are_orthogonal(v: NDArray[Any], tau: NDArray[Any]) -> NDArray[np.bool_]:
    """True for the matrices, (..., 1, 1), whose reflectors are orthogonal but for rounding, as
    those of a factorization are: ``tau v^T v`` is 0 or 2."""
    t = np.abs(tau) * np.square(v).sum(-2)
    near = (t == 0) | (np.abs(t - 2.0) <= 2.0**-6)
    near &= (np.abs(v) <= 2.0).all(-2)  # they are scaled to at most 1
    return np.asarray(near.all(-1))[..., None, None]


def applied(
    v: NDArray[Any], tau: NDArray[Any], c: NDArray[Any], *, transpose: bool
) -> NDArray[Any]:
    """``H_1 ... H_r C``, or the transpose of the product times C."""
    c = np.array(c)
    steps = range(v.shape[-1])
    for i in steps if transpose else reversed(steps):
        row = np.matmul(v[..., None, :, i], c)
        c = c - tau[..., i, None, None] * v[..., :, i, None] * row
    return np.asarray(c)


def column_norms(a: NDArray[Any]) -> F64:
    """Euclidean length of each column, (..., 1, n)."""
    most = np.abs(a).max(-2, keepdims=True, initial=0.0)
    scale = np.where((most > 0) & np.isfinite(most), most, 1.0)
    return np.asarray(np.sqrt(np.square(np.abs(a) / scale).sum(-2, keepdims=True)) * scale)
