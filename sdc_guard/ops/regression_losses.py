"""``mse_loss``, ``smooth_l1_loss``, ``huber_loss`` and their backwards.

With ``d = a - b`` within one rounding, the terms ``d^2``, ``d^2 / (2 beta)`` and ``|d| - beta /
2``, ``delta (|d| - delta / 2)`` are short chains: each operation is one rounding of a factor of the
result, but the last difference, whose error is that of its larger operand.  The two branches meet
with equal values and slopes, so an element near the border may take either.

The backwards are products of the gradient, ``d`` or a constant, and ``1/n`` for a mean: six
roundings, relatively; half formats may round each of them to the half format.

Place: operands roll together, without a mean they split (in the curved backwards vector body and
scalar tail differ by an ulp, so that elements keep their side); losses keep every bit when both
operands are negated, or swapped (seen in 4 formats, 1 and 2 threads). """

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sdc_guard.formats import FLOAT32, Format, is_covered_float
from sdc_guard.ops._losses import (
    BOTH_NEGATED,
    MEAN,
    SWAPPED,
    Array,
    gradient_axes,
    gradient_symmetries,
    loss_axes,
    loss_reference,
    loss_symmetries,
    samples_of,
)
from sdc_guard.ops._pointwise import chain, compute_format, stored_reference
from sdc_guard.ops._registry import HostCall, Reference, checked

aten = torch.ops.aten

GRADIENT_ROUNDINGS = 6

LOSS: dict[str, Any] = {"family": "loss", "axes": loss_axes, "reduction": True,
                        "window": ("d0", "d1", "d2"),
                        "symmetries": loss_symmetries(BOTH_NEGATED, SWAPPED)}
GRADIENT: dict[str, Any] = {"family": "loss", "axes": gradient_axes,
                            "window": ("d0", "d1", "d2"), "symmetries": gradient_symmetries()}
CURVED = GRADIENT | {"symmetries": gradient_symmetries(sensitive=True)}
"""Vector body and scalar tail differ by an ulp in these."""


def _square(call: HostCall, fmt: Format) -> tuple[Array, Array, Array]:
    square = (call.array("self") - call.array("target")) ** 2
    return square, 4 * fmt.u * square + 2 * fmt.eta + _half_store(call, 2 * square), square


def _half_store(call: HostCall, size: Array) -> Array:
    """The difference or an intermediate, rounded to a half format before it is used."""
    out = call.out_format()
    return np.asarray(out.u * size + out.eta if out.precision < FLOAT32.precision else 0.0)


@checked(aten.mse_loss, samples=samples_of(aten.mse_loss, False), **LOSS)
def mse_loss(call: HostCall) -> tuple[Reference | None, ...]:
    """``(a - b)^2``, its sum or its mean."""
    return loss_reference(call, _square, "4 roundings of (a - b)^2")


def _curved(call: HostCall, fmt: Format, border: float, scale: float
            ) -> tuple[Array, Array, Array]:
    """``scale d^2 / (2 border)`` inside the border, ``scale (|d| - border / 2)`` outside."""
    size = np.abs(call.array("self") - call.array("target"))
    inner = 0.5 * size * size / border if border > 0 else np.full_like(size, np.inf)
    outer = size - 0.5 * border
    value = scale * np.where(size < border, inner, outer)
    largest = scale * np.where(size < border, inner, np.maximum(size, 0.5 * border))
    near = np.abs(size - border) <= 4 * fmt.u * (size + border)
    largest = np.where(near, scale * np.maximum(size, border), largest)
    levers = 4 * (1 + scale + (1 / border if border > 0 else 0.0))
    error = 7 * fmt.u * largest + levers * fmt.eta + levers * _half_store(call, largest)
    return value, error, np.maximum(
        np.maximum(largest, size), np.where(size < border, size * size, 0.0))


@checked(aten.smooth_l1_loss, samples=samples_of(aten.smooth_l1_loss, False, 0.7), **LOSS)
def smooth_l1_loss(call: HostCall) -> tuple[Reference | None, ...]:
    """``d^2 / (2 beta)`` for ``|d| < beta``, else ``|d| - beta / 2``."""
    return loss_reference(call, lambda c, f: _curved(c, f, float(c["beta"]), 1.0),
                          "7 roundings of the largest intermediate")


@checked(aten.huber_loss, samples=samples_of(aten.huber_loss, False, 0.7), **LOSS)
def huber_loss(call: HostCall) -> tuple[Reference | None, ...]:
    """``d^2 / 2`` for ``|d| <= delta``, else ``delta (|d| - delta / 2)``."""
    return loss_reference(call, lambda c, f: _curved(c, f, float(c["delta"]), float(c["delta"])),
                          "7 roundings of the largest intermediate")


def gradient_reference(call: HostCall, slope: Array, lever: float = 1.0
                       ) -> tuple[Reference | None, ...]:
    """``g slope``, by n for a mean, as a product of rounded factors; ``slope`` is known to a
    relative error of some roundings, and an intermediate that underflows meets ``lever``."""
    if not is_covered_float(call.held[0].dtype):
        return (None,)
    out = call.out_format()
    compute = compute_format(out)
    g = call.array("grad_output")
    with np.errstate(all="ignore"):
        size = np.abs(g * slope)
        expected = g * slope / (slope.size if call["reduction"] == MEAN else 1)
        value = chain(expected, np.abs(expected), GRADIENT_ROUNDINGS, compute)
        # 2/n, or a product with it, may underflow before it meets a large factor.
        levers = (1 + lever) * (1 + np.abs(g)) * (1 + np.abs(slope))
        lost = 2 * compute.eta * levers
        if compute is not out:
            lost = GRADIENT_ROUNDINGS * (out.u * np.abs(expected) + out.eta * levers)
        value = type(value)(expected, value.contract + lost, value.proof + lost,
                            np.maximum(size, np.abs(slope)))
        return (stored_reference(call, value, "6 roundings, relative"),)


@checked(aten.mse_loss_backward, samples=samples_of(aten.mse_loss_backward, True), **GRADIENT)
def mse_loss_backward(call: HostCall) -> tuple[Reference | None, ...]:
    """``2 g (a - b)``, by n for a mean."""
    return gradient_reference(call, 2.0 * (call.array("self") - call.array("target")))


@checked(aten.smooth_l1_loss_backward,
         samples=samples_of(aten.smooth_l1_loss_backward, True, 0.7), **CURVED)
def smooth_l1_loss_backward(call: HostCall) -> tuple[Reference | None, ...]:
    """``g d / beta`` for ``|d| < beta``, else ``g sign(d)``; nothing is said of a negative beta,
    which the loss refuses and its gradient does not."""
    if float(call["beta"]) < 0:
        return (None,)
    d, beta = call.array("self") - call.array("target"), float(call["beta"])
    inside = np.abs(d) < beta
    slope = np.where(inside, d / beta if beta > 0 else d, np.sign(d))
    return gradient_reference(call, slope, 1 / beta if beta > 0 else 1.0)


@checked(aten.huber_loss_backward, samples=samples_of(aten.huber_loss_backward, True, 0.7),
         **CURVED)
def huber_loss_backward(call: HostCall) -> tuple[Reference | None, ...]:
    """``g d`` for ``|d| <= delta``, else ``g delta sign(d)``."""
    d, delta = call.array("self") - call.array("target"), float(call["delta"])
    return gradient_reference(call, np.clip(d, -delta, delta), delta)
