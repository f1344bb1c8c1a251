"""NumPy's functions on :class:`~sdc_guard.bounds.followed.Followed` arrays.

A product of several factors, summed over k terms (``matmul``, ``dot``, ``einsum``), with
``M = sum prod (|x_i| + e_i)`` and m factors:

    e = (M - sum prod |x_i|) + ((1 + u_in)^m (1 + gamma_{k+m}(u_acc)) - 1) M + m k eta,

any order of the sum (Higham 2002, section 3.5).  ``u_acc`` and ``u_in`` are those of the rules: on
a CUDA device ``u_acc = 4 u``, because tensor cores align and truncate what they add (each of n
terms loses at most ``2^-23`` of the largest; Fasi, Higham, Mikaitis and Pranesh 2021), and ``u_in``
that of TF32, twice, since hardware may truncate.  Where the call has operands in a half format,
intermediates may be rounded to it on their way into a product, as ``tl.dot`` wants it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from sdc_guard.bounds import special
from sdc_guard.bounds.followed import (
    Array,
    Followed,
    Rules,
    cannot_follow,
    finite,
    followed,
    refuse,
)
from sdc_guard.bounds.gamma import gamma
from sdc_guard.bounds.operations import UFUNCS, divide, select, sqrt
from sdc_guard.formats import FLOAT64

Combine = Callable[..., Array]


def _contracted(factors: tuple[Followed, ...], num_terms: int, combine: Combine) -> Followed:
    """A sum of ``num_terms`` products; ``combine`` computes it from plain arrays."""
    rules = factors[0].rules
    fmt, num_factors = rules.compute, len(factors)
    factors = tuple(_as_input(x.numbers(), rules) for x in factors)
    value = combine(*(x.value for x in factors))
    exact = combine(*(np.abs(x.value) for x in factors))
    reach = exact if not any(x.error.any() for x in factors) else combine(
        *(np.abs(x.value) + x.error for x in factors))
    order = gamma(num_terms + num_factors, rules.product_u + 4 * FLOAT64.u)
    rounding = (1 + rules.input_u) ** num_factors * (1 + order) - 1
    error = (reach - exact) + rounding * reach + num_factors * num_terms * fmt.eta
    return Followed(value, np.where(reach + error <= fmt.max, error, np.inf), rules)


def _as_input(x: Followed, rules: Rules) -> Followed:
    """An intermediate may enter a product in the operands' half format."""
    if rules.operands is None or not x.error.any():
        return x
    return x.rounded_to(rules.operands)


def matmul(a: Followed, b: Followed) -> Followed:
    """``a @ b``."""
    return _contracted((a, b), a.shape[-1], np.matmul)


def dot(rules: Rules, a: Any, b: Any) -> Followed:
    """``np.dot``: a product of numbers where either has no dimension."""
    a, b = followed(a, rules), followed(b, rules)
    if not a.ndim or not b.ndim:
        return Followed.__mul__(a, b)  # type: ignore[no-any-return]
    return _contracted((a, b), a.shape[-1], np.dot)


def einsum(rules: Rules, subscripts: Any, *operands: Any, **options: Any) -> Followed:
    """``np.einsum`` with its subscripts in a string."""
    refuse("einsum", {k: v for k, v in options.items() if k != "optimize"})
    if not isinstance(subscripts, str):
        raise cannot_follow("np.einsum without a string of subscripts")
    text = subscripts.replace(" ", "")
    inputs, arrow, output = text.partition("->")
    letters = inputs.replace(",", "").replace("...", "")
    if not arrow:
        output = "".join(x for x in letters if letters.count(x) == 1)
    factors = tuple(followed(x, rules) for x in operands)
    sizes: dict[str, int] = {}
    for labels, x in zip(inputs.split(","), factors, strict=True):
        head, dots, tail = labels.partition("...")
        sizes.update(zip(head, x.shape, strict=False))
        if dots and tail:
            sizes.update(zip(tail, x.shape[-len(tail):], strict=True))
    summed = [x for x in sizes if x not in output]
    return _contracted(factors, math.prod(sizes[x] for x in summed),
                       lambda *arrays: np.asarray(np.einsum(text, *arrays)))


def _joined(function: Callable[..., Array]) -> Callable[..., Followed]:
    def rule(rules: Rules, arrays: Any, axis: int = 0, **options: Any) -> Followed:
        refuse(function.__name__, options)
        parts = [followed(x, rules).numbers() for x in arrays]
        return Followed(function([x.value for x in parts], axis=axis),
                        function([x.error for x in parts], axis=axis), rules)

    return rule


