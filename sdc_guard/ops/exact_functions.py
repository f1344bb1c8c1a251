"""Elementwise functions whose result is exact: roundings, signs, tests, remainders, integers.

Roundings to integers, ``frac``, ``fmod``, ``copysign`` and ``nextafter`` have results that the
format holds, so they are compared for equality; ``remainder`` adds the divisor once.  Integer
functions are computed in NumPy's integers of the same width.  Place: equal bits wherever an element
stands. """

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.casts import nearest
from sdc_guard.bounds.gamma import rounding
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT32, format_of, is_covered_float
from sdc_guard.ops._axes import broadcast_axes
from sdc_guard.ops._places import pointwise_symmetries
from sdc_guard.ops._pointwise import (
    Array,
    compute_format,
    operand,
    operand_dtype,
    pointwise,
)
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, LAYOUTS, SampleList, draw_values
from sdc_guard.ops._symmetry import OUTERMOST, Symmetry
from sdc_guard.ops.compare import common

aten = torch.ops.aten


def _integral(target: Any, function: Callable[[Array], Array], text: str,
              odd: tuple[str, ...] = ()) -> None:
    def evaluate(call: HostCall) -> tuple[Array, Array, int]:
        x = call.number("self")
        value = function(x) if x.dtype.kind == "f" else x
        return value, np.abs(value), 0

    evaluate.__doc__ = text
    evaluate.__module__ = __name__
    pointwise(target, formula="exact", odd=odd, integers=True)(evaluate)


_integral(aten.floor, np.floor, "The largest integer not above x.")
_integral(aten.ceil, np.ceil, "The smallest integer not below x.")
_integral(aten.trunc, np.trunc, "The integer part.", ("self",))


@pointwise(aten.frac, formula="exact", odd=("self",))
def frac(call: HostCall) -> tuple[Array, Array, int]:
    """``x - trunc(x)``, exact."""
    x = call.number("self")
    return x - np.trunc(x), np.abs(x), 0


@pointwise(aten.round, formula="exact; with decimals a step where x is near the middle of one",
           odd=("self",), scalars={"decimals": 1},
           extra=lambda call: _decimal_error(call))
def round_(call: HostCall) -> tuple[Array, Array, int]:
    """The nearest integer, ties to even; with decimals ``round(10^d x) / 10^d``."""
    x = call.number("self")
    decimals = call.get("decimals") or 0
    if x.dtype.kind != "f":
        return x, np.abs(x), 0
    if not decimals:
        return np.rint(x), np.abs(x), 0
    power = 10.0 ** abs(decimals)
    value = np.rint(x * power) / power if decimals > 0 else np.rint(x / power) * power
    return value, np.abs(x) * power, 1


def _decimal_error(call: HostCall) -> Array:
    """Three roundings of the result, and one step of ``10^-d`` where the product is so near to the
    middle of two integers that its own rounding decides."""
    x = call.number("self")
    decimals = int(call.get("decimals") or 0)
    out = call.out_format()
    scaled = np.abs(x) * 10.0 ** decimals
    middle = np.abs(scaled - np.floor(scaled) - 0.5)
    near = middle <= 4 * rounding(scaled, out) + 4 * rounding(0.5, out)
    step = 10.0 ** -decimals
    coarse = scaled * out.u >= 0.25
    error = np.where(near | coarse, step, 0.0) + 6 * rounding(np.abs(x) + step, out)
    return np.asarray(np.where(coarse, error + 4 * rounding(np.abs(x), out), error))


@pointwise(aten.sgn, formula="exact", odd=("self",), integers=True)
def sgn(call: HostCall) -> tuple[Array, Array, int]:
    """-1, 0 or 1; 0 for NaN."""
    a = call.number("self")
    if a.dtype.kind == "b":
        return a, a, 0
    return np.nan_to_num(np.sign(a)), np.abs(a), 0


def _test(target: Any, function: Callable[[Array], Array], text: str) -> None:
    def evaluate(call: HostCall) -> tuple[Array, Array, int]:
        x = call.number("self")
        truth = function(x.astype(np.float64)) if x.dtype.kind in "biu" else function(x)
        return truth, truth, 0

    evaluate.__doc__ = text
    evaluate.__module__ = __name__
    pointwise(target, formula="exact", integers=True, domains={"out": "bool"},
              in_place=False)(evaluate)


_test(aten.isposinf, lambda x: x == np.inf, "True for infinity.")
_test(aten.isneginf, lambda x: x == -np.inf, "True for minus infinity.")
_test(aten.signbit, np.signbit, "True for a negative sign, of a zero too.")


