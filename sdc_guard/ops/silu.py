"""SiLU (``x / (1 + e^-x)``) and its backward.

Bounds, u the roundoff of the computing format and e = 8 u the error of ``exp`` (4 ulps):
``1 + e^-x`` has positive terms, so ``s = 1/(1 + e^-x)`` errs by ``(e + 2u) s``, and s is 0 instead
of below 1/max where ``e^-x`` overflows.  SiLU errs by ``(e + 3u) |y| + |x| / max``.  Backward,
``g s (1 + x (1 - s))``: ``1 - s`` errs by ``(e + 2u) s + u (1 - s)``, x times that, one rounding of
each of the four operations.

Place: vector body and scalar tail differ by ulps.  Negating the gradient negates the result.
"""

from __future__ import annotations

import numpy as np
import torch

from sdc_guard.bounds.elementwise import ELEMENTARY_ULPS
from sdc_guard.formats import Format
from sdc_guard.ops._pointwise import Computed, bounded
from sdc_guard.ops._registry import HostCall
from sdc_guard.ops.elementary import logistic
from sdc_guard.ops.gelu import finish

aten = torch.ops.aten

LOGISTIC_ROUNDINGS = 2 * ELEMENTARY_ULPS + 2


@bounded(aten.silu, formula="(2 * 4 ulps + 3) u |y| + |x| / max", tail_sensitive=True)
def silu(call: HostCall, compute: Format) -> Computed:
    """``x / (1 + exp(-x))``."""
    x, u = call.array("self"), compute.u
    expected = x * logistic(x)
    error = (LOGISTIC_ROUNDINGS + 1) * u * np.abs(expected) + np.abs(x) / compute.max
    return finish(expected, error, np.abs(x), compute, call.out_format())


@bounded(aten.silu_backward, formula="|g| err(s (1 + x (1 - s))), derived in the docstring",
         odd=("grad_output",), tail_sensitive=True)
def silu_backward(call: HostCall, compute: Format) -> Computed:
    """``g s (1 + x (1 - s))`` with ``s`` the logistic function of x."""
    g, x, u = call.array("grad_output"), call.array("self"), compute.u
    s, rest = logistic(x), logistic(-x)
    factor = 1 + x * rest
    error_factor = np.abs(x) * (LOGISTIC_ROUNDINGS * u * s + 2 * u * rest) + u * np.abs(factor)
    error = s * error_factor + (LOGISTIC_ROUNDINGS + 2) * u * np.abs(s * factor)
    error = error + np.abs(factor) / compute.max
    size = np.abs(g) * (1 + np.abs(x))
    return finish(g * s * factor, np.abs(g) * error, size, compute, call.out_format())
