"""``logaddexp`` and ``logaddexp2``, elementwise.

``m + log1p(exp(-d))`` with m the larger operand and ``d = |a - b|``: the rounding of d changes the
exponential by ``u d e^-d <= u``, both functions are right to a relative phi, and the addition
rounds once: ``u (|result| + 1) + 3 phi log1p(e^-d)``.  To base 2 the last factor and the logarithm
differ by constants of at most ``1 / log 2``, one more rounding.  phi is 4 ulps in the contract and
half the significand in the proof.  Half formats are computed in fp32.

Place: vector body and scalar tail may use different functions, so elements keep their side.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from sdc_guard.bounds.elementwise import ELEMENTARY_ULPS
from sdc_guard.bounds.gamma import own_rounding, rounding
from sdc_guard.formats import Format
from sdc_guard.ops._pointwise import Computed, bounded, operand
from sdc_guard.ops._registry import HostCall

aten = torch.ops.aten


def _computed(call: HostCall, compute: Format, base2: bool) -> Computed:
    a, b = operand(call, "self"), operand(call, "other")
    unit = 1 / math.log(2) if base2 else 1.0
    expected = (np.logaddexp2 if base2 else np.logaddexp)(a, b)
    distance = np.abs(a - b)
    term = np.where(np.isfinite(distance), np.log1p(np.exp(-distance / unit)) * unit, 0.0)
    rounded = rounding(np.abs(expected), compute) + 2 * compute.u * unit + compute.eta
    own = own_rounding(16, np.abs(expected) + 1)
    contract = rounded + 6 * ELEMENTARY_ULPS * compute.u * (term + compute.tiny) + own
    proof = rounded + 3 * 2.0 ** (-compute.precision / 2) * (term + compute.tiny) + own
    return Computed(expected, contract, np.maximum(proof, contract), np.abs(expected))


@bounded(aten.logaddexp, formula="u (|result| + 1) + 3 phi log1p(e^-d)", tail_sensitive=True,
         layout_sensitive=True)
def logaddexp(call: HostCall, compute: Format) -> Computed:
    """``log(e^a + e^b)``."""
    return _computed(call, compute, base2=False)


@bounded(aten.logaddexp2, formula="u (|result| + 1) + 3 phi log2(1 + 2^-d)", tail_sensitive=True,
         layout_sensitive=True)
def logaddexp2(call: HostCall, compute: Format) -> Computed:
    """``log2(2^a + 2^b)``."""
    return _computed(call, compute, base2=True)