@pointwise(aten.nan_to_num, formula="exact", integers=True)
def nan_to_num(call: HostCall) -> tuple[Array, Array, int]:
    """NaN and infinities replaced by numbers of the format."""
    x = call.number("self")
    if not is_covered_float(call.held[0].dtype):
        return x, np.abs(x), 0
    fmt = call.out_format()

    def replacement(name: str, default: float) -> float:
        value = call.get(name)
        return default if value is None else float(nearest(value, fmt))

    x = np.where(np.isnan(x), replacement("nan", 0.0), x)
    x = np.where(x == np.inf, replacement("posinf", fmt.max), x)
    return np.where(x == -np.inf, replacement("neginf", -fmt.max), x), np.abs(x), 0


@pointwise(aten.copysign, formula="exact", odd=("other",))
def copysign(call: HostCall) -> tuple[Array, Array, int]:
    """``|a|`` with the sign of b."""
    a, b = operand(call, "self"), operand(call, "other")
    return np.copysign(a, b), np.abs(a), 0


@pointwise(aten.heaviside, formula="exact", integers=True, domains={"values": "any"})
def heaviside(call: HostCall) -> tuple[Array, Array, int]:
    """0 below zero and for NaN, ``values`` at zero, 1 above."""
    x, values = call.number("self"), call.number("values")
    return np.where(x == 0, values, (x > 0).astype(values.dtype)), np.abs(x), 0


@pointwise(aten.fmax, formula="exact", integers=True)
def fmax(call: HostCall) -> tuple[Array, Array, int]:
    """The larger of two values, the other one if one is NaN."""
    largest = np.fmax(operand(call, "self"), operand(call, "other"))
    return largest, np.abs(largest), 0


@pointwise(aten.fmin, formula="exact", integers=True)
def fmin(call: HostCall) -> tuple[Array, Array, int]:
    """The smaller of two values, the other one if one is NaN."""
    smallest = np.fmin(operand(call, "self"), operand(call, "other"))
    return smallest, np.abs(smallest), 0


def _with_open_quotients(call: HostCall, a: Array, b: Array, rest: Array) -> Array:
    """The rest, or what was got where ``a / b`` overflows: vector bodies give NaN there (seen for
    the largest number modulo 0.9)."""
    if not is_covered_float(call.held[0].dtype):
        return rest
    lost = np.abs(a / b) >= compute_format(call.out_format()).max / 2
    lost &= np.isfinite(a) & (b != 0)
    return np.where(lost, bits.values(call.held[0]), rest) if lost.any() else rest


@pointwise(aten.fmod, formula="exact", odd=("self",), scalars={"other": 3},
           domains={"other": "positive"})
def fmod(call: HostCall) -> tuple[Array, Array, int]:
    """``a - b trunc(a / b)``, exact."""
    a, b = common(call, "self", "other")
    rest = _with_open_quotients(call, a, b, np.fmod(a, b))
    return rest, np.abs(rest), 0


@pointwise(aten.remainder, formula="2 roundings of |b| where signs differ, else exact",
           scalars={"other": 3}, domains={"other": "positive"})
def remainder(call: HostCall) -> tuple[Array, Array, int]:
    """``a - b floor(a / b)``, with the sign of b."""
    a, b = common(call, "self", "other")
    if a.dtype.kind != "f":
        return np.remainder(a, b), np.abs(b), 0
    rest = np.fmod(a, b)
    moved = (rest != 0) & ((rest < 0) != (b < 0))
    rest = _with_open_quotients(call, a, b, np.where(moved, rest + b, rest))
    return rest, np.where(moved, np.abs(b), 0.0), 2


def _next(x: Array, y: Array, dtype: torch.dtype) -> Array:
    """The neighbour of x towards y among the numbers of ``dtype``."""
    fmt = format_of(dtype)
    if fmt.precision >= FLOAT32.precision:
        kind = np.float64 if fmt.precision > FLOAT32.precision else np.float32
        return np.asarray(np.nextafter(x.astype(kind), y.astype(kind)).astype(np.float64))
    up = (y > x) == (x >= 0)
    grown = x + np.copysign(fmt.ulp(x), x)
    inside = fmt.ulp(np.abs(x) * (1 - 2.0**-30))
    shrunk = x - np.copysign(inside, x)
    smallest = np.copysign(fmt.eta, y)
    moved = np.where(x == 0, smallest, np.where(up, grown, shrunk))
    moved = np.where(np.abs(moved) > fmt.max, np.copysign(np.inf, moved), moved)
    result = np.where(x == y, y, moved)
    return np.where(np.isinf(x) & (x != y), np.copysign(fmt.max, x), result) + np.where(
        np.isnan(x) | np.isnan(y), np.nan, 0.0)


@pointwise(aten.nextafter, formula="exact", odd=("self", "other"),
           dtypes=(torch.float64, torch.float32, torch.bfloat16))