def _moved(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that moves elements of its first argument and computes nothing."""

    def rule(rules: Rules, array: Any, *args: Any, **kwargs: Any) -> Any:
        x = followed(array, rules)
        if any(isinstance(a, Followed) for a in (*args, *kwargs.values())):
            raise cannot_follow(f"np.{function.__name__} with a computed argument")
        value, error = function(x.value, *args, **kwargs), function(x.error, *args, **kwargs)
        if isinstance(value, (list, tuple)):
            return [Followed(v, e, rules) for v, e in zip(value, error, strict=True)]
        return Followed(value, error, rules)

    return rule


def _pad(rules: Rules, array: Any, pad_width: Any, mode: str = "constant",
         constant_values: Any = 0) -> Followed:
    x = followed(array, rules).numbers()
    if mode != "constant":
        return _moved(np.pad)(rules, x, pad_width, mode)  # type: ignore[no-any-return]
    return Followed(np.pad(x.value, pad_width, constant_values=constant_values),
                    np.pad(x.error, pad_width), rules)


def _cumsum(rules: Rules, array: Any, axis: int | None = None, **options: Any) -> Followed:
    """Partial sums, each in any order."""
    refuse("cumsum", options)
    x = followed(array, rules).numbers()
    size = np.cumsum(np.abs(x.value) + x.error, axis=axis)
    num_terms = x.size if axis is None else x.shape[axis]
    u = rules.compute.u + 4 * FLOAT64.u
    error = np.cumsum(x.error, axis=axis) + num_terms * u * size + FLOAT64.eta
    return Followed(np.cumsum(x.value, axis=axis), finite(size, error, rules.compute), rules)


def _filled(value: float) -> Callable[..., Followed]:
    def rule(rules: Rules, like: Any, *args: Any, **kwargs: Any) -> Followed:
        return Followed(np.full(kwargs.get("shape") or np.shape(like.value), value), 0.0, rules)

    return rule


def _full_like(rules: Rules, like: Any, fill_value: Any, **options: Any) -> Followed:
    x = followed(fill_value, rules).numbers()
    shape = np.shape(like.value)
    return Followed(np.broadcast_to(x.value, shape).copy(), np.broadcast_to(x.error, shape), rules)


def _where(rules: Rules, condition: Any, *branches: Any) -> Followed:
    if len(branches) != 2:
        raise cannot_follow("np.where with one argument: how many elements it finds is unknown")
    return select(condition, *(followed(x, rules) for x in branches))


def _norm(rules: Rules, x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False
          ) -> Followed:
    if ord not in (None, 2) or (ord == 2 and axis is None and followed(x, rules).ndim != 1):
        raise cannot_follow(f"np.linalg.norm with ord={ord!r}")
    return sqrt((x * x).sum(axis, keepdims=keepdims))


def _average(rules: Rules, a: Any, axis: Any = None, weights: Any = None) -> Followed:
    if weights is None:
        return followed(a, rules).mean(axis)
    total = followed(weights, rules).sum(axis)
    return divide(followed(a * weights, rules).sum(axis), total)


def _method(name: str) -> Callable[..., Any]:
    return lambda rules, x, *args, **kwargs: getattr(followed(x, rules), name)(*args, **kwargs)


def _outer(rules: Rules, a: Any, b: Any) -> Any:
    return followed(a, rules).ravel()[:, None] * followed(b, rules).ravel()[None, :]


def _inner(rules: Rules, a: Any, b: Any) -> Followed:
    a, b = followed(a, rules), followed(b, rules)
    return _contracted((a, b), a.shape[-1], np.inner)


def erf(x: Any) -> Any:
    """The error function for references: NumPy has none.  Within ``2^-51`` of it, relatively."""
    return UFUNCS["erf"](x) if isinstance(x, Followed) else special.erf(x)


def _about(function: Callable[..., Any]) -> Callable[..., Any]:
    """What is known from the values' shape alone."""
    return lambda rules, x, *args: function(followed(x, rules).value, *args)


ARRAY_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.sum: _method("sum"), np.mean: _method("mean"), np.var: _method("var"),
    np.std: _method("std"), np.max: _method("max"), np.min: _method("min"),
    np.clip: _method("clip"), np.average: _average, np.cumsum: _cumsum,
    np.where: _where, np.dot: dot, np.einsum: einsum, np.inner: _inner, np.outer: _outer,
    np.linalg.norm: _norm,
    np.concatenate: _joined(np.concatenate), np.stack: _joined(np.stack),
    np.pad: _pad, np.full_like: _full_like, np.zeros_like: _filled(0.0),
    np.ones_like: _filled(1.0), np.empty_like: _filled(0.0),
    **{f: _moved(f) for f in (
        np.reshape, np.ravel, np.transpose, np.swapaxes, np.moveaxis, np.expand_dims, np.squeeze,
        np.broadcast_to, np.roll, np.flip, np.repeat, np.tile, np.take, np.take_along_axis,
        np.diagonal, np.tril, np.triu, np.rot90, np.split, np.array_split, np.copy,
        np.atleast_1d, np.atleast_2d)},
    np.shape: _about(np.shape), np.ndim: _about(np.ndim), np.size: _about(np.size),
}
if hasattr(np, "matrix_transpose"):
    ARRAY_FUNCTIONS[np.matrix_transpose] = _moved(np.matrix_transpose)
