"""Binary cross entropy (with and without logits), soft margin loss, and their backwards.

Bounds, u the roundoff of the computing format, v that of the storage format where whole tensors are
intermediates, e = 8 u the error of an elementary function (4 ulps).

*binary_cross_entropy*, ``(t - 1) max(log1p(-x), -100) - t max(log x, -100)``: each logarithm errs
by e relatively, each product and the sum by u: ``(e + 3u)(|t - 1| |log1p(-x)| + t |log x|)``.
Backward, ``g (x - t) / max((1 - x) x, 1e-12)``: seven roundings, relatively.

*with logits*, ``(1 - t) x - l(x) (1 + (p - 1) t)`` with ``l = min(x, 0) - log1p(exp(-|x|))``:
``l`` errs by ``e exp(-|x|) + e log1p(..) + 2u |l| <= 22 u |l|``; the whole tensors in between are
stored, so the products and sums err by v each.

*soft_margin_loss*, ``log1p(exp(z))``, ``z = -t x`` stored: ``exp`` errs by ``r = v |z| + e + v``,
the logarithm by ``s(z) r + e y``.  Backward ``-t g w / (1 + w)`` by ``s r`` and seven roundings.

Place: vector body and scalar tail differ by ulps; the backwards are odd in the gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sdc_guard.bounds.elementwise import ELEMENTARY_ULPS
from sdc_guard.formats import FLOAT32, Format, is_covered_float
from sdc_guard.ops._losses import (
    MEAN,
    Array,
    gradient_axes,
    gradient_symmetries,
    loss_axes,
    loss_reference,
    loss_symmetries,
    samples_of,
)
from sdc_guard.ops._pointwise import Computed, compute_format, stored_reference
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops.elementary import logistic

aten = torch.ops.aten

FUNCTION = 2 * ELEMENTARY_ULPS
FLOOR = -100.0
SMALLEST = 1e-12
LOG_SIGMOID = 22.0

LOSS: dict[str, Any] = {"family": "loss", "axes": loss_axes, "reduction": True,
                        "window": ("d0", "d1", "d2"),
                        "symmetries": loss_symmetries(sensitive=True)}
GRADIENT: dict[str, Any] = {"family": "loss", "axes": gradient_axes, "window": ("d0", "d1", "d2"),
                            "symmetries": gradient_symmetries(sensitive=True)}


def _weighted(call: HostCall, value: Array, error: Array, size: Array, v: float
              ) -> tuple[Array, Array, Array]:
    """The three with the element weights multiplied in."""
    if call.get("weight") is None:
        return value, error, size
    weight = call.array("weight")
    value, error, size = value * weight, error * np.abs(weight), size * np.maximum(
        np.abs(weight), 1.0)
    return value, error + v * (np.abs(value) + error), size


def _bce(call: HostCall, fmt: Format) -> tuple[Array, Array, Array]:
    x, t = call.array("self"), call.array("target")
    v = call.out_format().u
    first = (t - 1) * np.maximum(np.log1p(-x), FLOOR)
    second = t * np.maximum(np.log(x), FLOOR)
    size = np.abs(first) + np.abs(second)
    error = (FUNCTION + 3) * fmt.u * size + (3 * v * size if v > fmt.u else 0.0)
    return _weighted(call, first - second, error + 8 * call.out_format().eta, size, v)


@checked(aten.binary_cross_entropy, samples=samples_of(
    aten.binary_cross_entropy, False, domain="share", weight=True), **LOSS)
def binary_cross_entropy(call: HostCall) -> tuple[Reference | None, ...]:
    """``-t log x - (1 - t) log(1 - x)``, logarithms no smaller than -100."""
    return loss_reference(call, _bce, "(e + 3u) of both products", premise=True)


@checked(aten.binary_cross_entropy_backward, samples=samples_of(
    aten.binary_cross_entropy_backward, True, domain="share", weight=True), **GRADIENT)
def binary_cross_entropy_backward(call: HostCall) -> tuple[Reference | None, ...]:
    """``g (x - t) / max((1 - x) x, 1e-12)``, times the weight, by n for a mean."""
    if not is_covered_float(call.held[0].dtype):
        return (None,)
    out = call.out_format()
    fmt = compute_format(out)
    g, x, t = call.array("grad_output"), call.array("self"), call.array("target")
    weight = np.asarray(1.0) if call.get("weight") is None else call.array("weight")
    n = x.size if call["reduction"] == MEAN else 1
    with np.errstate(all="ignore"):
        base = (1 - x) * x
        slope = (x - t) / np.maximum(base, SMALLEST)
        whole = g * slope
        expected = whole * weight / n
        # ATen keeps 1e-12 in fp32 (``Loss.cpp``).
        single = np.where(base <= SMALLEST * (1 + 1e-6), FLOAT32.u, 0.0)
        error = (12 * fmt.u + 2 * single) * np.abs(expected)
        error = error + 8 * fmt.eta * (1 + np.abs(weight)) * (1 + 1 / np.maximum(base, SMALLEST))
        if out is not fmt:  # every operation may round to the half format (seen)
            error = error + 8 * out.u * np.abs(expected) + 8 * out.eta * (1 + np.abs(weight))
            # Either side of the smallest divisor, which a half format may not hold.
            error = np.where(base <= 4 * out.eta, np.inf,
                             error + 4 * out.eta / base * (1 + np.abs(expected)) * (
                                 1 + np.abs(weight)))
        size = np.maximum(np.abs(whole) * np.maximum(1.0, np.abs(weight)), np.abs(slope))
        value = Computed(expected, error, np.maximum(
            error, 2.0 ** (-fmt.precision / 2) * size), size)
        return (stored_reference(call, value, "12 roundings, relative"),)


def _with_logits(call: HostCall, fmt: Format) -> tuple[Array, Array, Array]:
    x, t = call.array("self"), call.array("target")
    out = call.out_format()
    v = out.u
    logarithm = np.minimum(x, 0.0) - np.log1p(np.exp(-np.abs(x)))
    factor = np.asarray(1.0)
    change = np.asarray(0.0)
    if call.get("pos_weight") is not None:
        change = (call.array("pos_weight") - 1) * t
        factor = change + 1
    first, second = (1 - t) * x, logarithm * factor
    of_factor = 3 * v * (np.abs(change) + 1) * (call.get("pos_weight") is not None)
    error = 3 * v * (np.abs((1 + np.abs(t)) * x)) + np.abs(second) * (LOG_SIGMOID * fmt.u + 3 * v)
    error = error + np.abs(logarithm) * of_factor + v * np.abs(first - second)
    size = np.abs(first) + np.abs(second) + np.abs(x) + np.abs(change)
    return _weighted(call, first - second, error + 8 * out.eta * (1 + np.abs(x)), size, v)


def _logits_samples(generator: torch.Generator, dtype: torch.dtype) -> Any:
    calls = samples_of(aten.binary_cross_entropy_with_logits, False)(generator, dtype)
    found: list[Any] = []
    for i, (op, (x, y, reduction), _) in enumerate(calls):
        share = torch.rand(y.shape, generator=generator).to(dtype)
        weight = None if i % 2 else torch.rand(x.shape, generator=generator).to(dtype)
        more = None if i % 3 else torch.rand(x.shape[-1:], generator=generator).to(dtype) * 3
        found.append((op, (x, share, weight, more, reduction), {}))
    return found


@checked(aten.binary_cross_entropy_with_logits, samples=_logits_samples, **LOSS)
def binary_cross_entropy_with_logits(call: HostCall) -> tuple[Reference | None, ...]:
    """``(1 - t) x - (1 + (p - 1) t) log s(x)``."""
    return loss_reference(call, _with_logits, "22u |l| and a rounding per stored tensor",
                          premise=True)


def _margin(call: HostCall, fmt: Format) -> tuple[Array, Array, Array]:
    x, t = call.array("self"), call.array("target")
    v = call.out_format().u
    z = -t * x
    w = np.exp(z)
    y = np.logaddexp(0.0, z)
    r = (v + fmt.u) * np.abs(z) + FUNCTION * fmt.u + v
    error = logistic(z) * r + FUNCTION * fmt.u * y + 8 * call.out_format().tiny
    return y, error, np.maximum(w, np.abs(z))


@checked(aten.soft_margin_loss, samples=samples_of(
    aten.soft_margin_loss, False, target="unit"), **LOSS)
def soft_margin_loss(call: HostCall) -> tuple[Reference | None, ...]:
    """``log(1 + exp(-t x))``."""
    return loss_reference(call, _margin, "s r + e y", premise=True)


@checked(aten.soft_margin_loss_backward, samples=samples_of(
    aten.soft_margin_loss_backward, True), **GRADIENT)
def soft_margin_loss_backward(call: HostCall) -> tuple[Reference | None, ...]:
    """``-t g w / (1 + w)``, ``w = exp(-t x)``, by n for a mean."""
    if not is_covered_float(call.held[0].dtype):
        return (None,)
    out = call.out_format()
    fmt = compute_format(out)
    g, x, t = call.array("grad_output"), call.array("self"), call.array("target")
    n = x.size if call["reduction"] == MEAN else 1
    with np.errstate(all="ignore"):
        z = -t * x
        s, w = logistic(z), np.exp(z)
        expected = -t * s * g / n
        r = (out.u + fmt.u) * np.abs(z) + FUNCTION * fmt.u + out.u
        levers = (1 + np.abs(t)) * (1 + np.abs(g))
        error = np.abs(expected) * (r + 7 * (out.u + fmt.u)) + 8 * out.eta * levers
        error = error + 4 * fmt.tiny * levers
        size = np.maximum(np.abs(z), w * levers)
        value = Computed(expected, error, np.maximum(
            error, 2.0 ** (-fmt.precision / 2) * levers), size)
        return (stored_reference(call, value, "r and 7 roundings, relative"),)
