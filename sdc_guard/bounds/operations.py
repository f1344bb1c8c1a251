"""One rule for each NumPy ufunc, on :class:`~sdc_guard.bounds.followed.Followed` arrays; that
module derives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sdc_guard.bounds.approximate import FUNCTIONS, QUOTIENT_ROUNDINGS, ROOT_ROUNDINGS
from sdc_guard.bounds.followed import Array, Followed, cannot_follow, finite, followed, rounded
from sdc_guard.bounds.special import erf


def add(a: Followed, b: Followed) -> Followed:
    """``a + b``."""
    a, b = a.numbers(), b.numbers()
    return rounded(a.rules, a.value + b.value, a.error + b.error, a, b)


def negative(a: Followed) -> Followed:
    """``-a``."""
    a = a.numbers()
    return Followed(-a.value, a.error, a.rules)


def subtract(a: Followed, b: Followed) -> Followed:
    """``a - b``."""
    return add(a, negative(b))


def multiply(a: Followed, b: Followed) -> Followed:
    """``a b``; of equal operands too, whose errors are one."""
    a, b = a.numbers(), b.numbers()
    error = np.abs(a.value) * b.error + np.abs(b.value) * a.error + a.error * b.error
    return rounded(a.rules, a.value * b.value, error, a, b)


def divide(a: Followed, b: Followed) -> Followed:
    """``a / b``."""
    a, b = a.numbers(), b.numbers()
    fmt, value = a.rules.compute, a.value / b.value
    room = np.abs(b.value) - b.error
    error = (a.error + np.where(b.error == 0, 0.0, np.abs(value) * b.error)) / np.where(
        room > 0, room, np.nan)
    flushed = fmt.tiny * (1.0 + np.abs(a.value))  # a reciprocal that is subnormal
    return rounded(a.rules, value, np.where(room > 0, error, np.inf), a, count=QUOTIENT_ROUNDINGS,
                   more=flushed)


def sqrt(a: Followed) -> Followed:
    """Square root."""
    a = a.numbers()
    root, fmt = np.sqrt(a.value), a.rules.compute
    by_slope = a.error / np.where(root > 0, root, np.nan)
    error = np.where(root > 0, np.minimum(by_slope, np.sqrt(a.error)), np.sqrt(a.error))
    # A subnormal argument may be flushed.
    flushed = np.where(np.abs(a.value) - a.error < fmt.tiny, np.sqrt(fmt.tiny), 0.0)
    return rounded(a.rules, root, error, a, count=ROOT_ROUNDINGS, more=flushed)


def absolute(a: Followed) -> Followed:
    """``|a|``."""
    a = a.numbers()
    return Followed(np.abs(a.value), a.error, a.rules)


def maximum(a: Followed, b: Followed) -> Followed:
    """The larger one: exact but for its operands' errors."""
    a, b = a.numbers(), b.numbers()
    return Followed(np.maximum(a.value, b.value), np.maximum(a.error, b.error), a.rules)


def minimum(a: Followed, b: Followed) -> Followed:
    """The smaller one."""
    return negative(maximum(negative(a), negative(b)))


def power(a: Followed, b: Followed) -> Followed:
    """Whole powers as repeated products, and square roots."""
    exponent = float(b.value) if b.value.ndim == 0 and not b.error.any() else np.nan
    if exponent in (0.5, -0.5):
        root = sqrt(a)
        return root if exponent > 0 else divide(followed(1.0, a.rules), root)
    if exponent != int(exponent if np.isfinite(exponent) else 0) or not 1 <= abs(exponent) <= 8:
        raise cannot_follow("a power other than 0.5, -0.5 and whole numbers up to 8")
    result = a
    for _ in range(int(abs(exponent)) - 1):
        result = multiply(result, a)
    return result if exponent > 0 else divide(followed(1.0, a.rules), result)


