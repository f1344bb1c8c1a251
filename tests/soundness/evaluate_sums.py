"""Sums, means, moments, norms, products of many factors and scans, in other orders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.casts import nearest
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT64, accumulator_of, format_of, is_covered_float
from sdc_guard.ops._lines import dim_of
from sdc_guard.ops._reductions import reduced_dims
from tests.soundness.evaluators import Emulation, evaluates
from tests.soundness.orders import SHALLOW, dot, drawn_order, summed, working

Array = NDArray[Any]
Held = tuple[Tensor, ...]
Rng = np.random.Generator
MOST_TERMS = 40_000
"""Larger operands are left to the kernel."""


def same_format(call: BoundCall, held: Tensor) -> bool:
    """A real floating call whose operand and result have one format, small enough to emulate."""
    x = call["self"]
    return is_covered_float(held.dtype) and x.dtype is held.dtype and 0 < x.numel() <= MOST_TERMS


def terms_of(call: BoundCall, held: Tensor) -> Array:
    """``[..., n]``: the elements of each sum, in the accumulator's format."""
    x = bits.values(call["self"])
    dims = reduced_dims(call)
    x = np.moveaxis(x, dims, range(-len(dims), 0)) if dims else x.reshape(*x.shape, 1)
    x = x.reshape(*x.shape[: x.ndim - len(dims)], -1) if dims else x
    return x.astype(working(accumulator_of(held.dtype)))


def stored(values: Array, held: Tensor) -> Array:
    """The values of a result, rounded once to its format, in its shape."""
    return nearest(values, format_of(held.dtype)).reshape(tuple(held.shape))


@evaluates("sum", "nansum", "trace")
def sums(call: BoundCall, held: Held, rng: Rng) -> Iterator[Emulation]:
    """Any order in the accumulator's format."""
    x = call["self"]
    if not is_covered_float(held[0].dtype) or x.dtype is not held[0].dtype:
        return
    if call.form.packet == "aten.trace":
        terms = np.diagonal(bits.values(x)).astype(working(accumulator_of(x.dtype)))[None]
    elif same_format(call, held[0]):
        terms = terms_of(call, held[0])
    else:
        return
    if call.form.packet == "aten.nansum":
        terms = np.where(np.isnan(terms), terms.dtype.type(0), terms)
    order = drawn_order(rng, terms.shape[-1])
    for name in (order, "pairwise"):
        shallow = name in SHALLOW and call.form.packet != "aten.trace"
        yield Emulation(name, 0, stored(summed(terms, name, rng), held[0]), shallow)


@evaluates("mean")
def means(call: BoundCall, held: Held, rng: Rng) -> Iterator[Emulation]:
    """A sum, and a division or a product with the reciprocal."""
    if not same_format(call, held[0]):
        return
    terms = terms_of(call, held[0])
    order = drawn_order(rng, terms.shape[-1])
    n = terms.dtype.type(terms.shape[-1])
    for name in (order, "pairwise"):
        total = summed(terms, name, rng)
        mean = total / n if rng.random() < 0.5 else total * (1 / n)
        yield Emulation(name, 0, stored(mean, held[0]), name in SHALLOW)


def welford(x: Array) -> tuple[Array, Array]:
    """Mean and sum of squared deviations of the last axis, updated element by element."""
    mean, squares = x[..., 0].copy(), np.zeros_like(x[..., 0])
    for k in range(1, x.shape[-1]):
        delta = x[..., k] - mean
        mean = mean + delta / x.dtype.type(k + 1)
        squares = squares + delta * (x[..., k] - mean)
    return mean, squares


