"""Softmax, log-sum-exp, normalisation and attention: rows of sums of functions.

Exponentials and logarithms are float64's, rounded to the working format, some of them an ulp off:
within what the bounds grant the elementary functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.casts import nearest
from sdc_guard.calls import BoundCall
from sdc_guard.formats import accumulator_of, format_of, is_covered_float
from tests.soundness.evaluate_sums import (
    drawn_moments,
    same_format,
    stored,
    terms_of,
)
from tests.soundness.evaluators import Emulation, evaluates
from tests.soundness.orders import SHALLOW, dot, drawn_order, fused, summed, working

Array = NDArray[Any]
Held = tuple[Tensor, ...]
Rng = np.random.Generator


def near(function: Any, x: Array, rng: Rng) -> Array:
    """A function's values rounded to the format of ``x``, up to an ulp off."""
    exact = function(x.astype(np.float64)).astype(x.dtype)
    ulps = rng.integers(-1, 2, x.shape) * np.finfo(x.dtype).eps
    return np.asarray(exact * (1 + ulps).astype(x.dtype))


def _last(call: BoundCall, name: str, held: Tensor, dim: int) -> Array:
    x = bits.values(call[name]).astype(working(accumulator_of(held.dtype)))
    return np.moveaxis(x, dim, -1) if x.ndim else x.reshape(1)


def _back(values: Array, held: Tensor, dim: int) -> Array:
    if not held.dim():
        return values.reshape(())
    return nearest(np.moveaxis(values, -1, dim), format_of(held.dtype))


@evaluates("_softmax", "_safe_softmax", "_log_softmax")
def softmax(call: BoundCall, held: Held, rng: Rng) -> Iterator[Emulation]:
    """Shifted exponentials, summed in any order, divided or multiplied by the reciprocal."""
    if not same_format(call, held[0]):
        return
    dim = int(call["dim"]) % max(held[0].dim(), 1)
    x = _last(call, "self", held[0], dim)
    d = x - x.max(-1, keepdims=True)
    e = near(np.exp, d, rng)
    for order in (drawn_order(rng, x.shape[-1]), "pairwise"):
        total = summed(e, order, rng)[..., None]
        if call.form.packet == "aten._log_softmax":
            value = d - near(np.log, total, rng)
        else:
            value = e / total if rng.random() < 0.5 else e * (1 / total)
        if call.form.packet == "aten._safe_softmax":
            value = np.where(np.isneginf(x).all(-1, keepdims=True), x.dtype.type(0), value)
        yield Emulation(order, 0, _back(value, held[0], dim), order in SHALLOW)


@evaluates("_softmax_backward_data", "_log_softmax_backward_data")
def softmax_backward(call: BoundCall, held: Held, rng: Rng) -> Iterator[Emulation]:
    """``y (g - sum g y)`` and ``g - exp(y) sum g``."""
    grad = call["grad_output"]
    if grad.dtype is not held[0].dtype or call["output"].dtype is not held[0].dtype:
        return
    if not is_covered_float(grad.dtype) or not grad.numel():
        return
    dim = int(call["dim"]) % max(held[0].dim(), 1)
    g, y = (_last(call, name, held[0], dim) for name in ("grad_output", "output"))
    for order in (drawn_order(rng, g.shape[-1]), "pairwise"):
        if "log" in call.form.packet:
            value = g - near(np.exp, y, rng) * summed(g, order, rng)[..., None]
        else:
            value = (g - dot(g, y, order, rng)[..., None]) * y
        yield Emulation(order, 0, _back(value, held[0], dim), order in SHALLOW)


@evaluates("logsumexp")
def log_sum_exp(call: BoundCall, held: Held, rng: Rng) -> Iterator[Emulation]:
    """The maximum and the logarithm of a shifted sum."""
    if not same_format(call, held[0]):
        return
    x = terms_of(call, held[0])
    top = x.max(-1, keepdims=True)
    top = np.where(np.isfinite(top), top, x.dtype.type(0))
    order = drawn_order(rng, x.shape[-1])
    total = summed(near(np.exp, x - top, rng), order, rng)
    yield Emulation(order, 0, stored(near(np.log, total, rng) + top[..., 0], held[0]), False)


def _normalised(x: Array, eps: float, rng: Rng) -> tuple[str, Array, Array]:
    """Name of the algorithm, mean and reciprocal deviation of the last axis, kept."""
    name, mean, squares = drawn_moments(x, rng)
    of = x.dtype.type
    var = squares / of(x.shape[-1])
    rstd = of(1) / np.sqrt(var + of(eps))
    return name, mean[..., None], rstd[..., None]


def _scaled(x: Array, mean: Array, rstd: Array, w: Array, b: Array, rng: Rng) -> tuple[str, Array]:
    """``(x - m) r w + b`` in one of the ways it is written."""
    choice = int(rng.integers(3))
    if choice == 0:
        return "(x - m) r w + b", (x - mean) * rstd * w + b
    if choice == 1:
        shape = np.broadcast_shapes(x.shape, w.shape)
        z, w, b = (np.broadcast_to(v, shape) for v in ((x - mean) * rstd, w, b))
        return "fused (x - m) r w + b", fused(np.array(z), np.array(w), np.array(b))
    return "(x r - m r) w + b", (x * rstd + -mean * rstd) * w + b


