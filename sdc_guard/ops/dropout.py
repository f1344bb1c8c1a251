"""Dropout and randomized ReLU, given their mask and their noise.

A draw cannot be repeated, so these ops are not replayed (:mod:`sdc_guard.ops.draws`).

``native_dropout``: the output is ``input * mask * scale`` bit for bit, ``scale = 1 / (1 - p)``.
The share that is kept lies within Hoeffding's bound of ``1 - p`` (:mod:`sdc_guard.bounds.draws`).
ATen's CPU code rounds the scale to the operand's format (``Dropout.cpp``), its CUDA code to fp32
(``Dropout.cu``); both are accepted.  Place of the backward: a product, equal bits everywhere.

``rrelu_with_noise`` in training: the noise is 1 where ``x > 0`` and lies in its interval elsewhere,
and the output is ``x * noise``, where the product may be made before the noise is rounded to its
format: two roundings.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.casts import nearest, same_values
from sdc_guard.bounds.draws import bounded_mean
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT32, Format, format_of, is_covered_float
from sdc_guard.ops._axes import broadcast_axes
from sdc_guard.ops._places import pointwise_symmetries
from sdc_guard.ops._pointwise import Array, compute_format
from sdc_guard.ops._registry import (
    HostCall,
    Reference,
    checked,
)
from sdc_guard.ops._samples import FLOATS, LAYOUTS, SampleList, draw_values
from sdc_guard.ops._symmetry import OUTERMOST, Symmetry
from sdc_guard.ops.draws import MASK_BIAS, register_draw

aten = torch.ops.aten
Broken = tuple[int, NDArray[np.bool_], str] | None


def scaled_products(x: Array, mask: Array, scale: float, fmt: Format) -> tuple[Array, Array]:
    """``x * mask * scale`` with the scale in the format of x, and with the scale in fp32."""
    wide = compute_format(fmt)
    products = []
    for scale_format in (fmt, wide):
        exact = x * mask * nearest(scale, scale_format)
        products.append(nearest(nearest(exact, wide), fmt))
    return products[0], products[1]


def _dropped(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
    """The output is ``input * mask * scale``, and the mask holds 0 and 1."""
    output, mask = held
    if not mask.numel():
        return None
    stray = bits.raw(bits.on_host(mask)) > 1
    if stray.any():
        return 1, stray, "the mask holds 0 and 1"
    if not is_covered_float(output.dtype):
        return None
    p, train = float(call["p"]), call["train"]
    kept = bits.values(mask).astype(np.float64)
    idle = p == 0 or (train is not None and not train)
    scale = 1.0 if idle else (0.0 if p == 1 else 1.0 / (1.0 - p))
    if idle and not kept.all():
        return 1, kept == 0, "nothing is dropped outside training or with p = 0"
    if not idle and abs(kept.mean() - (1 - p)) > bounded_mean(kept.size, 1.0) + MASK_BIAS:
        return 1, np.ones(kept.shape, dtype=bool), f"a share of {1 - p:.3g} is kept"
    with np.errstate(all="ignore"):
        x, got = bits.values(call["input"]), bits.values(output) + 0.0
        a, b = scaled_products(x, kept, scale, format_of(output.dtype))
        right = same_values(got, a + 0.0) | same_values(got, b + 0.0)
    return None if right.all() else (0, ~right, "output = input * mask * scale")


def _dropout_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    draw = draw_values(generator, dtype, "any")
    op = aten.native_dropout
    if dtype not in FLOATS:
        return []
    modes = ((0.3, True), (0.1, None), (0.5, False), (1.0, True))
    return [(op.default, (layout(draw), p, train), {}) for layout in LAYOUTS for p, train in modes]


register_draw(aten.native_dropout, "``input * mask * scale``, given the mask.", _dropped,
              _dropout_samples, family="random")


def _leaked(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
    """``x * noise``; the noise is 1 or lies between the ends."""
    noise, output = (held if call.form.packet == "aten.rrelu_with_noise" else held[::-1])[:2]
    if not call["training"] or not is_covered_float(output.dtype) or not output.numel():
        return None
    fmt = format_of(output.dtype)
    low, high = (float(call[n]) for n in ("lower", "upper"))
    with np.errstate(all="ignore"):
        x, got, factor = bits.values(call["self"]), bits.values(output), bits.values(noise)
        ends = [nearest(e, fmt) for e in (low, high)]
        right = np.where(x > 0, factor == 1, (factor >= ends[0]) & (factor <= ends[1]))
        right |= np.isnan(x)
        if not right.all():
            return (0 if noise is held[0] else 1), ~right, "noise is 1 or lies in its interval"
        product = x * factor
        limit = 2 * (1 + fmt.u) * np.abs(product) * fmt.u + fmt.eta * (1 + np.abs(x))
        right = (np.abs(got - product) <= limit) | ~np.isfinite(product)
    return None if right.all() else ((1 if noise is held[0] else 0), ~right, "output = x * noise")


def _leaky_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    draw = draw_values(generator, dtype, "any")
    if dtype not in FLOATS or dtype is torch.float16:  # no such kernel
        return []
    op = aten.rrelu_with_noise
    return [(op.default, (draw(*s), draw(*s), 0.1, 0.3, training), {})
            for s in ((211,), (9, 37)) for training in (True, False)]


register_draw(aten.rrelu_with_noise, "``x * noise``, given the noise.", _leaked, _leaky_samples,
              family="random")


def _backward_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype not in FLOATS:
        return []
    draw, mask = draw_values(generator, dtype, "any"), draw_values(generator, torch.bool, "any")
    return [(aten.native_dropout_backward.default, (layout(draw), layout(mask), 1 / 0.7), {})
            for layout in LAYOUTS]


def _backward_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    return pointwise_symmetries(call, held, odd=("grad_output",))


@checked(aten.native_dropout_backward, family="pointwise", axes=broadcast_axes,
         symmetries=_backward_symmetries, window=(OUTERMOST,), samples=_backward_samples)
def native_dropout_backward(call: HostCall) -> tuple[Reference | None, ...]:
    """``g * mask * scale``: one rounding, and the scale's to fp32 or to the format of g."""
    if not is_covered_float(call.held[0].dtype):
        return (None,)
    out = call.out_format()
    a, b = scaled_products(call.array("grad_output"), call.array("mask").astype(np.float64),
                           float(call["scale"]), out)
    limit = np.abs(a - b) if out.precision <= FLOAT32.precision else np.zeros_like(a)
    return (Reference(a, limit, limit, "g * mask * scale, rounded", np.abs(a)),)
