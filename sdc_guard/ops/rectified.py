"""Piecewise linear activations and their backwards: an operand's bits, a constant, or a short
chain.

``hardtanh``, ``hardshrink``, ``threshold`` select; ``hardswish``, ``hardsigmoid``, ``softshrink``,
``prelu``, ``rrelu``'s backward make at most five operations, each one rounding of a factor of the
result, so that their errors add up relatively.  Place: equal bits wherever an element stands; every
backward is odd in the gradient (seen in 4 formats).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.gamma import rounding
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT32, is_covered_float
from sdc_guard.ops._axes import broadcast_axes
from sdc_guard.ops._places import pointwise_symmetries
from sdc_guard.ops._pointwise import (
    Array,
    chain,
    compute_format,
    operand,
    pointwise,
)
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, LAYOUTS, SampleList, draw_values
from sdc_guard.ops._symmetry import OUTERMOST, Symmetry
from sdc_guard.ops.relu import limit

aten = torch.ops.aten

THIRDS = 3.0
"""``hardswish`` and ``hardsigmoid`` are linear from -3 to 3."""


@pointwise(aten.hardtanh, formula="exact", integers=True, scalars={"min_val": -1, "max_val": 2})
def hardtanh(call: HostCall) -> tuple[Array, Array, int]:
    """``min(max(x, low), high)``."""
    x = operand(call, "self")
    x = np.minimum(np.maximum(x, limit(call, "min_val")), limit(call, "max_val"))
    return x, np.abs(x), 0


def _left_open(call: HostCall, x: Array, *limits: str, nan: bool = True) -> Array:
    """Where either side is right: a NaN, which vector bodies and scalar tails sort differently
    (seen), and in half formats an element that is the limit's rounding, because some kernels
    compare in fp32 with the limit itself (seen)."""
    mask = np.isnan(x) & nan
    if call.held[0].is_floating_point() and call.held[0].element_size() == 2:
        for name in limits:
            mask = mask | (np.abs(x) == np.abs(limit(call, name)))
    return np.asarray(mask)


def _selected(call: HostCall, mask: Array, expected: Array) -> Array:
    """``expected``, or what was got where that is left open."""
    return np.where(mask, bits.values(call.held[0]), expected) if mask.any() else expected


@pointwise(aten.hardtanh_backward, formula="exact", odd=("grad_output",),
           scalars={"min_val": -1.0, "max_val": 2.0})
def hardtanh_backward(call: HostCall) -> tuple[Array, Array, int]:
    """The gradient strictly between the limits, else 0."""
    g, x = call.number("grad_output"), call.number("self")
    outside = (x <= limit(call, "min_val")) | (x >= limit(call, "max_val"))
    mask = _left_open(call, x, "min_val", "max_val")
    return _selected(call, mask, np.where(outside, 0.0, g)), np.abs(g), 0


@pointwise(aten.threshold, formula="exact", integers=True, scalars={"threshold": 1, "value": -2})
def threshold(call: HostCall) -> tuple[Array, Array, int]:
    """``value`` where ``x <= threshold``, else x."""
    x = operand(call, "self")
    chosen = np.where(x <= limit(call, "threshold"), limit(call, "value"), x)
    mask = _left_open(call, x, "threshold", nan=False)
    return _selected(call, mask, chosen.astype(x.dtype, copy=False)), np.abs(x), 0


def _inside(call: HostCall, x: Array) -> Array:
    lambd = np.asarray(limit(call, "lambd"))
    return np.asarray((x >= -lambd) & (x <= lambd))


@pointwise(aten.hardshrink, formula="exact", odd=("self",), scalars={"lambd": 0.5})
def hardshrink(call: HostCall) -> tuple[Array, Array, int]:
    """x outside ``[-lambd, lambd]``, else 0."""
    x = call.number("self")
    mask = _left_open(call, x, "lambd")
    return _selected(call, mask, np.where(_inside(call, x), 0.0, x)), np.abs(x), 0


@pointwise(aten.hardshrink_backward, formula="exact", odd=("grad_out",), scalars={"lambd": 0.5})
def hardshrink_backward(call: HostCall) -> tuple[Array, Array, int]:
    """The gradient where x is outside ``[-lambd, lambd]``, else 0."""
    g, x = call.number("grad_out"), call.number("self")
    mask = _left_open(call, x, "lambd")
    return _selected(call, mask, np.where(_inside(call, x), 0.0, g)), np.abs(g), 0


@pointwise(aten.softshrink_backward, formula="exact", odd=("grad_output",),
           scalars={"lambd": 0.5})
def softshrink_backward(call: HostCall) -> tuple[Array, Array, int]:
    """The gradient where x is outside ``[-lambd, lambd]``, else 0."""
    g, x = call.number("grad_output"), call.number("self")
    mask = _left_open(call, x, "lambd")
    return _selected(call, mask, np.where(_inside(call, x), 0.0, g)), np.abs(g), 0


def _lambd_rounding(call: HostCall) -> Array:
    """Half formats: ``lambd`` may be rounded to them or not; either side of it is right."""
    out = call.out_format()
    x, lambd = call.number("self"), abs(float(call["lambd"]))
    used = np.abs(x) >= lambd * (1 - 2 * out.u)
    return np.where(used & (out.precision < FLOAT32.precision), 2.1 * out.u * lambd, 0.0)


@pointwise(aten.softshrink, formula="2 roundings of |x|, one of lambd", odd=("self",),
           scalars={"lambd": 0.5}, tail_sensitive=True, extra=_lambd_rounding)
def softshrink(call: HostCall) -> tuple[Array, Array, int]:
    """``x - lambd`` above it, ``x + lambd`` below ``-lambd``, else 0; NaN stays."""
    x, lambd = call.number("self"), np.asarray(limit(call, "lambd"))
    shrunk = np.where(x > lambd, x - lambd, np.where(x < -lambd, x + lambd, x * 0.0))
    return shrunk, np.where(_inside(call, x), 0.0, np.abs(x)), 2


@pointwise(aten.hardsigmoid, formula="4 roundings of y, relative")
def hardsigmoid(call: HostCall) -> tuple[Array, Array, int]:
    """``min(max(x + 3, 0), 6) / 6``."""
    y = np.clip(call.number("self") + THIRDS, 0.0, 6.0) / 6.0
    return y, y, 4


def _single_sixth(call: HostCall) -> Array:
    """ATen keeps 1/6 in fp32 (``hardsigmoid_backward_kernel`` in ``Activation.cpp``), so that a
    double's gradient is right to fp32's roundoff only (seen)."""
    g = call.number("grad_output")
    wide = call.out_format().precision > FLOAT32.precision
    return np.asarray(np.abs(g) / 6.0 * FLOAT32.u if wide else 0.0)


@pointwise(aten.hardsigmoid_backward, formula="2 roundings of g / 6, 1/6 in fp32",
           odd=("grad_output",), extra=_single_sixth)
def hardsigmoid_backward(call: HostCall) -> tuple[Array, Array, int]:
    """``g / 6`` where ``-3 < x < 3``, else 0."""
    g, x = call.number("grad_output"), call.number("self")
    slope = np.where((x > -THIRDS) & (x < THIRDS), g / 6.0, 0.0)
    return slope, np.abs(slope), 2


def _underflown(call: HostCall) -> Array:
    """A product of two operands that underflows before it is divided."""
    return np.asarray(compute_format(call.out_format()).eta)


@pointwise(aten.hardswish, formula="5 roundings of y, relative", extra=_underflown)
def hardswish(call: HostCall) -> tuple[Array, Array, int]:
    """``x min(max(x + 3, 0), 6) / 6``."""
    x = call.number("self")
    y = x * np.clip(x + THIRDS, 0.0, 6.0) / 6.0
    return y, 6.0 * np.abs(y), 1


def _at_a_kink(call: HostCall) -> Array:
    """At -3 and 3 either side's slope is a derivative; releases of torch differ in which."""
    g, x = call.number("grad_output"), call.number("self")
    return np.where(np.abs(x) == THIRDS, np.abs(g), 0.0)


