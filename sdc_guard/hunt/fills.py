"""Adversarial values: what an operand is filled with.

The recipes aim at what rounding analysis fears: cancellation, stagnation, ties, terms over the
whole range, numbers next to powers of two, near overflow and underflow, one outlier, NaN and Inf,
and any bit pattern.  A :class:`~sdc_guard.hunt.trial.Fill` names one; :func:`filled` makes its
values in float64 for a format, :func:`values_for` a tensor of any dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard.formats import (
    FLOAT16,
    Format,
    format_of,
    part_dtype,
)
from sdc_guard.hunt.trial import Fill, num_elements

F64 = NDArray[np.floating[Any]]
Rng = np.random.Generator


def _signs(rng: Rng, n: int) -> F64:
    return rng.integers(0, 2, n) * 2.0 - 1.0


def _cancelling(rng: Rng, n: int, fmt: Format) -> F64:
    x = 1.7 + 2.0**-6 * rng.random(n)
    x[::2] *= -1
    return x


def _opposite(rng: Rng, n: int, fmt: Format) -> F64:
    """Numbers and their negatives, anywhere: the exact sum is 0, or one number."""
    x = rng.standard_normal(n)
    x[n // 2 : 2 * (n // 2)] = -x[: n // 2]
    return rng.permutation(x)


def _stagnating(rng: Rng, n: int, fmt: Format) -> F64:
    """1, then terms just below half its ulp: added one by one they are all lost."""
    x = np.full(n, fmt.u * (1 - 4 * fmt.u))
    x[:1] = 1.0
    return x


def _ties(rng: Rng, n: int, fmt: Format) -> F64:
    """Multiples of half an ulp of 1, so that sums with 1 lie halfway between two numbers."""
    x = fmt.u * rng.integers(-3, 4, n)
    x[:: max(1, n // 4)] = 1.0
    return x


def _growing(rng: Rng, n: int, fmt: Format) -> F64:
    """Terms a little above a power of two, whose sums round the same way again and again."""
    return 1 + fmt.u * 2 * rng.integers(1, 4, n)


def _outlier(rng: Rng, n: int, fmt: Format) -> F64:
    x = 0.1 * rng.standard_normal(n)
    if n:
        x[rng.integers(n)] = min(2.0 / fmt.u, fmt.max**0.5)
    return x


def _wide(rng: Rng, n: int, fmt: Format) -> F64:
    return _signs(rng, n) * np.exp2(24 * rng.random(n) - 12)


def _whole_range(rng: Rng, n: int, fmt: Format) -> F64:
    low = fmt.emin - fmt.precision + 1
    return _signs(rng, n) * np.exp2(np.maximum(low + (fmt.emax - low) * rng.random(n), -1074))


def _near_powers(rng: Rng, n: int, fmt: Format) -> F64:
    near = 1 + fmt.u * rng.choice([-1.0, 0.0, 2.0], n)
    return _signs(rng, n) * near * np.exp2(rng.integers(-3, 4, n))


def _bits(rng: Rng, n: int, fmt: Format) -> F64:
    """Any finite number of the format, every bit pattern as likely as any other."""
    exponent = rng.integers(fmt.emin - 1, fmt.emax + 1, n)
    significand = rng.integers(0, 2 ** (fmt.precision - 1), n) * 2.0 ** (1 - fmt.precision)
    normal = np.ldexp(1 + significand, exponent)
    return _signs(rng, n) * np.where(exponent < fmt.emin, significand * fmt.tiny, normal)


def _subnormal(rng: Rng, n: int, fmt: Format) -> F64:
    return fmt.eta * rng.integers(-(2 ** (fmt.precision - 1)), 2 ** (fmt.precision - 1), n)


def _every_pattern(rng: Rng, n: int, fmt: Format) -> F64:
    """All finite numbers of a half format in order, 0 for the patterns of infinities and NaN; any
    numbers of a wider format."""
    if fmt.precision > FLOAT16.precision:
        return _bits(rng, n, fmt)
    pattern = np.arange(n) + rng.integers(2**16)
    size, exponents = 1 << (fmt.precision - 1), fmt.emax - fmt.emin + 3
    low = pattern % size / size
    exponent = pattern // size % exponents
    normal = np.ldexp(1 + low, np.minimum(exponent, exponents - 2) + fmt.emin - 1)
    found = np.where(exponent, normal, low * fmt.tiny)
    found = np.where(exponent == exponents - 1, 0.0, found)
    return np.where(pattern // (size * exponents) % 2, -1.0, 1.0) * found


def _integer_edges(rng: Rng, n: int, fmt: Format) -> F64:
    """Integers next to the powers of two at which a narrower one, or its square, wraps."""
    near = np.exp2(rng.choice([7, 8, 15, 16, 31, 32, 53], n)) + rng.integers(-2, 3, n)
    return np.asarray(_signs(rng, n) * near, dtype=np.float64)


def _infinite(rng: Rng, n: int, fmt: Format) -> F64:
    """Infinities of one sign, and rarely a number."""
    x = np.full(n, rng.choice([-np.inf, -np.inf, np.inf]))
    return np.where(rng.random(n) < 0.05 * rng.integers(0, 2), 1.0, x)


def _special(rng: Rng, n: int, fmt: Format) -> F64:
    x = rng.standard_normal(n)
    rare = rng.random(n) < 0.02
    return np.where(rare, rng.choice([np.inf, -np.inf, np.nan, 0.0, -0.0, fmt.max], n), x)


Make = Callable[[Rng, int, Format], F64]

KINDS: dict[str, Make] = {
    "normal": lambda rng, n, fmt: 2 * rng.standard_normal(n),
    "uniform": lambda rng, n, fmt: rng.random(n),
    "constant": lambda rng, n, fmt: np.full(n, 0.1),
    "all negative": lambda rng, n, fmt: -rng.random(n) - 0.5,
    "alternating": lambda rng, n, fmt: np.where(np.arange(n) % 2, -1.0, 1.0) * 0.3,
    "cancelling": _cancelling,
    "opposite": _opposite,
    "sorted": lambda rng, n, fmt: np.sort(rng.standard_normal(n)),
    "outlier": _outlier,
    "24 binades": _wide,
    "whole range": _whole_range,
    "stagnating": _stagnating,
    "ties": _ties,
    "growing": _growing,
    "near powers of 2": _near_powers,
    "integers": lambda rng, n, fmt: rng.integers(-9, 10, n).astype(np.float64),
    "large integers": lambda rng, n, fmt: (
        2.0 ** min(fmt.precision, fmt.emax - 2) + rng.integers(-8, 9, n)),
    "far from 0": lambda rng, n, fmt: 100 + 2.0 ** (4 - fmt.precision) * rng.integers(0, 99, n),
    "near max": lambda rng, n, fmt: _signs(rng, n) * fmt.max * (0.25 + 0.75 * rng.random(n)),
    "near tiny": lambda rng, n, fmt: 4 * fmt.tiny * rng.standard_normal(n),
    "subnormal": _subnormal,
    "bit patterns": _bits,
    "every pattern": _every_pattern,
    "special": _special,
    "integer edges": _integer_edges,
    "infinite": _infinite,
    "sparse": lambda rng, n, fmt: rng.standard_normal(n) * (rng.random(n) < 0.2),
}

EDITS: dict[str, Callable[[Format], float]] = {
    "0": lambda fmt: 0.0,
    "1": lambda fmt: 1.0,
    "-1": lambda fmt: -1.0,
    "1 + 2u": lambda fmt: 1 + 2 * fmt.u,
    "1 - u": lambda fmt: 1 - fmt.u,
    "u": lambda fmt: fmt.u,
    "-1/u": lambda fmt: -min(1 / fmt.u, fmt.max),
    "max": lambda fmt: fmt.max,
    "tiny": lambda fmt: fmt.tiny,
    "eta": lambda fmt: fmt.eta,
    "pi": lambda fmt: math.pi,
}


def _divisors(x: F64) -> F64:
    """Integers to divide by."""
    x = np.nan_to_num(np.round(x))
    return np.where(x == 0, 1.0, x)


DOMAINS: dict[str, Callable[[F64], F64]] = {
    "": lambda x: x,
    "not negative": np.abs,
    "0 to 1": lambda x: np.where(np.isfinite(x), np.abs(x) % 1.0, 0.5),
    "divisor": _divisors,
    "count of bits": lambda x: np.abs(np.nan_to_num(x)) % 70,
    "small power": lambda x: np.abs(np.nan_to_num(x)) % 6,
}
"""Where the values of an operand must lie for the call to have a meaning."""


def filled(fill: Fill, size: int, fmt: Format) -> F64:
    """``size`` values of a recipe, not yet rounded to the format, nor kept inside its range."""
    rng = np.random.default_rng(fill.seed)
    with np.errstate(all="ignore"):
        x = np.ldexp(KINDS[fill.kind](rng, size, fmt), fill.exponent)
    for place, name in fill.edits:
        if size:
            x[place % size] = EDITS[name](fmt)
    with np.errstate(all="ignore"):
        return np.asarray(DOMAINS[fill.domain](x))


def values_for(fill: Fill, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A contiguous host tensor of a recipe's values, rounded to ``dtype``; integers are the values
    cut to the dtype's range, booleans their signs."""
    size = num_elements(shape)
    if dtype.is_complex:
        real = values_for(fill, shape, part_dtype(dtype))
        other = Fill(kind=fill.kind, exponent=fill.exponent, seed=fill.seed + 1)
        return torch.complex(real, values_for(other, shape, part_dtype(dtype)))
    if dtype is torch.bool:
        return torch.from_numpy(filled(fill, size, format_of(torch.float32)) > 0).reshape(shape)
    if not dtype.is_floating_point:
        info = torch.iinfo(dtype)
        x = np.nan_to_num(filled(fill, size, format_of(torch.float64)))
        low, high = max(float(info.min), -(2.0**62)), min(float(info.max), 2.0**62)
        return torch.from_numpy(np.clip(np.round(x), low, high).astype(np.int64)).to(
            dtype).reshape(shape)
    fmt = format_of(dtype)
    return torch.from_numpy(filled(fill, size, fmt)).to(dtype).reshape(shape)
