"""Rectifiers and clamps: results are an operand's bits, zero, or one product.

Scalar limits are rounded to the operand's format first.  NaN passes through.  Place: equal bits
wherever an element stands; the backward forms are odd in the gradient.
"""

from __future__ import annotations

import numpy as np
import torch

from sdc_guard import bits
from sdc_guard.bounds.casts import nearest
from sdc_guard.formats import is_covered_float
from sdc_guard.ops._integers import is_integer
from sdc_guard.ops._pointwise import Array, operand, pointwise
from sdc_guard.ops._registry import HostCall

aten = torch.ops.aten


def limit(call: HostCall, name: str) -> Array:
    """A limit in the format of the result: beside uint8 a -2 becomes 254, as ATen converts it."""
    value, held = operand(call, name), call.held[0]
    if is_covered_float(held.dtype):
        return nearest(value, call.out_format())
    if not is_integer(held.dtype):
        return value
    return np.asarray(value).astype(np.int64).astype(bits.values(held).dtype)


@pointwise(aten.relu, formula="exact", integers=True)
def relu(call: HostCall) -> tuple[Array, Array, int]:
    """``max(x, 0)``."""
    x = call.number("self")
    return np.maximum(x, x.dtype.type(0)), np.abs(x), 0


@pointwise(aten.threshold_backward, formula="exact", odd=("grad_output",))
def threshold_backward(call: HostCall) -> tuple[Array, Array, int]:
    """The gradient where ``not x <= threshold``, else 0.  In half formats either is right where x
    is the threshold's rounding: some kernels compare in fp32 with the threshold itself (seen)."""
    g, x = call.number("grad_output"), call.number("self")
    threshold = limit(call, "threshold")
    gradient = np.where(x <= threshold, 0.0, g)
    if call["threshold"] != 0 and call.held[0].element_size() == 2:
        gradient = np.where(x == threshold, bits.values(call.held[0]), gradient)
    return gradient, np.abs(g), 0


def _clamp(call: HostCall, low: str | None, high: str | None) -> tuple[Array, Array, int]:
    x = operand(call, "self")
    if low is not None and call.get(low) is not None:
        x = np.maximum(x, limit(call, low))
    if high is not None and call.get(high) is not None:
        x = np.minimum(x, limit(call, high))
    return x, np.abs(x), 0


@pointwise(aten.clamp, formula="exact", integers=True, scalars={"min": -1, "max": 2})
def clamp(call: HostCall) -> tuple[Array, Array, int]:
    """``min(max(x, low), high)``."""
    return _clamp(call, "min", "max")


@pointwise(aten.clamp_min, formula="exact", integers=True)
def clamp_min(call: HostCall) -> tuple[Array, Array, int]:
    """``max(x, low)``."""
    return _clamp(call, "min", None)


@pointwise(aten.clamp_max, formula="exact", integers=True)
def clamp_max(call: HostCall) -> tuple[Array, Array, int]:
    """``min(x, high)``."""
    return _clamp(call, None, "max")


@pointwise(aten.leaky_relu, formula="2 roundings of the product; exact for x > 0",
           scalars={"negative_slope": 0.01})
def leaky_relu(call: HostCall) -> tuple[Array, Array, int]:
    """``x`` where positive, else ``slope x``."""
    x = call.number("self")
    product = x * call.number("negative_slope", 0.01)
    return np.where(x > 0, x, product), np.where(x > 0, 0.0, np.abs(product)), 2


@pointwise(aten.leaky_relu_backward, formula="2 roundings of the product; exact for x > 0",
           odd=("grad_output",), scalars={"negative_slope": 0.01})
def leaky_relu_backward(call: HostCall) -> tuple[Array, Array, int]:
    """The gradient where x is positive, else ``slope g``."""
    g, x = call.number("grad_output"), call.number("self")
    product = g * call.number("negative_slope")
    return np.where(x > 0, g, product), np.where(x > 0, 0.0, np.abs(product)), 2