@pointwise(aten.hardswish_backward, formula="5 roundings of |g| max(1, |x / 3|)",
           odd=("grad_output",), extra=_at_a_kink)
def hardswish_backward(call: HostCall) -> tuple[Array, Array, int]:
    """0 below -3, ``g (x / 3 + 1/2)`` up to 3, g above."""
    g, x = call.number("grad_output"), call.number("self")
    linear = g * (x / THIRDS + 0.5)
    gradient = np.where(x < -THIRDS, 0.0, np.where(x <= THIRDS, linear, g))
    gradient = _selected(call, np.isnan(x), gradient)
    return gradient, np.where(np.abs(x) <= THIRDS, np.abs(g) * 1.5, 0.0), 5


@pointwise(aten.rrelu_with_noise_backward, formula="3 roundings of the product",
           odd=("grad_output",),
           scalars={"lower": 0.125, "upper": 0.3, "training": True, "self_is_result": False})
def rrelu_with_noise_backward(call: HostCall) -> tuple[Array, Array, int]:
    """``noise g`` in training; ``g`` or ``g (lower + upper) / 2`` by the sign of x else."""
    g = call.number("grad_output")
    lower, upper = float(call["lower"]), float(call["upper"])
    if call["training"] and upper - lower > 1e-6:
        product = g * call.number("noise")
        return product, np.abs(product), 3
    product = g * (lower + upper) / 2
    positive = call.number("self") > 0
    return np.where(positive, g, product), np.where(positive, 0.0, np.abs(product)), 3