def merged(x: Array) -> tuple[Array, Array]:
    """The same by merging halves (Chan, Golub and LeVeque)."""
    n = x.shape[-1]
    if n == 1:
        return x[..., 0].copy(), np.zeros_like(x[..., 0])
    (a, s), (b, t) = merged(x[..., : n // 2]), merged(x[..., n // 2 :])
    delta, of = b - a, x.dtype.type
    mean = a + delta * (of(n - n // 2) / of(n))
    return mean, s + t + delta * delta * (of(n // 2) * of(n - n // 2) / of(n))


def two_passes(x: Array, order: str, rng: Rng) -> tuple[Array, Array]:
    """The mean by a sum, then the sum of squared deviations from it."""
    mean = summed(x, order, rng) / x.dtype.type(x.shape[-1])
    deviation = x - mean[..., None]
    return mean, summed(deviation * deviation, order, rng)


def drawn_moments(x: Array, rng: Rng) -> tuple[str, Array, Array]:
    """Name, mean and sum of squares of one of the algorithms."""
    n = x.shape[-1]
    choice = int(rng.integers(3))
    if choice == 0 and n <= 300:
        return ("welford", *welford(x))
    if choice == 1:
        return ("merged halves", *merged(x))
    order = drawn_order(rng, n)
    return (f"two passes, {order}", *two_passes(x, order, rng))


@evaluates("var", "std", "var_mean", "std_mean")
def deviations(call: BoundCall, held: Held, rng: Rng) -> Iterator[Emulation]:
    """The proof takes the accumulator's format; the contract of a CPU's kernel takes fp64."""
    if not same_format(call, held[0]):
        return
    x = terms_of(call, held[0])
    n = x.shape[-1]
    unbiased, correction = call.get("unbiased"), call.get("correction")
    if unbiased is not None:
        correction = 1 if unbiased else 0
    divisor = n - (1 if correction is None else correction)
    if divisor <= 0:
        return
    for wide in (False, True):
        data = x.astype(np.float64) if wide else x
        if wide and (data.dtype == x.dtype or held[0].numel() == 1):
            continue
        name, mean, squares = drawn_moments(data, rng)
        value = squares / data.dtype.type(divisor)
        if call.form.packet.startswith("aten.std"):
            value = np.sqrt(value)
        name += " in fp64" if wide else ""
        yield Emulation(name, 0, stored(value, held[0]), wide)
        if len(held) > 1:
            yield Emulation(name, 1, stored(mean, held[1]), wide)


@evaluates("linalg_vector_norm", "norm", "dist")
def norms(call: BoundCall, held: Held, rng: Rng) -> Iterator[Emulation]:
    """Sums of sizes or of squares; fused squares."""
    order_of_norm = float(call.get("ord", call.get("p", 2)) or 0)
    if not is_covered_float(held[0].dtype) or order_of_norm not in (1.0, 2.0):
        return
    if call.form.packet == "aten.dist":
        acc = working(accumulator_of(held[0].dtype))
        if call["self"].dtype is not held[0].dtype or call["other"].dtype is not held[0].dtype:
            return
        x, y = np.broadcast_arrays(bits.values(call["self"]), bits.values(call["other"]))
        terms = nearest(x - y, format_of(held[0].dtype)).astype(acc).reshape(1, -1)
    elif same_format(call, held[0]):
        terms = terms_of(call, held[0])
    else:
        return
    if terms.size > MOST_TERMS or not terms.shape[-1]:
        return
    order = drawn_order(rng, terms.shape[-1])
    if order_of_norm == 1.0:
        value = summed(np.abs(terms), order, rng)
    else:
        order = "fused" if rng.random() < 0.3 and terms.shape[-1] <= 300 else order
        value = np.sqrt(dot(terms, terms, order, rng))
    yield Emulation(order, 0, stored(value, held[0]), False)


@evaluates("prod")
def products(call: BoundCall, held: Held, rng: Rng) -> Iterator[Emulation]:
    """Factors in a random order, and in a tree."""
    if not same_format(call, held[0]):
        return
    x = terms_of(call, held[0])
    x = x[..., rng.permutation(x.shape[-1])]
    yield Emulation("permuted", 0, stored(np.multiply.accumulate(x, axis=-1)[..., -1], held[0]),
                    False)
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        x = np.concatenate([x[..., :half] * x[..., half : 2 * half], x[..., 2 * half :]], axis=-1)
    yield Emulation("pairwise", 0, stored(x[..., 0], held[0]), False)


@evaluates("cumsum", "cumprod")
def scans(call: BoundCall, held: Held, rng: Rng) -> Iterator[Emulation]:
    """One element after the other, and recursive doubling (Hillis and Steele): in the result's
    format (rounded at every step) for the proof, in fp64 for the contract."""
    if not same_format(call, held[0]):
        return
    fmt, acc = format_of(held[0].dtype), accumulator_of(held[0].dtype)
    dim, rank = dim_of(call), call["self"].dim()
    x = bits.values(call["self"]).reshape(tuple(call["self"].shape) or (1,))
    x = np.moveaxis(x, dim, -1)
    add = np.add if call.form.packet == "aten.cumsum" else np.multiply

    def back(values: Array) -> Array:
        return np.moveaxis(values, -1, dim).reshape(tuple(held[0].shape) if rank else ())

    if fmt.precision >= 24:
        wide = add.accumulate(x.astype(np.float64), axis=-1)
        yield Emulation("sequential in fp64", 0, back(nearest(wide, fmt)), True)
    doubled = x.astype(working(acc))
    step = 1
    while step < doubled.shape[-1]:
        joined = add(doubled[..., step:], doubled[..., :-step])
        doubled = np.concatenate([doubled[..., :step], joined], axis=-1)
        if fmt is not FLOAT64:
            doubled = nearest(doubled, fmt).astype(doubled.dtype)
        step *= 2
    yield Emulation("recursive doubling", 0, back(doubled), False)
    narrow = x.astype(working(acc))
    for k in range(1, narrow.shape[-1]):
        narrow[..., k] = nearest(add(narrow[..., k - 1], narrow[..., k]), fmt)
    yield Emulation("sequential in the storage format", 0, back(narrow), False)
