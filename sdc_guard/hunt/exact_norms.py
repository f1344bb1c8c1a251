"""Batch normalisation, forward and backward: statistics of a channel, and what is made of them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import mpmath

from sdc_guard.calls import BoundCall
from sdc_guard.hunt.exact_lines import MAX_TERMS, total
from sdc_guard.hunt.exact_numbers import Number, Reader, of_mpf, to_mpf
from sdc_guard.hunt.exact_pointwise import DIGITS

Index = tuple[int, ...]
_RETURNED = ("out", "save_mean", "save_invstd")
_NUMBERED = {"out0": "out", "out1": "save_mean", "out2": "save_invstd"}
_FORWARD = frozenset({"native_batch_norm", "_native_batch_norm_legit",
                      "_native_batch_norm_legit_no_training", "_batch_norm_with_update"})


def normalised(call: BoundCall, output: int, index: Index) -> Number | None:
    """The exact element ``index`` of flat result ``output`` of a batch normalisation or of its
    gradient; None for other operators, for numbers that are not finite, and where a variance of
    one element or a root of 0 would be needed."""
    name = call.form.packet.removeprefix("aten.")
    if name in _FORWARD:
        return _forward(call, _role(call, output), index)
    if name == "native_batch_norm_backward":
        return _backward(call, output, index)
    return None


def _role(call: BoundCall, output: int) -> str:
    """What a flat result is: those that are overwritten come first."""
    names = [call.form.argument_names[i] for i in call.form.overwrites
             if call.args[i] is not None]
    named = [_NUMBERED.get(n, n) for n in names]
    return [*named, *(n for n in _RETURNED if n not in named)][output]


def _finite(numbers: list[Number]) -> list[Fraction]:
    found = [n for n in numbers if isinstance(n, Fraction)]
    if len(found) < len(numbers):
        raise ValueError("a number is not finite")
    return found


def _at(tensor: Any, *index: int) -> Fraction:
    return _finite([Reader(tensor)[index]])[0]


def _channel(tensor: Any, channel: int) -> list[Fraction]:
    every = (slice(None),)
    terms = Reader(tensor).line((*every, channel, *every * (tensor.dim() - 2)))
    if len(terms) > MAX_TERMS:
        raise OverflowError("too many terms")
    return _finite(terms)


def _mean(terms: list[Fraction]) -> Fraction:
    return Fraction(total(terms)) / len(terms)


def _inverse_root(value: Fraction) -> Fraction:
    if value <= 0:
        raise ValueError("no root to divide by")
    with mpmath.workdps(DIGITS):
        return Fraction(of_mpf(1 / mpmath.sqrt(to_mpf(value))))


def _forward(call: BoundCall, role: str, index: Index) -> Number | None:
    channel = index[1] if role == "out" else index[0]
    terms = _channel(call["input"], channel)
    if not terms:
        return None
    is_training = call.get("training", "no_training" not in call.form.packet)
    if is_training:
        mean = _mean(terms)
        spread = Fraction(total([(t - mean) ** 2 for t in terms]))
        variance = spread / len(terms)
    elif role == "out":
        mean, variance = (_at(call[n], channel) for n in ("running_mean", "running_var"))
    else:  # statistics that are used stay as they are; there are no saved numbers
        return _at(call[role], channel) if role in ("running_mean", "running_var") else None
    if role in ("running_mean", "running_var"):
        if role == "running_var" and len(terms) < 2:
            return None
        new = mean if role == "running_mean" else spread / (len(terms) - 1)
        momentum = Fraction(call["momentum"])
        return momentum * new + (1 - momentum) * _at(call[role], channel)
    if role == "save_mean":
        return mean
    invstd = _inverse_root(variance + Fraction(call["eps"]))
    if role == "save_invstd":
        return invstd
    if role != "out":
        return None
    scale, shift = _affine(call, channel)
    return (_at(call["input"], *index) - mean) * invstd * scale + shift


def _affine(call: BoundCall, channel: int) -> tuple[Fraction, Fraction]:
    weight, bias = call["weight"], call.get("bias")
    return (Fraction(1) if weight is None else _at(weight, channel),
            Fraction(0) if bias is None else _at(bias, channel))


def _backward(call: BoundCall, output: int, index: Index) -> Number | None:
    """The gradients of ``(x - m) r w + b`` with the saved mean m and inverse deviation r."""
    channel = index[0] if output else index[1]
    grads = _channel(call["grad_out"], channel)
    if output == 2:
        return total(grads)
    if call["train"]:
        mean, invstd = (_at(call[n], channel) for n in ("save_mean", "save_invstd"))
    else:
        mean = _at(call["running_mean"], channel)
        invstd = _inverse_root(_at(call["running_var"], channel) + Fraction(call["eps"]))
    terms = _channel(call["input"], channel)
    dot = Fraction(total([g * (t - mean) for g, t in zip(grads, terms, strict=True)]))
    if output == 1:
        return dot * invstd
    away, scale = _at(call["grad_out"], *index), _affine(call, channel)[0]
    if call["train"]:
        apart = _at(call["input"], *index) - mean
        away -= _mean(grads) + apart * invstd ** 2 * dot / len(terms)
    return away * invstd * scale