def nextafter(call: HostCall) -> tuple[Array, Array, int]:
    """The neighbour of a in the direction of b among the numbers of their common dtype, rounded to
    the result's: in place beside a wider b it is a again."""
    a, b = common(call, "self", "other")
    found = _next(a, b, operand_dtype(call.call, "self", "other"))
    return nearest(found, call.out_format()), np.abs(a), 0


@pointwise(aten.angle, formula="2 roundings of pi; 0 for positive numbers")
def angle(call: HostCall) -> tuple[Array, Array, int]:
    """pi for negative numbers, 0 for others, NaN for NaN."""
    x = call.number("self")
    turned = np.where(np.isnan(x), np.nan, np.where(x < 0, math.pi, 0.0))
    return turned, np.where(x < 0, math.pi, 0.0), 2


def _factor(target: Any, factor: float, text: str) -> None:
    def evaluate(call: HostCall) -> tuple[Array, Array, int]:
        product = operand(call, "self") * factor
        return product, np.abs(product), 3

    def stored_factor(call: HostCall) -> Array:
        """Half formats: the factor may be rounded to them."""
        out = call.out_format()
        small = out.precision < compute_format(out).precision
        return np.abs(operand(call, "self") * factor) * out.u * 1.01 * small

    evaluate.__doc__ = text
    evaluate.__module__ = __name__
    pointwise(target, formula="3 roundings: the factor, its store, the product", odd=("self",),
              extra=stored_factor)(evaluate)


_factor(aten.deg2rad, math.pi / 180, "``x pi / 180``.")
_factor(aten.rad2deg, 180 / math.pi, "``x 180 / pi``.")


def _integer(target: Any, function: Callable[[Array, Array, Array], Array], text: str) -> None:
    def evaluate(call: HostCall) -> tuple[Array, Array, int]:
        a, b = call.number("self"), call.number("other")
        value = function(a, b, bits.values(call.held[0]))
        return value, np.abs(value), 0

    evaluate.__doc__ = text
    evaluate.__module__ = __name__
    pointwise(target, formula="exact", dtypes=(torch.int64,), scalars={"other": 3, "self": 5},
              domains={"other": "exponent"})(evaluate)


def _shift_left(a: Array, b: Array, held: Array) -> Array:
    width = 8 * a.dtype.itemsize
    inside = (b >= 0) & (b < width)
    return np.where(inside, np.left_shift(a, np.where(inside, b, 0)), 0)


def _shift_right(a: Array, b: Array, held: Array) -> Array:
    last = 8 * a.dtype.itemsize - (0 if a.dtype.kind == "u" else 1)
    inside = (b >= 0) & (b < last)
    filled = np.right_shift(a, np.where(inside, b, last - (a.dtype.kind == "u")))
    return np.where(inside | (a.dtype.kind != "u"), filled, 0)


def _lcm(a: Array, b: Array, held: Array) -> Array:
    """Free where the multiple is beyond the dtype: what is left of it then, nobody says."""
    size = np.abs(np.divide(a, np.gcd(a, b), where=(a != 0) & (b != 0), out=np.zeros(
        np.broadcast_shapes(a.shape, b.shape)))) * np.abs(b.astype(np.float64))
    return np.where(size < 2.0 ** (8 * held.dtype.itemsize - 1), np.lcm(a, b), held)


_integer(aten.gcd, lambda a, b, held: np.gcd(a, b), "Greatest common divisor.")
_integer(aten.lcm, _lcm, "Least common multiple.")
_integer(aten.bitwise_left_shift, _shift_left, "``a 2^b``; 0 for a shift beyond the width.")
_integer(aten.bitwise_right_shift, _shift_right, "``floor(a / 2^b)``.")


def _frexp_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    return pointwise_symmetries(call, held)


def _frexp_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    if dtype not in FLOATS:
        return []
    draw = draw_values(generator, dtype, "mixed")
    return [(aten.frexp.Tensor, (layout(draw),), {}) for layout in LAYOUTS]


@checked(aten.frexp, family="pointwise", axes=broadcast_axes, symmetries=_frexp_symmetries,
         window=(OUTERMOST,), samples=_frexp_samples)
def frexp(call: HostCall) -> tuple[Reference | None, ...]:
    """A significand in [1/2, 1) and an exponent; the exponent of what is not finite is free."""
    if not is_covered_float(call.held[0].dtype):
        return None, None
    x = call.number("self")
    significand, exponent = np.frexp(x)
    exponent = np.where(np.isfinite(x), exponent, bits.values(call.held[1]))
    return (Reference(significand, 0.0, 0.0, "exact"),
            Reference(exponent.astype(np.int32), 0.0, 0.0, "exact"))
