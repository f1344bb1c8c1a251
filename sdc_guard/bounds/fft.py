"""Discrete Fourier transforms of n points (of all transformed dimensions together).

*Path bound.*  In an algorithm of Cooley and Tukey's kind each input reaches each output along one
path of butterflies: the output is ``sum_j x_j w^{jk}``, every term with its own rounding errors.
With radix 2 a path has ``L = log2 n`` stages, each with at most one product by a stored root of
unity, which is off by mu, and one addition (a radix 4 or a split radix does the work of two stages
with no more).  The limit on the relative error of each term is one on the whole, relative to the
sum of their moduli:

    |y^_k - y_k| <= eta_L sum_j |x_j|,
    eta_L = ((1 + sqrt(2) gamma_2)(1 + mu)(1 + u))^L - 1      (Higham 2002, section 24.1)

with ``sqrt(2) gamma_2`` from lemma 3.5 and the premise ``mu <= 4 u``.  That is at most ``9 L u``;
it implies the normwise theorem 24.2, because ``sum|x| <= sqrt(n) ||x||_2 = ||y||_2``.  It is the
*proof* for powers of 2, under the premise of such an algorithm.

*Contract*, any n: ``4 log2(2 n) u sum|x|``.  Prime factors are transformed directly, by Rader's or
by Bluestein's method, whose convolutions have no such paths; the figure was measured (MKL 2024.2 in
torch 2.13; all n up to 139, and 40 primes, powers and products up to 65537; noise, constants,
lines, chirps, single points, outliers, 40 binades, sorted; forward, inverse, real): at most 1.6.

*Underflow.*  A product that underflows, or is flushed, is off by the smallest normal number; each
output depends on at most ``2 n`` nodes of a transform, on 8 n of Bluestein's three.

*Overflow.*  No intermediate of a path exceeds ``sum|x|``, but a real transform may be a complex one
of n / 2 points, whose results are added in pairs and then halved: twice that.  Bluestein's
convolution of M <= 4 n points multiplies it by the transform of a chirp and sums M of the products.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdc_guard.bounds.complex_numbers import ROOT2
from sdc_guard.bounds.gamma import gamma
from sdc_guard.formats import Format

Array = NDArray[Any]

CONTRACT = 4.0
ROOT_OF_UNITY = 4.0
LARGEST_DIRECT = 13
"""Primes up to this one have butterflies of their own in every library."""


def path_error(stages: int, u: float) -> float:
    """``eta_L``: the relative error of a path of L radix-2 stages."""
    stage = ROOT2 * gamma(2, u) + ROOT_OF_UNITY * u + u
    return float(np.expm1(stages * np.log1p(stage * (1 + 8 * u)))) * (1 + 2.0**-40)


def transform_error(n: int, total: Array, fmt: Format) -> tuple[Array | None, Array]:
    """(proof, contract) of an unscaled transform of n points whose moduli add up to ``total``;
    proof is None where n is not a power of 2."""
    lost = 16.0 * n * fmt.tiny
    contract = CONTRACT * np.log2(2.0 * n) * fmt.u * total + lost
    if n & (n - 1):
        return None, contract
    proof = path_error(n.bit_length() - 1, fmt.u) * total + lost
    return np.maximum(proof, contract), contract


PACKED = 2.0
"""Largest intermediate of a real transform over that of a complex one."""


def growth(n: int) -> float:
    """Largest intermediate over the sum of moduli: 1 where every factor of n is transformed
    directly."""
    rest = n
    for prime in (2, 3, 5, 7, 11, LARGEST_DIRECT):
        while rest > 1 and rest % prime == 0:
            rest //= prime
    return 1.0 if rest == 1 else 64.0 * float(n) ** 2