def _symmetries(odd: str | None) -> Any:
    def symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
        return pointwise_symmetries(call, held, odd=() if odd is None else (odd,))

    return symmetries


def _prelu_samples(op: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in FLOATS:
            return []
        draw = draw_values(generator, dtype, "any")
        count = 2 if op is aten._prelu_kernel else 3
        calls: SampleList = [
            (op.default, tuple(layout(draw) for _ in range(count)), {}) for layout in LAYOUTS]
        rest = (draw(1, 37),)
        lead = tuple(draw(9, 37) for _ in range(count - 1))
        return [*calls, (op.default, (*lead, *rest), {})]

    return samples


def _product(call: HostCall, output: int, chosen: Array, product: Array, exact: Array) -> Reference:
    """``chosen`` where ``exact``, else a product within two roundings."""
    compute = compute_format(call.out_format(output))
    expected = np.where(exact, chosen, product)
    value = chain(expected, np.where(exact, 0.0, np.abs(product)), 2, compute)
    error = np.where(exact, 0.0, value.contract)
    out = call.out_format(output)
    if compute is not out:
        error = np.where(exact, 0.0, error + rounding(np.abs(expected) + error, out))
    return Reference(expected, error, error, "2 roundings of the product", np.abs(expected))


@checked(aten._prelu_kernel, family="pointwise", axes=broadcast_axes, symmetries=_symmetries(None),
         window=(OUTERMOST,), samples=_prelu_samples(aten._prelu_kernel))
def prelu(call: HostCall) -> tuple[Reference | None, ...]:
    """``x`` where positive, else ``w x``."""
    if not is_covered_float(call.held[0].dtype):
        return (None,)
    x, w = call.number("self"), call.number("weight")
    return (_product(call, 0, x, w * x, x > 0),)


@checked(aten._prelu_kernel_backward, family="pointwise", axes=broadcast_axes,
         symmetries=_symmetries("grad_output"), window=(OUTERMOST,),
         samples=_prelu_samples(aten._prelu_kernel_backward))
def prelu_backward(call: HostCall) -> tuple[Reference | None, ...]:
    """``g`` or ``w g`` for x; 0 or ``x g`` for the weight."""
    if not is_covered_float(call.held[0].dtype):
        return None, None
    g, x, w = (call.number(n) for n in ("grad_output", "self", "weight"))
    positive = x > 0
    return (_product(call, 0, g, w * g, positive),
            _product(call, 1, np.asarray(0.0), x * g, positive))
