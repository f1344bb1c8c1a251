"""Draws of random numbers.

A draw cannot be repeated, so these ops are not replayed; what can be said of one is its range (bits
in {0, 1}, uniform numbers in their interval, a permutation that is one), and of many their mean: it
lies within Hoeffding's bound, or that of normal numbers, but for one call in 1e30
(:mod:`sdc_guard.bounds.draws`).  A single wrong number in its range is not seen, so coverage counts
these calls as not tested.

Means are judged in fp32 and fp64 (of bits in all formats), with twice the resolution of the uniform
numbers (2^-24 of the interval) as the bias that ATen's generators may have; integers where the
range is at most 2^20, whose remainder of a 32-bit number is biased by less than 2^-12 of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.casts import nearest
from sdc_guard.bounds.draws import bounded_mean, normal_mean
from sdc_guard.calls import BoundCall
from sdc_guard.formats import format_of, is_covered_float
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._pointwise import Array
from sdc_guard.ops._registry import GENERATOR, InvariantFn, OpSpec, packet_name, register
from sdc_guard.ops._samples import FLOATS, LAYOUTS, SampleList, draw_values

aten = torch.ops.aten
Broken = tuple[int, NDArray[np.bool_], str] | None
Mean = Callable[[BoundCall, Array, Tensor], tuple[float, float]]
"""The expected mean of the draws and how far theirs may be from it."""

MASK_BIAS = 2.0**-23
MOST_INTEGERS = 2**20


def _fixed(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    return Axes({path: (FIXED,) * t.dim() for path, t in call.tensors()},
                tuple((FIXED,) * t.dim() for t in held))


def register_draw(target: Any, text: str, invariant: InvariantFn, samples: Any,
                  family: str = GENERATOR) -> None:
    """Register an op that is not replayed, with a fact about its results."""
    register(
        OpSpec(packet=packet_name(target), family=family, axes=_fixed, symmetries=(),
               invariant=invariant, replayable=False, samples=samples, doc=text),
        invariant.__module__,
    )


Test = Callable[[BoundCall, Array, Tensor], Array]
"""True for every draw that is in its range; gets the values and the tensor that holds them."""


def _inside(test: Test, text: str, mean: Mean | None = None) -> InvariantFn:
    """An invariant from a test of every draw and the mean of all."""

    def invariant(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
        if not held or not bits.has_values(held[0].dtype) or not held[0].numel():
            return None
        with np.errstate(all="ignore"):
            x = bits.values(held[0])
            right = np.broadcast_to(test(call, x, held[0]), x.shape)
            if not right.all():
                return 0, ~right, text
            if mean is None:
                return None
            expected, limit = mean(call, x, held[0])
            judged = np.isfinite([expected, limit]).all() and np.isfinite(x).all()
            if judged and not abs(x.mean() - expected) <= limit:
                return 0, np.ones(x.shape, dtype=bool), f"the mean of {x.size} draws"
        return None

    return invariant


def _uniform_mean(low: float, high: float, x: Array, held: Tensor) -> tuple[float, float]:
    size = abs(low) + abs(high)
    if held.element_size() < 4:
        return 0.0, math.inf
    return (low + high) / 2, bounded_mean(x.size, high - low) + 4 * MASK_BIAS * size


def _interval(call: BoundCall) -> tuple[float, float]:
    return float(call.get("from", 0.0)), float(call.get("to", 1.0))


def _between(call: BoundCall, x: Array, held: Tensor) -> Array:
    """``from + u (to - from)`` with u in [0, 1]: three roundings of numbers of this size."""
    if not is_covered_float(held.dtype):
        return np.asarray(True)
    low, high = _interval(call)
    room = 4 * format_of(held.dtype).u * (abs(low) + abs(high)) + format_of(held.dtype).eta
    return np.asarray((x >= low - room) & (x <= high + room))


def _ends(call: BoundCall) -> tuple[float | None, float | None]:
    """The first integer of the range and the one behind its last."""
    high = call.get("high", call.get("to"))
    low = call.get("low", call.get("from", 0)) or 0
    if isinstance(high, Tensor):
        high = bits.values(high).item()
    return low, high


def _integers(call: BoundCall, x: Array, held: Tensor) -> Array:
    low, high = _ends(call)
    whole = np.isfinite(x) & (x == np.rint(x))
    if high is None or low is None:
        return np.asarray(whole)
    last: Any = high - 1
    first: Any = low
    if is_covered_float(held.dtype):  # which rounds large integers
        first, last = (nearest(e, format_of(held.dtype)) for e in (first, last))
    return np.asarray((x >= first) & (x <= last) & whole)


def _integer_mean(call: BoundCall, x: Array, held: Tensor) -> tuple[float, float]:
    low, high = _ends(call)
    if low is None or high is None or held.dtype is torch.bool or (
            not 0 < high - low <= MOST_INTEGERS) or max(abs(low), abs(high)) > (
            2**8 if held.is_floating_point() else MOST_INTEGERS):
        return 0.0, math.inf
    width = high - low
    return (low + high - 1) / 2, bounded_mean(x.size, width) + width * 2.0**-12


def _moments(call: BoundCall) -> tuple[Array, Array]:
    ends = [call.get("mean", 0.0), call.get("std", 1.0)]
    mean, std = (bits.values(v) if isinstance(v, Tensor) else np.asarray(v) for v in ends)
    return mean, std


def _within_sigmas(call: BoundCall, x: Array, held: Tensor) -> Array:
    """No generator of torch draws beyond 9 standard deviations: Box and Muller's largest radius is
    ``sqrt(-2 log u)`` with ``u >= 2^-53``, which is 8.6.  Nothing is said where such a number
    overflows."""
    mean, std = _moments(call)
    reach = 9 * np.abs(std) + (1 + 2.0**-7) * np.abs(mean)
    if not is_covered_float(held.dtype):
        return np.asarray(True)
    away = np.abs(x - mean) <= 9 * np.abs(std) + 2.0**-7 * np.abs(mean)
    return np.asarray(away | ~(reach < format_of(held.dtype).max / 2))


def _normal_mean(call: BoundCall, x: Array, held: Tensor) -> tuple[float, float]:
    mean, std = _moments(call)
    if held.element_size() < 4:
        return 0.0, math.inf
    bias = 4 * MASK_BIAS * float(np.max(np.abs(mean)) + np.max(np.abs(std)))
    mean = np.broadcast_to(mean, x.shape)
    return float(mean.mean()), normal_mean(x.size, float(np.max(np.abs(std)))) + bias


def _chances(call: BoundCall, x: Array) -> Array:
    """The chance of a 1 for each bit."""
    chance = call.get("p")
    if chance is None:
        chance = call["self"]
    values = bits.values(chance) if isinstance(chance, Tensor) else np.asarray(float(chance))
    return np.broadcast_to(values, x.shape)


def _bits_mean(call: BoundCall, x: Array, held: Tensor) -> tuple[float, float]:
    return float(_chances(call, x).mean()), bounded_mean(x.size, 1.0) + MASK_BIAS


def _bits(call: BoundCall, x: Array, held: Tensor) -> Array:
    """0 or 1; no 1 without a chance, no 0 without a doubt."""
    chance = _chances(call, x)
    return np.asarray(((x == 0) & (chance < 1)) | ((x == 1) & (chance > 0)))


def _exponential(call: BoundCall, x: Array, held: Tensor) -> Array:
    """Not negative; finite where 64 mean lives do not overflow (``-log u`` is less than 45)."""
    if not is_covered_float(held.dtype):
        return np.asarray(True)
    finite = np.isfinite(x) | ~(64.0 / np.float64(call["lambd"]) < format_of(held.dtype).max)
    return np.asarray((x >= 0) & finite)


def _counts(least: int) -> Test:
    """Whole numbers, not less than ``least``; large ones may overflow the format."""
    return lambda call, x, held: (x >= least) & ((x == np.rint(x)) | np.isinf(x))


def _poisson(call: BoundCall, x: Array, held: Tensor) -> Array:
    """Whole numbers; 0 where the rate is 0.  (A rate that is NaN gives anything.)"""
    rate = bits.values(call["self"])
    right = (x >= 0) & ((x == np.rint(x)) | np.isinf(x)) & ((rate > 0) | (x == 0))
    return np.asarray(right | np.isnan(rate))


def _binomial(call: BoundCall, x: Array, held: Tensor) -> Array:
    """Whole numbers up to the count; 0 for no chance, all for certainty."""
    count, chance = (np.broadcast_to(bits.values(call[n]), x.shape) for n in ("count", "prob"))
    right = (x >= 0) & (x <= count) & (x == np.rint(x))
    right &= ((chance > 0) | (x == 0)) & ((chance < 1) | (x == count))
    known = np.isfinite(count) & (count >= 0) & (chance >= 0) & (chance <= 1)
    known &= (count == np.rint(count)) & (count < 2.0**8)
    return np.asarray(right | ~known)


def _categories(call: BoundCall, x: Array, held: Tensor) -> Array:
    """Indices of classes with a weight, no one twice without replacement."""
    weights = bits.values(call["self"])
    inside = (x >= 0) & (x < weights.shape[-1])
    place = np.where(inside, x, 0)
    right = inside & (np.take_along_axis(weights, place, -1) > 0)
    if not call["replacement"]:
        ranked = np.sort(x, -1)
        twice = (ranked[..., 1:] == ranked[..., :-1]).any(-1)
        right &= ~twice[..., None]
    return np.asarray(right)


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


def _normal_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    draw, size = (draw_values(generator, dtype, d) for d in ("any", "positive"))
    more: SampleList = [(aten.normal.Tensor_Tensor, (draw(9, 7), size(9, 7)), {}),
                        (aten.normal.float_Tensor, (0.3, size(7, 9).t()), {}),
                        (aten.normal.Tensor_float, (draw(33), 1.5), {})]
    return [*_in_place(aten.normal_.default, 0.5, 2.0)(generator, dtype),
            *(more if dtype in FLOATS else [])]


def _binomial_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    share = draw_values(generator, dtype, "share")
    if dtype not in (torch.float32, torch.float64):
        return []
    return [(aten.binomial.default, (torch.full((9, 7), 12.0, dtype=dtype), share(9, 7)), {})]


def _multinomial_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    share = draw_values(generator, dtype, "share")
    return [(aten.multinomial.default, (share(*sizes), 4, replacement), {})
            for sizes in ((9,), (5, 9)) for replacement in (True, False) if dtype in FLOATS]


def _like_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    draw = draw_values(generator, dtype, "any")
    return [(aten.randint_like.low_dtype, (draw(9, 7).t(), -3, 12), {}),
            (aten.randint_like.default, (draw(211), 5), {})] if dtype is not torch.bool else []


_BITS = _inside(_bits, "draws are 0 or 1", _bits_mean)
_UNIT = _inside(lambda call, x, held: (x >= 0) & (x < 1), "draws lie in [0, 1)",
                lambda call, x, held: _uniform_mean(0.0, 1.0, x, held))
_INTERVAL = _inside(_between, "draws lie in their interval",
                    lambda call, x, held: _uniform_mean(*_interval(call), x, held))
_NORMAL = _inside(_within_sigmas, "normal draws lie within 9 deviations", _normal_mean)
_WHOLE = _inside(_integers, "draws are integers in their range", _integer_mean)
_PERMUTED = _inside(
    lambda call, x, held: np.full(x.shape, (np.sort(x) == np.arange(x.size)).all()),
    "draws are a permutation")
_POSITIVE = _inside(lambda call, x, held: x >= 0, "draws are not negative")

register_draw(aten.bernoulli, "0 or 1.", _BITS, _bernoulli_samples)
register_draw(aten.uniform, "Uniform numbers of an interval.", _INTERVAL,
              _in_place(aten.uniform_.default, -0.7, 1.9))
register_draw(aten.normal, "Normal numbers.", _NORMAL, _normal_samples)
register_draw(aten.exponential, "Exponential numbers.",
              _inside(_exponential, "draws are not negative and finite"),
              _in_place(aten.exponential_.default))
register_draw(aten.geometric, "Counts of trials.", _inside(_counts(1), "draws are counts"),
              _in_place(aten.geometric_.default, 0.3))
register_draw(aten.log_normal, "Exponentials of normal numbers.", _POSITIVE,
              _in_place(aten.log_normal_.default))
register_draw(aten.cauchy, "Cauchy's distribution: any number.",
              _inside(lambda call, x, held: ~np.isnan(x), "draws are numbers"),
              _in_place(aten.cauchy_.default))
register_draw(aten.poisson, "Counts of a Poisson process.", _inside(_poisson, "draws are counts"),
              _in_place(aten.poisson.default, domain="positive"))
register_draw(aten.binomial, "Counts of successes.", _inside(_binomial, "draws are counts"),
              _binomial_samples)
register_draw(aten.multinomial, "Indices of classes.",
              _inside(_categories, "draws are indices of weighted classes"), _multinomial_samples)
register_draw(aten.random, "Random integers.", _WHOLE, _in_place(aten.random_.to, 100))
register_draw(aten.rand, "Uniform numbers of [0, 1).", _UNIT, _factory(aten.rand.default))
register_draw(aten.rand_like, "Uniform numbers of [0, 1).", _UNIT,
              _in_place(aten.rand_like.default))
register_draw(aten.randn, "Normal numbers.", _NORMAL, _factory(aten.randn.default))
register_draw(aten.randn_like, "Normal numbers.", _NORMAL, _in_place(aten.randn_like.default))
register_draw(aten.randint, "Random integers.", _WHOLE,
              _factory(aten.randint.low, -3, 9, dtypes=(torch.int64, torch.float32)))
register_draw(aten.randint_like, "Random integers.", _WHOLE, _like_samples)
register_draw(aten.randperm, "A random permutation.", _PERMUTED,
              lambda generator, dtype: [(aten.randperm.default, (97,), {})]
              if dtype is torch.int64 else [])
