"""Smooth activations and their backwards: softplus, mish, elu, celu, log-sigmoid, glu.

Bounds, u the roundoff of the computing format and e = 8 u the error of an elementary function (4
ulps), s the logistic function.

*softplus*, ``log1p(exp(z)) / b`` with ``z = b x`` within 2u: ``exp z`` errs by ``r = 2u |z| + e``
relatively, so the logarithm errs by ``s(z) r + e log1p(exp z)``, two roundings follow.  Within 4u
of the threshold either branch is right.  Backward, ``g w / (1 + w)``: ``|g| (s (1 - s) r + 4u s)``.

*mish*, ``x t`` with ``t = tanh(softplus(x))``: softplus errs by ``f = e (s + softplus)``, t by ``(1
- t^2) f + e t``.  Backward, ``g (t + x s (1 - t^2))``: ``1 - t^2`` errs by ``2 t err(t) + 2u``.

*elu*, ``c (exp(k x) - 1)``: the exponential errs by ``(2u |k x| + e) exp(k x)``, the difference by
one more rounding of at most 1 (``expm1`` is closer), and the factors by 4.

*log-sigmoid*, ``min(x, 0) - log1p(w)``, ``w = exp(-|x|)``: ``e w + e log1p(w)``.

*glu*, ``a s(b)``, and backward ``g s``, ``g a s (1 - s)``: s errs by ``(e + 2u) s``, ``1 - s`` by
that and u.

The proof is half the significand of the largest intermediate, as in :mod:`sdc_guard.ops.gelu`.
Place: vector body and scalar tail differ by ulps; backwards are odd in the gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard.bounds.elementwise import ELEMENTARY_ULPS
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT32, Format, is_covered_float
from sdc_guard.ops._axes import FIXED, Axes, broadcast_axes
from sdc_guard.ops._indexing import longest, moved_axes
from sdc_guard.ops._places import keeps_tails, odd_in
from sdc_guard.ops._pointwise import (
    Array,
    Computed,
    compute_format,
    kernel_format,
    register_pointwise,
    stored_reference,
)
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, LAYOUTS, SampleList, draw_values, pointwise_samples
from sdc_guard.ops._symmetry import OUTERMOST, RERUN, Symmetry, flat, split
from sdc_guard.ops.elementary import logistic
from sdc_guard.ops.gelu import finish

aten = torch.ops.aten

FUNCTION = 2 * ELEMENTARY_ULPS
"""``e`` in units of u."""


def _register(target: Any, formula: str, evaluate: Any, *, odd: tuple[str, ...] = (),
              sensitive: bool = True, **drawn: Any) -> None:
    """``evaluate(call, u)`` gives expected values, error and largest intermediate."""

    def reference(call: HostCall) -> tuple[Reference | None, ...]:
        if not is_covered_float(call.held[0].dtype):
            return (None,)
        fmt = kernel_format(call.call, call.held[0])
        with np.errstate(all="ignore"):
            return (stored_reference(call, _finished(call, fmt, *evaluate(call, fmt.u)), formula),)

    reference.__doc__ = evaluate.__doc__
    reference.__module__ = __name__
    register_pointwise((target,), reference, odd=odd, tail_sensitive=sensitive,
                       samples=pointwise_samples(target, **drawn))


def _finished(call: HostCall, fmt: Format, expected: Array, error: Array, size: Array) -> Computed:
    # An exponential that is flushed to 0 may have met a large factor.
    return finish(expected, error + 2 * fmt.tiny * size, size, fmt, call.out_format())


def _near(z: Array, border: float, u: float) -> Array:
    return np.asarray(np.abs(z - border) <= 4 * u * (np.abs(z) + abs(border)))


def _softplus(call: HostCall, u: float) -> tuple[Array, Array, Array]:
    """``log(1 + exp(b x)) / b``, x beyond the threshold."""
    x, beta = call.array("self"), float(call["beta"])
    border = float(call["threshold"])
    z = x * beta
    w = np.logaddexp(0.0, z)
    r = 2 * u * np.abs(z) + FUNCTION * u
    error = (logistic(z) * r + (FUNCTION + 2) * u * w) / abs(beta)
    linear = z > border
    expected = np.where(linear, x, w / beta)
    error = np.where(linear, 0.0, error) + np.where(_near(z, border, u),
                                                    np.abs(x - w / beta) + error, 0.0)
    size = np.where(linear, np.abs(x), np.maximum(np.exp(z), np.abs(expected)))
    return expected, error, size


def _softplus_backward(call: HostCall, u: float) -> tuple[Array, Array, Array]:
    """``g exp(b x) / (1 + exp(b x))``, g beyond the threshold."""
    g, x, beta = call.array("grad_output"), call.array("self"), float(call["beta"])
    border = float(call["threshold"])
    z = x * beta
    s, rest = logistic(z), logistic(-z)
    r = 2 * u * np.abs(z) + FUNCTION * u
    error = np.abs(g) * (s * rest * r + 4 * u * s)
    linear = z > border
    expected = np.where(linear, g, g * s)
    error = np.where(linear, 0.0, error) + np.where(_near(z, border, u),
                                                    np.abs(g) * rest + error, 0.0)
    size = np.where(linear, np.abs(g), np.maximum(np.exp(z), 1.0) * np.maximum(np.abs(g), 1.0))
    return expected, error, size


def _tanh_of_softplus(x: Array, u: float) -> tuple[Array, Array, Array]:
    """``t``, its error, and ``1 - t^2`` without cancellation."""
    w = np.logaddexp(0.0, x)
    t = np.tanh(w)
    square = 1.0 / np.cosh(np.minimum(w, 300.0)) ** 2
    return t, square * FUNCTION * u * (logistic(x) + w) + FUNCTION * u * t, square


def _mish(call: HostCall, u: float) -> tuple[Array, Array, Array]:
    """``x tanh(log(1 + exp x))``."""
    x = call.array("self")
    t, error, _ = _tanh_of_softplus(x, u)
    expected = np.where(x == -np.inf, np.nan, x * t)
    return expected, np.abs(x) * error + 2 * u * np.abs(expected), np.maximum(
        np.abs(x), np.exp(np.minimum(x, 0.0)))


def _mish_backward(call: HostCall, u: float) -> tuple[Array, Array, Array]:
    """``g (t + x s (1 - t^2))``."""
    g, x = call.array("grad_output"), call.array("self")
    t, error_t, square = _tanh_of_softplus(x, u)
    s = logistic(x)
    term = x * s * square
    slope = t + term
    error = error_t + np.abs(x) * s * (2 * t * error_t + 2 * u)
    error = error + (FUNCTION + 4) * u * np.abs(term) + u * np.abs(slope)
    expected = g * slope
    size = np.abs(g) * (1 + np.abs(x))
    return expected, np.abs(g) * error + 2 * u * np.abs(expected), size


def _elu(call: HostCall, u: float) -> tuple[Array, Array, Array]:
    """``c x`` where positive, else ``c a (exp(k x) - 1)``."""
    x, alpha = call.array("self"), float(call["alpha"])
    scale = float(call.get("scale", 1.0))
    inner = float(call.get("input_scale", 1.0 / alpha if alpha else np.inf))
    z = inner * x
    w = np.exp(z)
    factor = alpha * scale
    negative = factor * np.expm1(z)
    error = abs(factor) * ((3 * u * np.abs(z) + FUNCTION * u) * w + u) + 4 * u * np.abs(negative)
    positive = x > 0
    expected = np.where(positive, scale * x, negative)
    plain = 0.0 if scale == 1.0 else 2 * u * np.abs(scale * x)
    return (expected, np.where(positive, plain, error),
            np.where(positive, np.abs(expected), np.maximum(np.abs(z), abs(factor) * (1 + w))))


def _elu_backward(call: HostCall, u: float) -> tuple[Array, Array, Array]:
    """``c g`` where positive, else ``c a k g exp(k x)``, or ``k g (y + c a)`` from the result y."""
    g, x = call.array("grad_output"), call.array("self_or_result")
    factor = float(call["alpha"]) * float(call["scale"])
    inner, scale = float(call["input_scale"]), float(call["scale"])
    if call["is_result"]:
        slope = inner * (x + factor)
        error = 3 * u * abs(inner) * (np.abs(x) + abs(factor))
        size = abs(inner) * (np.abs(x) + abs(factor))
    else:
        slope = inner * factor * np.exp(inner * x)
        error = (3 * u * np.abs(inner * x) + FUNCTION * u) * np.abs(slope)
        size = np.maximum(np.abs(slope), abs(inner * factor))
    positive = x > 0
    negative = g * slope
    expected = np.where(positive, scale * g, negative)
    plain = 0.0 if scale == 1.0 else 2 * u * np.abs(scale * g)
    error = np.abs(g) * error + 6 * u * np.abs(negative)
    return expected, np.where(positive, plain, error), np.where(
        positive, np.abs(expected), np.maximum(np.abs(g) * size, np.abs(inner * x)))


_register(aten.softplus, "(s r + e w) / b, derived in the docstring", _softplus)
_register(aten.softplus_backward, "|g| (s (1 - s) r + 4u s)", _softplus_backward,
          odd=("grad_output",), scalars={"beta": 1.5, "threshold": 3.0})
_register(aten.mish, "|x| err(t) + 2u |y|", _mish)
_register(aten.mish_backward, "|g| err(t + x s (1 - t^2))", _mish_backward, odd=("grad_output",))
_register(aten.elu, "c a ((2u |k x| + e) exp(k x) + u) + 4u |y|", _elu)
_register(aten.celu, "a ((3u |x / a| + e) exp(x / a) + u) + 4u |y|", _elu)
_register(aten.elu_backward, "(3u |k x| + e + 6u) |result|", _elu_backward, odd=("grad_output",),
          scalars={"alpha": 1.25, "scale": 1.5, "input_scale": 0.5, "is_result": False})


def _log_sigmoid_symmetries(
    call: BoundCall, held: tuple[Tensor, ...]
) -> tuple[Symmetry, ...]:
    if keeps_tails(held[0].numel(), torch.get_num_threads()):
        return (flat(), RERUN)
    return (RERUN,)


def _log_sigmoid_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype not in FLOATS:
        return []
    draw = draw_values(generator, dtype, "any")
    return [(aten.log_sigmoid_forward.default, (layout(draw),), {}) for layout in LAYOUTS]


@checked(aten.log_sigmoid_forward, family="pointwise", axes=broadcast_axes,
         symmetries=_log_sigmoid_symmetries, window=(OUTERMOST,), samples=_log_sigmoid_samples)
def log_sigmoid_forward(call: HostCall) -> tuple[Reference | None, ...]:
    """``min(x, 0) - log(1 + exp(-|x|))`` and, on a CPU, ``exp(-|x|)``."""
    held = call.held[0]
    if not is_covered_float(held.dtype):
        return None, None
    fmt = compute_format(call.out_format())
    x, u = call.array("self"), fmt.u
    w = np.exp(-np.abs(x))
    logarithm = np.log1p(w)
    expected = np.minimum(x, 0.0) - logarithm
    error = FUNCTION * u * (w + logarithm) + 2 * u * np.abs(expected)
    first = _finished(call, fmt, expected, error, np.abs(x) + 1.0)
    rounded = stored_reference(call, first, "e w + e log1p(w) + 2u |y|")
    if call.held[1].shape != held.shape or held.device.type != "cpu":
        return rounded, None
    second = _finished(call, fmt, w, FUNCTION * u * w, w)
    return rounded, stored_reference(call, second, "4 ulps")


def _log_sigmoid_backward(call: HostCall, u: float) -> tuple[Array, Array, Array]:
    """``g (1 - s(x))``, on a CPU from the saved ``w = exp(-|x|)``: ``w / (1 + w)`` for positive x,
    1 minus that for negative x."""
    g, x, w = call.array("grad_output"), call.array("self"), call.array("buffer")
    if w.shape != x.shape or call.held[0].device.type != "cpu":
        w = np.exp(-np.abs(x))
    share = w / (1.0 + w)
    slope = np.where(x < 0, 1.0 - share, share)
    error = np.abs(g) * (3 * u * share + u * slope + FUNCTION * u * w) + 2 * u * np.abs(g * slope)
    return g * slope, error, np.abs(g)


_register(aten.log_sigmoid_backward, "|g| (e w + 3u) + 2u |result|", _log_sigmoid_backward,
          odd=("grad_output",), domains={"buffer": "share"}, in_place=False)


def _halves(call: HostCall) -> tuple[Array, Array, int]:
    x = call.array("self")
    dim = call["dim"] % x.ndim
    a, b = np.split(x, 2, axis=dim)
    return a, b, dim


def _glu_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    rank = held[0].dim()
    dim = call["dim"] % max(rank, 1)
    labels = tuple(FIXED if d == dim else f"d{d}" for d in range(rank))
    axes = moved_axes(call, held, labels, labels)
    for path, t in call.tensors():
        axes.operands[path] = labels if t.dim() == rank else (FIXED,) * t.dim()
    return axes


def _glu_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Outer dimensions split; elements of a row stay where they are, as tails differ by ulps."""
    labels = _glu_axes(call, held).outputs[0]
    axis = longest(labels, held[0])
    # The kernel may see two dense halves as one vector, which a split changes.
    moved = (split(axis, known=False),) if axis else ()
    return (*moved, RERUN, *odd_in(call, "grad_output")) if "grad_output" in (
        call.form.argument_names) else (*moved, RERUN)


