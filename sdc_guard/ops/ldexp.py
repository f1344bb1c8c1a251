"""``ldexp``: ``a 2^b``.

ATen computes ``a * pow(2, b)`` (``ldexp`` in ``BinaryOps.cpp``), so the bound is that of ``pow``, 8
ulps as in :mod:`sdc_guard.ops.elementary`, and one rounding; a power that underflows is off by eta
times ``|a|``.  Of half formats the power is stored, and intermediates of small exponents are (as in
``pow``): three roundings.  Where ``2^b`` overflows the format nothing is judged.  Vector body and
scalar tail of ``pow`` may differ.
"""

from __future__ import annotations

import numpy as np
import torch

from sdc_guard.formats import Format
from sdc_guard.ops._pointwise import Computed, bounded, operand
from sdc_guard.ops._registry import HostCall

aten = torch.ops.aten

POW_ULPS = 8


@bounded(aten.ldexp, formula="8 ulps of a power of 2, a rounding", odd=("self",),
         tail_sensitive=True, layout_sensitive=True)
def ldexp(call: HostCall, compute: Format) -> Computed:
    """``a 2^b``."""
    a, b = operand(call, "self"), operand(call, "other")
    power = np.exp2(b)
    expected = a * power
    error = (2 * POW_ULPS + 1) * compute.u * np.abs(expected) + compute.eta * (np.abs(a) + 1)
    out = call.out_format()
    reach = power
    if out.precision < compute.precision:
        error = error + 3 * out.u * np.abs(expected) + out.eta * np.abs(a)
        reach = np.where(power < out.max, power, np.inf)
    return Computed(expected, error, error, np.maximum(np.abs(expected), reach))
