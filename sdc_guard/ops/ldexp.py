"""``ldexp``: ``a 2^b``.

ATen computes ``a * pow(2, b)`` (``ldexp`` in ``BinaryOps.cpp``), the power in the format of ``b``
(torch's default one where b holds integers), however wide a is.  So the bound is that of ``pow``, 8
ulps as in :mod:`sdc_guard.ops.elementary`, and one rounding; a power that underflows is off by eta
times ``|a|``.  Of half formats the power is stored, and intermediates of small exponents are (as in
``pow``): three roundings.  Where ``2^b`` overflows its format nothing is judged.  Vector body and
scalar tail of ``pow`` may differ.
"""

from __future__ import annotations

import numpy as np
import torch

from sdc_guard.formats import Format, format_of
from sdc_guard.ops._pointwise import Computed, bounded, compute_format, operand
from sdc_guard.ops._registry import HostCall

aten = torch.ops.aten

POW_ULPS = 8


@bounded(aten.ldexp, formula="8 ulps of a power of 2, a rounding", odd=("self",),
         tail_sensitive=True, layout_sensitive=True)
def ldexp(call: HostCall, compute: Format) -> Computed:
    """``a 2^b``."""
    a, b = operand(call, "self"), operand(call, "other")
    other = call["other"].dtype
    own = format_of(other if other.is_floating_point else torch.get_default_dtype())
    inner = compute_format(own)
    power = np.exp2(b)
    expected = a * power
    error = (2 * POW_ULPS * inner.u + compute.u) * np.abs(expected)
    error = error + (own.eta + inner.eta + compute.eta) * np.abs(a) + compute.eta
    out = call.out_format()
    for fmt in (own, out):
        if fmt.precision < compute_format(fmt).precision:
            error = error + 3 * fmt.u * np.abs(expected) + fmt.eta * np.abs(a)
    reach = np.where(power < min(own.max, out.max) / 2, power, np.inf)
    return Computed(expected, error, error, np.maximum(np.abs(expected), reach))
