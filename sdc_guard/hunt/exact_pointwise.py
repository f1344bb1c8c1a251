"""Elementwise operators in exact arithmetic: rational where the function is, else mpmath."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import mpmath
import torch
from torch import Tensor

from sdc_guard.calls import BoundCall
from sdc_guard.formats import format_of, is_covered_float
from sdc_guard.hunt.exact_numbers import (
    Number,
    Reader,
    as_number,
    computing_format,
    of_mpf,
    rounded,
    to_mpf,
)

DIGITS = 60
_HUGE = 1 << 20

Function = Callable[..., Number | None]


def _real(function: Callable[..., Any]) -> Function:
    """A function of mpmath, of finite operands; None where it has no value or a pole."""
    def of(*operands: Number) -> Number | None:
        if not all(isinstance(o, Fraction) for o in operands):
            return math.nan if any(o != o for o in operands) else None
        with mpmath.workdps(DIGITS):
            try:
                return of_mpf(function(*map(to_mpf, operands)))
            except (ValueError, ZeroDivisionError, OverflowError, mpmath.NoConvergence):
                return None
    return of


def _exp(x: Any) -> Any:
    if abs(x) > _HUGE:  # beyond every format: any number there that rounds alike will do
        x = mpmath.sign(x) * _HUGE
    return mpmath.exp(x)


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + _exp(-x))


def _tanh(x: Any) -> Any:
    return mpmath.tanh(x) if abs(x) < 1000 else mpmath.sign(x) * (1 - mpmath.mpf(2) ** -400)


def _gelu(x: Any) -> Any:
    return x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2


def _gelu_backward(grad: Any, x: Any) -> Any:
    density = _exp(-x * x / 2) / mpmath.sqrt(2 * mpmath.pi)
    return grad * (mpmath.erfc(-x / mpmath.sqrt(2)) / 2 + x * density)


def _gelu_angle(x: Any) -> Any:
    """What ``gelu`` with ``approximate="tanh"`` takes the tanh of, as torch documents it."""
    return mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3)


def _gelu_tanh(x: Any) -> Any:
    return x * _sigmoid(2 * _gelu_angle(x))


def _gelu_tanh_backward(grad: Any, x: Any) -> Any:
    angle = _gelu_angle(x)
    slope = mpmath.sqrt(2 / mpmath.pi) * (1 + 3 * mpmath.mpf("0.044715") * x * x)
    share = _sigmoid(2 * angle) * _sigmoid(-2 * angle)
    return grad * (_sigmoid(2 * angle) + 2 * x * slope * share)


def _softplus(x: Any) -> Any:
    return mpmath.log1p(_exp(x)) if x < 500 else x


def _pow(x: Any, y: Any) -> Any:
    if not x:
        return mpmath.mpf(1) if not y else mpmath.mpf(0) if y > 0 else mpmath.inf
    if abs(y * mpmath.log(abs(x))) > _HUGE:
        return mpmath.mpf(0) if (abs(x) < 1) == (y > 0) else mpmath.inf
    return mpmath.power(x, y)


def _power(x: Number, y: Number) -> Number | None:
    """``x`` to the ``y``; of infinite bases and finite exponents as IEEE 754 has it."""
    if isinstance(x, Fraction) or x != x or not isinstance(y, Fraction):
        return _real(_pow)(x, y)
    if y <= 0:
        return Fraction(y == 0)
    return x if y.denominator == 1 and y % 2 else math.inf


def _rational(function: Callable[..., Any]) -> Function:
    """A rational function; of NaN and infinities as IEEE arithmetic has it."""
    def of(*operands: Number) -> Number | None:
        try:
            found = function(*operands)
        except ZeroDivisionError:
            first, second = operands[0], operands[-1]
            if second != 0 or len(operands) > 2:
                return None
            is_nan = len(operands) == 2 and (first == 0 or first != first)
            return math.nan if is_nan else None  # the sign of the zero decides
        except OverflowError:
            return None  # a rational beyond the doubles, beside an infinity
        return found if isinstance(found, Fraction) else as_number(float(found))
    return of


def _larger(x: Number, y: Number) -> Number:
    return math.nan if x != x or y != y else max(x, y)


def _smaller(x: Number, y: Number) -> Number:
    return math.nan if x != x or y != y else min(x, y)


def _finite(function: Callable[[Fraction], Any]) -> Function:
    return lambda x: Fraction(function(x)) if isinstance(x, Fraction) else x


UNARY: dict[str, Function] = {
    "neg": _rational(lambda x: -x), "abs": _rational(abs),
    "square": _rational(lambda x: x * x), "reciprocal": _rational(lambda x: 1 / x),
    "relu": lambda x: x if x != x else max(x, Fraction(0)),
    "sign": _finite(lambda x: (x > 0) - (x < 0)),
    "floor": _finite(math.floor), "ceil": _finite(math.ceil), "trunc": _finite(math.trunc),
    "clone": lambda x: x, "_to_copy": lambda x: x,
    "exp": _real(_exp), "exp2": _real(lambda x: _exp(x * mpmath.log(2))),
    "expm1": _real(lambda x: mpmath.expm1(x) if x < _HUGE else _exp(x)),
    "log": _real(mpmath.log), "log2": _real(lambda x: mpmath.log(x, 2)),
    "log10": _real(mpmath.log10), "log1p": _real(mpmath.log1p),
    "sqrt": _real(mpmath.sqrt), "rsqrt": _real(lambda x: 1 / mpmath.sqrt(x)),
    "sin": _real(mpmath.sin), "cos": _real(mpmath.cos), "tan": _real(mpmath.tan),
    "asin": _real(mpmath.asin), "acos": _real(mpmath.acos), "atan": _real(mpmath.atan),
    "sinh": _real(lambda x: mpmath.sinh(x) if abs(x) < _HUGE else mpmath.sign(x) * mpmath.inf),
    "cosh": _real(lambda x: mpmath.cosh(x) if abs(x) < _HUGE else mpmath.inf),
    "tanh": _real(_tanh), "asinh": _real(mpmath.asinh), "acosh": _real(mpmath.acosh),
    "atanh": _real(mpmath.atanh), "erf": _real(mpmath.erf), "erfc": _real(mpmath.erfc),
    "erfinv": _real(mpmath.erfinv), "lgamma": _real(lambda x: mpmath.log(abs(mpmath.gamma(x)))),
    "digamma": _real(mpmath.digamma), "sigmoid": _real(_sigmoid),
    "log_sigmoid_forward": _real(lambda x: -_softplus(-x)),
    "silu": _real(lambda x: x * _sigmoid(x)), "sinc": _real(mpmath.sincpi),
    "mish": _real(lambda x: x * _tanh(_softplus(x))),
    "special_entr": _real(lambda x: -x * mpmath.log(x) if x else x),
    "special_ndtr": _real(lambda x: mpmath.erfc(-x / mpmath.sqrt(2)) / 2),
    "isnan": lambda x: Fraction(x != x), "logical_not": lambda x: Fraction(x == 0),
    "isinf": lambda x: Fraction(isinstance(x, float) and math.isinf(x)),
}
BINARY: dict[str, Function] = {
    "mul": _rational(lambda x, y: x * y), "div": _rational(lambda x, y: x / y),
    "maximum": _larger, "minimum": _smaller, "pow": _power, "float_power": _power,
    "atan2": _real(mpmath.atan2),
    "hypot": _real(lambda x, y: mpmath.sqrt(x * x + y * y)),
    "fmod": _rational(lambda x, y: x - y * math.trunc(x / y)),
    "remainder": _rational(lambda x, y: x - y * math.floor(x / y)),
    "gcd": _rational(lambda x, y: Fraction(math.gcd(int(x), int(y)))),
    "lcm": _rational(lambda x, y: Fraction(math.lcm(int(x), int(y)))),
    "eq": lambda x, y: Fraction(x == y), "ne": lambda x, y: Fraction(x != y),
    "lt": lambda x, y: Fraction(x < y), "le": lambda x, y: Fraction(x <= y),
    "gt": lambda x, y: Fraction(x > y), "ge": lambda x, y: Fraction(x >= y),
}
_IN_STORAGE_FORMAT = frozenset({"aten.fmod", "aten.remainder"})
"""Kernels that round a number to the half format before they compute in fp32."""
_OPERANDS: dict[str, tuple[tuple[str, ...], Function]] = {
    "where": (("condition", "self", "other"), lambda c, x, y: x if c else y),
    "masked_fill": (("self", "mask", "value"), lambda x, m, v: v if m else x),
    "lerp": (("self", "end", "weight"), _rational(lambda x, y, w: x + w * (y - x))),
    "addcmul": (("self", "tensor1", "tensor2", "value"),
                _rational(lambda s, x, y, v: s + v * x * y)),
    "addcdiv": (("self", "tensor1", "tensor2", "value"),
                _rational(lambda s, x, y, v: s + v * x / y)),
    "copy": (("src",), lambda x: x),
    "sigmoid_backward": (("grad_output", "output"), _rational(lambda g, y: g * y * (1 - y))),
    "tanh_backward": (("grad_output", "output"), _rational(lambda g, y: g * (1 - y * y))),
}
_GELU = {"none": _real(_gelu), "tanh": _real(_gelu_tanh)}
_GELU_BACKWARD = {"none": _real(_gelu_backward), "tanh": _real(_gelu_tanh_backward)}


def pointwise(call: BoundCall, dtype: torch.dtype, index: tuple[int, ...]) -> Number | None:
    """The exact value of one element of an elementwise call whose result is of ``dtype``; None
    where this module does not know the operator or this form of it."""
    name = call.form.packet.removeprefix("aten.")
    if name in UNARY:
        return _apply(UNARY[name], call, ("self",), dtype, index)
    if name in BINARY:
        if call.get("rounding_mode") is not None:
            return None
        return _apply(BINARY[name], call, _pair(call), dtype, index)
    if name in _OPERANDS:
        names, function = _OPERANDS[name]
        return _apply(function, call, names, dtype, index)
    if name in ("add", "sub") and call.get("other") is not None:
        sign = 1 if name == "add" else -1
        scale = as_number(call.get("alpha", 1))
        return _apply(_rational(lambda x, y: x + sign * scale * y), call, _pair(call), dtype, index)
    if name == "gelu":
        return _apply(_GELU[call["approximate"]], call, ("self",), dtype, index)
    if name == "gelu_backward":
        return _apply(_GELU_BACKWARD[call["approximate"]], call, ("grad_output", "self"), dtype,
                      index)
    if name == "clamp":
        return _clamped(call, dtype, index)
    return None


def _pair(call: BoundCall) -> tuple[str, ...]:
    names = call.form.argument_names
    return ("self", "exponent") if "exponent" in names else ("self", "other")


def _clamped(call: BoundCall, dtype: torch.dtype, index: tuple[int, ...]) -> Number | None:
    value = _operand(call["self"], dtype, index)
    low = None if call["min"] is None else _operand(call["min"], dtype, index)
    high = None if call["max"] is None else _operand(call["max"], dtype, index)
    if value is None or value != value:
        return value
    if low is not None:
        value = _larger(value, low)
    return value if high is None else _smaller(value, high)


def _apply(
    function: Function, call: BoundCall, names: tuple[str, ...], dtype: torch.dtype,
    index: tuple[int, ...],
) -> Number | None:
    compared = dtype
    if dtype is torch.bool:
        given = [call[n] for n in names]
        compared = torch.result_type(*given) if len(given) == 2 else given[0].dtype
    in_storage = call.form.packet in _IN_STORAGE_FORMAT and is_covered_float(compared)
    operands = []
    for name in names:
        value = _operand(call[name], compared, index)
        if value is not None and in_storage:
            value = rounded(value, format_of(compared))
        if value is None:
            return None
        operands.append(value)
    return function(*operands)


def _operand(value: Any, dtype: torch.dtype, index: tuple[int, ...]) -> Number | None:
    """One operand at an index, as the kernel takes it: a number or an integer tensor is rounded to
    the format that the kernel computes in."""
    fmt = computing_format(dtype)
    if isinstance(value, Tensor):
        if not (value.dtype.is_floating_point or not value.dtype.is_complex):
            return None
        number = Reader(value).broadcast(index)
    elif isinstance(value, (bool, int, float)):
        number = as_number(value)
    else:
        return None
    return number if fmt is None else rounded(number, fmt)