@evaluates("native_layer_norm")
def layer_norm(call: BoundCall, held: Held, rng: Rng) -> Iterator[Emulation]:
    """Moments by any algorithm, in the accumulator's format: the proof."""
    x = call["input"]
    dims = len(call["normalized_shape"])
    acc = working(accumulator_of(x.dtype))
    if not is_covered_float(x.dtype) or not x.numel() or any(
            call[n] is not None and call[n].dtype is not x.dtype for n in ("weight", "bias")):
        return
    rows = bits.values(x).astype(acc).reshape(*x.shape[: x.dim() - dims], -1)
    w, b = (np.full(rows.shape[-1], default, dtype=acc) if call[n] is None
            else bits.values(call[n]).astype(acc).reshape(-1)
            for n, default in (("weight", 1), ("bias", 0)))
    name, mean, rstd = _normalised(rows, float(call["eps"]), rng)
    how, value = _scaled(rows, mean, rstd, w, b, rng)
    yield Emulation(f"{name}, {how}", 0, stored(value, held[0]), False)
    if held[1].dtype is x.dtype:
        yield Emulation(name, 1, stored(mean, held[1]), False)
        yield Emulation(name, 2, stored(rstd, held[2]), False)


@evaluates("native_group_norm")
def group_norm(call: BoundCall, held: Held, rng: Rng) -> Iterator[Emulation]:
    """Moments of each group of channels, then each channel's weight and bias: the proof."""
    x = call["input"]
    acc = working(accumulator_of(x.dtype))
    if not is_covered_float(x.dtype) or not x.numel() or any(
            call[n] is not None and call[n].dtype is not x.dtype for n in ("weight", "bias")):
        return
    n, c, groups = int(call["N"]), int(call["C"]), int(call["group"])
    rows = bits.values(x).astype(acc).reshape(n, groups, -1)
    w, b = (np.full(c, default, dtype=acc) if call[name] is None
            else bits.values(call[name]).astype(acc)
            for name, default in (("weight", 1), ("bias", 0)))
    name, mean, rstd = _normalised(rows, float(call["eps"]), rng)
    inner = rows.shape[-1] // (c // groups)
    w, b = (np.repeat(v, inner).reshape(1, groups, -1) for v in (w, b))
    how, value = _scaled(rows, mean, rstd, w, b, rng)
    yield Emulation(f"{name}, {how}", 0, stored(value, held[0]), False)


@evaluates("_scaled_dot_product_flash_attention_for_cpu")
def attention(call: BoundCall, held: Held, rng: Rng) -> Iterator[Emulation]:
    """Not fused: scores, softmax, product; and in blocks of keys that are rescaled: the proof."""
    q, k, v = (call[name] for name in ("query", "key", "value"))
    if not is_covered_float(q.dtype) or call.get("attn_mask") is not None or not q.numel():
        return
    if q.shape[1] != k.shape[1] or not k.shape[2]:
        return
    acc = working(accumulator_of(q.dtype))
    query, key, value = (bits.values(t).astype(acc) for t in (q, k, v))
    scale = call.get("scale")
    scale = acc(1 / math.sqrt(q.shape[-1]) if scale is None else float(scale))
    order = drawn_order(rng, q.shape[-1])
    scores = scale * dot(query[..., :, None, :], key[..., None, :, :], order, rng)
    if call["is_causal"]:
        seen = np.tri(q.shape[2], k.shape[2], dtype=bool)
        scores = np.where(seen, scores, acc(-np.inf))
    block = int(rng.choice([k.shape[2], 8]))
    top = np.full(scores.shape[:-1], acc(-np.inf))
    total = np.zeros(scores.shape[:-1], dtype=acc)
    out = np.zeros((*scores.shape[:-1], v.shape[-1]), dtype=acc)
    for start in range(0, k.shape[2], block):
        part = scores[..., start : start + block]
        higher = np.maximum(top, part.max(-1))
        shift = np.where(np.isneginf(higher), acc(0), higher)
        rescale = near(np.exp, top - shift, rng)
        p = near(np.exp, part - shift[..., None], rng)
        total = total * rescale + summed(p, order, rng)
        turned = np.swapaxes(value[..., start : start + block, :], -1, -2)
        out = out * rescale[..., None] + dot(p[..., :, None, :], turned[..., None, :, :], order,
                                             rng)
        top = higher
    yield Emulation(f"blocks of {block}, {order}", 0, stored(out / total[..., None], held[0]),
                    False)
    if held[1].numel() == total.size:
        shift = np.where(np.isneginf(top), acc(0), top)
        yield Emulation(f"blocks of {block}, {order}", 1,
                        stored(near(np.log, total, rng) + shift, held[1]), False)