def _glu_samples(op: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in FLOATS:
            return []
        draw = draw_values(generator, dtype, "any")
        back = op is aten.glu_backward
        calls: SampleList = []
        for x, half, dim in ((draw(9, 74), (9, 37), -1), (draw(74, 10).t(), (5, 74), 0),
                             (draw(6, 9, 70)[:, 1:7, 3:67], (6, 3, 64), 1), (draw(64), (32,), 0)):
            calls.append((op.default, (*((draw(*half),) if back else ()), x, dim), {}))
        return calls

    return samples


@checked(aten.glu, family="pointwise", axes=_glu_axes, symmetries=_glu_symmetries,
         window=("d0", "d1", "d2"), samples=_glu_samples(aten.glu))
def glu(call: HostCall) -> tuple[Reference | None, ...]:
    """``a s(b)`` for the two halves of a dimension."""
    if not is_covered_float(call.held[0].dtype):
        return (None,)
    a, b, _ = _halves(call)
    fmt = kernel_format(call.call, call.held[0])
    with np.errstate(all="ignore"):
        expected = a * logistic(b)
        error = (FUNCTION + 4) * fmt.u * np.abs(expected) + np.abs(a) / fmt.max
        value = _finished(call, fmt, expected, error, np.abs(a))
        return (stored_reference(call, _half(call, value, expected, 2), "(e + 4u) |y|"),)


def _half(call: HostCall, value: Computed, size: Array, count: int) -> Computed:
    """Half formats: intermediates that some kernels round to them."""
    out = call.out_format()
    if out.precision >= FLOAT32.precision:
        return value
    more = count * (out.u * np.abs(size) + out.eta * (1 + value.magnitude))
    return Computed(value.expected, value.contract + more, value.proof + more, value.magnitude)


@checked(aten.glu_backward, family="pointwise", axes=_glu_axes, symmetries=_glu_symmetries,
         window=("d0", "d1", "d2"), samples=_glu_samples(aten.glu_backward))
def glu_backward(call: HostCall) -> tuple[Reference | None, ...]:
    """``g s`` for the first half, ``g a s (1 - s)`` for the second."""
    if not is_covered_float(call.held[0].dtype):
        return (None,)
    a, b, dim = _halves(call)
    g = call.array("grad_output")
    fmt = kernel_format(call.call, call.held[0])
    u = fmt.u
    with np.errstate(all="ignore"):
        s, rest = logistic(b), logistic(-b)
        first, second = g * s, g * a * s * rest
        error_first = (FUNCTION + 4) * u * np.abs(first) + np.abs(g) / fmt.max
        lost = np.abs(g * a) * s * ((FUNCTION + 2) * u * s + 2 * u * rest)
        error_second = lost + (FUNCTION + 6) * u * np.abs(second) + np.abs(g * a) / fmt.max
        size = np.concatenate([np.abs(g), (1 + np.abs(g)) * (1 + np.abs(a))], axis=dim)
        # The intermediates g a, s g a or (1 - s) s may underflow before they meet a large factor.
        flushed = (1 + np.abs(a) + np.abs(g)) * 4 * fmt.tiny
        value = _finished(call, fmt, np.concatenate([first, second], axis=dim),
                          np.concatenate([error_first, error_second + flushed], axis=dim), size)
        inner = np.concatenate([first, np.abs(g * a) * s], axis=dim)
        return (stored_reference(call, _half(call, value, inner, 3), "err(s (1 - s)), derived"),)
