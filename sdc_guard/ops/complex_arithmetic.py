"""Complex arithmetic, elementwise; bounds and derivations in
:mod:`sdc_guard.bounds.complex_numbers`.

The limits hold for any evaluation, so they are proofs.  Nothing is judged where an operand or a
part of the result is not finite: what infinities give depends on how a product is evaluated.

Place: a split, a rolled line and negation were seen to keep every bit of ``add`` and ``sub``
without a factor.  The vector body and the scalar code of a product or a quotient contract
operations differently, and which of them runs depends on the layout of the result too, so there
every relation is learned at its site and gives no verdict by itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard.bounds.casts import nearest
from sdc_guard.bounds.complex_numbers import (
    modulus_error,
    product_error,
    quotient_error,
    relative,
)
from sdc_guard.bounds.gamma import own_rounding
from sdc_guard.calls import BoundCall
from sdc_guard.formats import Format, is_covered_complex, is_covered_float, part_dtype
from sdc_guard.ops._axes import broadcast_axes
from sdc_guard.ops._complex import joined, of_parts
from sdc_guard.ops._places import pointwise_symmetries
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import LAYOUTS, SampleList, draw_values, pointwise_samples
from sdc_guard.ops._symmetry import OUTERMOST, Symmetry, negate

aten = torch.ops.aten
Array = NDArray[Any]
COMPLEX = (torch.complex64, torch.complex128)
Evaluated = tuple[Array, Array, Array]
"""The expected values, the limit on the error, and the largest intermediate."""


def operand(call: HostCall, name: str, default: complex = 1.0) -> Array:
    """An operand as complex numbers of the kernel's format, to which a scalar and an integer are
    rounded, part by part, as ATen converts them."""
    value = np.asarray(call.number(name, default))  # type: ignore[arg-type]
    fmt = call.out_format()
    if value.dtype.kind == "c":
        given = call.get(name)
        if isinstance(given, Tensor) and given.dim():
            return value
        return joined(nearest(value.real, fmt), nearest(value.imag, fmt))
    return np.asarray(nearest(value, fmt).astype(np.complex128))


def is_plain(call: HostCall) -> bool:
    """True if the op computes in the format of its result: an ``out=`` of another format does not
    say in which it does."""
    held, form = call.held[0].dtype, call.call.form
    if not (is_covered_complex(held) or is_covered_float(held)) or held.itemsize < 4:
        return False
    return not form.is_out or all(
        part_dtype(t.dtype) is part_dtype(held) for _, t in call.call.tensors())


def finite(*operands: Array) -> Array:
    """Where all of them are."""
    return np.asarray(np.logical_and.reduce(
        np.broadcast_arrays(*(np.isfinite(x) for x in operands))))


def _reference(evaluate: Callable[[HostCall, Format], Evaluated], formula: str) -> Any:
    def reference(call: HostCall) -> tuple[Reference | None, ...]:
        if not is_plain(call):
            return (None,)
        with np.errstate(all="ignore"):
            expected, limit, largest = evaluate(call, call.out_format())
        return (Reference(expected, limit, limit, formula, largest),)

    reference.__doc__ = evaluate.__doc__
    reference.__module__ = evaluate.__module__
    return reference


def complex_symmetries(
    call: BoundCall, held: tuple[Tensor, ...], odd: tuple[str, ...], tail_sensitive: bool
) -> tuple[Symmetry, ...]:
    """Those of every elementwise op, and negation of the ``odd`` operands; of ops that have a
    vector body and scalar code none is known to hold."""
    found = pointwise_symmetries(call, held, tail_sensitive=tail_sensitive)
    operands = [call.get(n) for n in odd]
    if odd and all(isinstance(t, Tensor) and t.is_complex() for t in operands):
        found = (*found, negate(*odd))
    if tail_sensitive:
        return tuple(dataclasses.replace(s, known=False) for s in found)
    return found


def _is_scaled(call: BoundCall) -> bool:
    return bool(call.get("alpha", 1) != 1)


def arithmetic(
    *targets: Any, formula: str, odd: tuple[str, ...] = (),
    tail_sensitive: Callable[[BoundCall], bool] = lambda call: True,
    only_complex: bool = True, **shape_of_samples: Any,
) -> Callable[[Callable[[HostCall, Format], Evaluated]], Callable[[HostCall, Format], Evaluated]]:
    """Register the complex calls of elementwise ops."""

    def decorate(
        evaluate: Callable[[HostCall, Format], Evaluated],
    ) -> Callable[[HostCall, Format], Evaluated]:
        for target in targets:
            samples = shape_of_samples.get("samples") or pointwise_samples(
                target, dtypes=COMPLEX, **shape_of_samples)
            checked(
                target, family="pointwise", axes=broadcast_axes,
                symmetries=lambda call, held: complex_symmetries(
                    call, held, odd, tail_sensitive(call)),
                window=(OUTERMOST,), only_complex=only_complex, samples=samples,
            )(_reference(evaluate, formula))
        return evaluate

    return decorate


def _largest(*terms: Array) -> Array:
    """The largest modulus; infinite where one is not finite."""
    sizes = np.maximum.reduce(np.broadcast_arrays(*(np.abs(t) for t in terms)))
    return np.where(finite(*terms), sizes, np.inf)


def _sum(call: HostCall, fmt: Format, a: Array, b: Array) -> Evaluated:
    """``a + alpha b``: a rounding of the sum, and the error of a product where there is one.  ATen
    multiplies by an alpha of 1, too, which is exact."""
    alpha = operand(call, "alpha", 1.0)
    term = b if alpha == 1 else alpha * b
    total = a + term
    limit = fmt.u * np.abs(total) + own_rounding(2, np.abs(total))
    if alpha != 1:
        limit = (1 + fmt.u) * product_error(np.abs(alpha) * np.abs(b), fmt) + limit
    return total, limit, _largest(a, term, total)


@arithmetic(aten.add, formula="u |a + b|, sqrt(2) gamma_2 |alpha b|", odd=("self", "other"),
            tail_sensitive=_is_scaled)
def add(call: HostCall, fmt: Format) -> Evaluated:
    """``a + alpha b``."""
    return _sum(call, fmt, operand(call, "self"), operand(call, "other"))


@arithmetic(aten.sub, formula="u |a - b|, sqrt(2) gamma_2 |alpha b|", odd=("self", "other"),
            tail_sensitive=_is_scaled)
def sub(call: HostCall, fmt: Format) -> Evaluated:
    """``a - alpha b``."""
    return _sum(call, fmt, operand(call, "self"), -operand(call, "other"))


@arithmetic(aten.rsub, formula="u |b - a|, sqrt(2) gamma_2 |alpha a|", odd=("self", "other"))
def rsub(call: HostCall, fmt: Format) -> Evaluated:
    """``b - alpha a``."""
    return _sum(call, fmt, operand(call, "other"), -operand(call, "self"))


def product(a: Array, b: Array, fmt: Format) -> Evaluated:
    """``a b`` with its limit."""
    size = np.abs(a) * np.abs(b)
    return a * b, product_error(size, fmt), np.where(finite(a, b), size, np.inf)


def quotient(a: Array, b: Array, fmt: Format) -> Evaluated:
    """``a / b`` with its limit."""
    ratio = np.abs(a) / np.abs(b)
    return a / b, quotient_error(np.abs(a), np.abs(b), fmt), np.where(finite(a, b), ratio, np.inf)


@arithmetic(aten.mul, formula="sqrt(2) gamma_2 |a b|", odd=("self",))
def mul(call: HostCall, fmt: Format) -> Evaluated:
    """``a b``."""
    return product(operand(call, "self"), operand(call, "other"), fmt)


@arithmetic(aten.div, formula="sqrt(2) gamma_12 |a / b|", odd=("self",))
def div(call: HostCall, fmt: Format) -> Evaluated:
    """``a / b``."""
    return quotient(operand(call, "self"), operand(call, "other"), fmt)


@arithmetic(aten.reciprocal, formula="sqrt(2) gamma_12 / |a|", odd=("self",))
def reciprocal(call: HostCall, fmt: Format) -> Evaluated:
    """``1 / a``."""
    return quotient(np.asarray(1.0 + 0j), operand(call, "self"), fmt)


@arithmetic(aten.addcmul, formula="u |result| + sqrt(2) gamma_6 |v b c|", odd=("self", "tensor1"))
def addcmul(call: HostCall, fmt: Format) -> Evaluated:
    """``a + v b c``: two products and a sum."""
    a, b, c, v = (operand(call, n) for n in ("self", "tensor1", "tensor2", "value"))
    size = np.abs(v) * np.abs(b) * np.abs(c)
    total = a + v * b * c
    lost = 8 * fmt.eta * (1 + np.abs(v) + np.abs(b) + np.abs(c))
    limit = fmt.u * np.abs(total) + relative(6, fmt) * size + lost + own_rounding(2, np.abs(total))
    return total, limit, _largest(a, v, b, c, b * c, v * b, v * c, size, total)


@arithmetic(aten.addcdiv, formula="u |result| + sqrt(2) gamma_16 |v b / c|",
            odd=("self", "tensor1"))
def addcdiv(call: HostCall, fmt: Format) -> Evaluated:
    """``a + v b / c``: a quotient, a product and a sum."""
    a, b, c, v = (operand(call, n) for n in ("self", "tensor1", "tensor2", "value"))
    size = np.abs(v) * np.abs(b) / np.abs(c)
    total = a + v * b / c
    inner = quotient_error(np.maximum(np.abs(v), 1) * np.abs(b), np.abs(c), fmt)
    limit = fmt.u * np.abs(total) + 2 * relative(16, fmt) * size + own_rounding(2, np.abs(total))
    limit = np.where(np.isfinite(inner), limit + inner * (1 + np.abs(v)), np.inf)
    return total, limit, _largest(a, v, b, v * b, b / c, size, total)


@arithmetic(aten.lerp, formula="u |result| + sqrt(2) gamma_5 max(|w|, |1 - w|) |b - a|",
            odd=("self", "end"))
def lerp(call: HostCall, fmt: Format) -> Evaluated:
    """``a + w (b - a)``, or ``b - (1 - w)(b - a)`` where ``|w| >= 1/2``: two differences, a product
    and a sum."""
    a, b, w = (operand(call, n) for n in ("self", "end", "weight"))
    size = np.maximum(np.abs(w), np.abs(1 - w)) * np.abs(b - a)
    total = a + w * (b - a)
    limit = fmt.u * np.abs(total) + relative(5, fmt) * size + 8 * fmt.eta
    return total, limit + own_rounding(2, np.abs(total)), _largest(a, b, w, b - a, size, total)


@arithmetic(aten.abs, formula="gamma_4 |z|", in_place=False)
def abs_(call: HostCall, fmt: Format) -> Evaluated:
    """``|z|``."""
    z = call.array("self")
    size = np.abs(z)
    return size, modulus_error(size, fmt), np.where(finite(z), size, np.inf)


def _conjugate_samples(op: Any) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in COMPLEX:
            return []
        draw = draw_values(generator, dtype, "mixed")
        return [(op.default, (layout(draw),), {}) for layout in LAYOUTS]

    return samples


for _op in (aten.conj_physical, aten._conj_physical):
    def _conjugate(call: HostCall) -> tuple[Reference | None, ...]:
        """The conjugate, exactly."""
        z = call.array("self")
        real, imag = (Reference(x, 0.0, 0.0, "exact") for x in (z.real, -z.imag))
        return (of_parts(real, imag),)

    checked(_op, family="pointwise", axes=broadcast_axes, window=(OUTERMOST,), only_complex=True,
            symmetries=lambda call, held: complex_symmetries(call, held, ("self",), False),
            samples=_conjugate_samples(_op))(_conjugate)
