"""Dropout given its mask, and the draws that make it.

A draw cannot be repeated, so these ops are not replayed; what can be said exactly of a draw is its
range: bits in {0, 1}, uniform numbers in their interval, a permutation that is one.

``native_dropout``: the output is ``input * mask * scale`` bit for bit, ``scale = 1 / (1 - p)``.
ATen's CPU code rounds the scale to the operand's format (``Dropout.cpp``), its CUDA code to fp32
(``Dropout.cu``); both are accepted.  Place of the backward: a product, equal bits everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.casts import nearest, same_values
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT32, Format, format_of, is_covered_float
from sdc_guard.ops._axes import FIXED, Axes, broadcast_axes
from sdc_guard.ops._places import pointwise_symmetries
from sdc_guard.ops._pointwise import Array, compute_format
from sdc_guard.ops._registry import (
    GENERATOR,
    HostCall,
    InvariantFn,
    OpSpec,
    Reference,
    checked,
    packet_name,
    register,
)
from sdc_guard.ops._samples import FLOATS, LAYOUTS, SampleList, draw_values
from sdc_guard.ops._symmetry import OUTERMOST, Symmetry

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
    with np.errstate(all="ignore"):
        x, got = bits.values(call["input"]), bits.values(output) + 0.0
        a, b = scaled_products(x, kept, scale, format_of(output.dtype))
        right = same_values(got, a + 0.0) | same_values(got, b + 0.0)
    return None if right.all() else (0, ~right, "output = input * mask * scale")


def _fixed(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    return Axes({path: (FIXED,) * t.dim() for path, t in call.tensors()},
                tuple((FIXED,) * t.dim() for t in held))


def _draw(target: Any, text: str, invariant: InvariantFn, samples: Any,
          family: str = GENERATOR) -> None:
    register(
        OpSpec(packet=packet_name(target), family=family, axes=_fixed, symmetries=(),
               invariant=invariant, replayable=False, samples=samples, doc=text),
        __name__,
    )


def _dropout_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    draw = draw_values(generator, dtype, "any")
    op = aten.native_dropout
    if dtype not in FLOATS:
        return []
    modes = ((0.3, True), (0.1, None), (0.5, False), (1.0, True))
    return [(op.default, (layout(draw), p, train), {}) for layout in LAYOUTS for p, train in modes]


_draw(aten.native_dropout, "``input * mask * scale``, given the mask.", _dropped, _dropout_samples,
      family="random")


def _inside(test: Callable[[BoundCall, Array], Array], text: str) -> InvariantFn:
    """An invariant from a test of every element: True where it is in its range."""

    def invariant(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
        if not held or not bits.has_values(held[0].dtype):
            return None
        with np.errstate(all="ignore"):
            right = np.broadcast_to(test(call, bits.values(held[0])), tuple(held[0].shape))
        return None if right.all() else (0, ~right, text)

    return invariant


def _between(call: BoundCall, x: Array, low: Any, high: Any) -> Array:
    """``low <= x <= high`` after the ends are rounded to the format of x."""
    own = [t for _, t in call.tensors()]
    if x.dtype.kind == "f" and own and is_covered_float(own[0].dtype):
        fmt = format_of(own[0].dtype)
        low, high = nearest(low, fmt), nearest(high, fmt)
    return np.asarray((x >= low) & (x <= high))


def _integers(call: BoundCall, x: Array) -> Array:
    high = call.get("high", call.get("to"))
    low = call.get("low", call.get("from", 0)) or 0
    if high is None:
        return np.asarray(np.isfinite(x) & (x == np.rint(x)))
    # A half format rounds large integers, so that they may reach the end itself.
    last = high if x.dtype.kind == "f" and high > 2**8 else high - 1
    return np.asarray((x >= low) & (x <= last) & (x == np.rint(x)))


def _within_sigmas(call: BoundCall, x: Array) -> Array:
    """No generator of torch draws beyond 9 standard deviations: Box and Muller's largest radius is
    ``sqrt(-2 log u)`` with ``u >= 2^-53``, which is 8.6."""
    ends = [call.get("mean", 0.0), call.get("std", 1.0)]
    mean, std = (bits.values(v) if isinstance(v, Tensor) else v for v in ends)
    return np.asarray(np.abs(x - mean) <= 9 * np.abs(std) + 2.0**-7 * np.abs(mean))


def _in_place(op: Any, *rest: Any, domain: str = "any") -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        draw = draw_values(generator, dtype, domain)
        return [(op, (layout(draw), *rest), {}) for layout in LAYOUTS if dtype in FLOATS]

    return samples


def _factory(op: Any, *rest: Any, dtypes: tuple[torch.dtype, ...] = FLOATS) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        return [(op, (*rest, [50, 3]), {"dtype": dtype})] if dtype in dtypes else []

    return samples


def _bernoulli_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    share = draw_values(generator, dtype, "share")
    return [
        *_in_place(aten.bernoulli_.float, 0.3)(generator, dtype),
        *_in_place(aten.bernoulli.default, domain="share")(generator, dtype),
        *([(aten.bernoulli_.Tensor, (share(5, 7), share(5, 7)), {})] if dtype in FLOATS else []),
    ]


_BITS = _inside(lambda call, x: (x == 0) | (x == 1), "draws are 0 or 1")
_UNIT = _inside(lambda call, x: (x >= 0) & (x < 1), "draws lie in [0, 1)")
_NORMAL = _inside(lambda call, x: _within_sigmas(call, x), "normal draws lie within 9 deviations")
_WHOLE = _inside(_integers, "draws are integers in their range")
_POSITIVE = _inside(lambda call, x: (x >= 0) & np.isfinite(x), "draws are positive and finite")
_PERMUTED = _inside(lambda call, x: np.full(x.shape, (np.sort(x) == np.arange(x.size)).all()),
                    "draws are a permutation")

_draw(aten.bernoulli, "0 or 1.", _BITS, _bernoulli_samples)
_draw(aten.uniform, "Uniform numbers of an interval.",
      _inside(lambda call, x: _between(call, x, call["from"], call["to"]),
              "draws lie in their interval"),
      _in_place(aten.uniform_.default, -0.7, 1.9))
_draw(aten.normal, "Normal numbers.", _NORMAL, _in_place(aten.normal_.default, 0.5, 2.0))
_draw(aten.exponential, "Exponential numbers.", _POSITIVE, _in_place(aten.exponential_.default))
_draw(aten.random, "Random integers.", _WHOLE, _in_place(aten.random_.to, 100))
_draw(aten.rand, "Uniform numbers of [0, 1).", _UNIT, _factory(aten.rand.default))
_draw(aten.rand_like, "Uniform numbers of [0, 1).", _UNIT, _in_place(aten.rand_like.default))
_draw(aten.randn, "Normal numbers.", _NORMAL, _factory(aten.randn.default))
_draw(aten.randn_like, "Normal numbers.", _NORMAL, _in_place(aten.randn_like.default))
_draw(aten.randint, "Random integers.", _WHOLE,
      _factory(aten.randint.low, -3, 9, dtypes=(torch.int64, torch.float32)))
_draw(aten.randperm, "A random permutation.", _PERMUTED,
      lambda generator, dtype: [(aten.randperm.default, (97,), {})]
      if dtype is torch.int64 else [])


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