def select(condition: Any, a: Followed, b: Followed) -> Followed:
    """``np.where``: either branch where the condition is unsure."""
    rules = a.rules
    condition = followed(condition, rules)
    if a.value.dtype.kind != "b" or b.value.dtype.kind != "b":
        a, b = a.numbers(), b.numbers()
    chosen = np.asarray(condition.value, dtype=bool)
    value = np.where(chosen, a.value, b.value)
    error = np.where(chosen, a.error, b.error)
    if condition.error.any():
        other = np.where(chosen, b.error, a.error)
        gap = np.abs(np.asarray(a.value, dtype=float) - np.asarray(b.value, dtype=float))
        error = np.where(condition.error > 0, np.maximum(error, gap + other), error)
    return Followed(value, error, rules)


def _compared(ufunc: Callable[..., Array]) -> Callable[[Followed, Followed], Followed]:
    def rule(a: Followed, b: Followed) -> Followed:
        a, b = a.numbers(), b.numbers()
        error = a.error + b.error
        unsure = (error > 0) & ~(np.abs(a.value - b.value) > error)
        # A NaN compares as false, so which branch it takes depends on how the kernel asks.
        unsure |= np.isnan(a.value) | np.isnan(b.value)
        return Followed(ufunc(a.value, b.value), unsure.astype(np.float64), a.rules)

    return rule


def _logical(ufunc: Callable[..., Array]) -> Callable[..., Followed]:
    def rule(*inputs: Followed) -> Followed:
        if any(x.value.dtype.kind != "b" for x in inputs):
            raise cannot_follow(f"np.{ufunc.__name__} of numbers; compare them first")
        value = ufunc(*(x.value for x in inputs))
        errors = np.broadcast_arrays(*(x.error for x in inputs))
        return Followed(value, np.maximum.reduce(errors), inputs[0].rules)

    return rule


def _elementary(
    ufunc: Callable[..., Array], name: str
) -> Callable[[Followed], Followed]:
    function = FUNCTIONS[name]

    def rule(a: Followed) -> Followed:
        a, rules = a.numbers(), a.rules
        rules.met_elementary = True
        value = np.asarray(ufunc(a.value))
        error = function.moved(a.value, value, a.error) + function.own_error(
            a.value, value, a.error, rules.compute, proof=rules.proof)
        exact = np.isinf(a.value) & (a.error == 0)
        total = np.where(exact, 2 * rules.compute.tiny, finite(value, error, rules.compute))
        return Followed(value, total, rules)

    return rule


def _scipy(name: str) -> Callable[[Followed], Followed]:
    """SciPy's ``erf`` and ``expit``, without SciPy."""
    return _elementary(erf if name == "erf" else lambda x: 1.0 / (1.0 + np.exp(-x)), name)


def square(a: Followed) -> Followed:
    """``a^2``."""
    return multiply(a, a)


def reciprocal(a: Followed) -> Followed:
    """``1 / a``."""
    return divide(followed(1.0, a.rules), a)


def _matmul(a: Followed, b: Followed) -> Followed:
    from sdc_guard.bounds.following import matmul

    return matmul(a, b)


UFUNCS: dict[str, Callable[..., Followed]] = {
    "add": add, "subtract": subtract, "multiply": multiply, "divide": divide,
    "negative": negative, "positive": lambda a: a.numbers(), "absolute": absolute,
    "fabs": absolute, "sqrt": sqrt, "square": square, "reciprocal": reciprocal, "power": power,
    "maximum": maximum, "minimum": minimum, "fmax": maximum, "fmin": minimum, "matmul": _matmul,
    **{f.__name__: _compared(f) for f in (np.greater, np.greater_equal, np.less, np.less_equal,
                                          np.equal, np.not_equal)},
    **{f.__name__: _logical(f) for f in (np.logical_and, np.logical_or, np.logical_not,
                                         np.bitwise_and, np.bitwise_or, np.invert)},
    **{name: _elementary(getattr(np, name), name) for name in FUNCTIONS if hasattr(np, name)},
    **{name: _scipy(name) for name in ("erf", "expit")},
}
"""By the name of the ufunc."""
