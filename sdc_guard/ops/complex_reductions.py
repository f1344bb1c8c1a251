"""Reductions, scans and tests of complex numbers.

*Mean*: the parts of the sum, with the real op's bounds, and a complex quotient by the count.

*Products*: n factors multiplied in any order err by ``(1 + sqrt(2) gamma_2)^{n-1} - 1`` relative to
the modulus of the product (Higham 2002, lemma 3.5); over- and underflow as for real factors
(:mod:`sdc_guard.bounds.chains`), with two binades more for the terms of a product.

*Norms*: a norm is homogeneous and monotone in the moduli ``|z|``, whose relative error of
``gamma_4`` it passes on; the rest is the real op's bound for an operand ``|z|``.  Judged where no
``|z|^2`` leaves the range of normal numbers.

*Tests* are exact: a number is 0 if both parts are, NaN or infinite if either is; an operand is
first rounded to the common format, part by part.

*Variance* of complex numbers is the sum of those of the parts; each has the real op's bounds, and
the sum is one rounding more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds import chains, moments
from sdc_guard.bounds.casts import nearest
from sdc_guard.bounds.complex_numbers import QUOTIENT, relative
from sdc_guard.bounds.gamma import gamma, rounding
from sdc_guard.calls import BoundCall, form_of
from sdc_guard.formats import FLOAT64, Format, format_of, is_covered_complex, part_dtype
from sdc_guard.ops._complex import (
    by_parts,
    joined,
    of_parts,
    part_call,
    part_of,
    reference_by_parts,
)
from sdc_guard.ops._lines import dim_of
from sdc_guard.ops._pointwise import operand_dtype
from sdc_guard.ops._reductions import num_terms, reduced_dims
from sdc_guard.ops._registry import (
    HostCall,
    OpSpec,
    Reference,
    lookup,
    lookup_complex,
    register_derived,
)

aten = torch.ops.aten
Array = NDArray[Any]
Judge = Callable[[HostCall], tuple[Reference | None, ...]]


def _derived(judge: Callable[[OpSpec], Judge], *, known: bool = False) -> Any:
    """The complex spec of a real one: relations learned, the reference another."""

    def derive(spec: OpSpec) -> OpSpec:
        reference = judge(spec)
        found = by_parts(spec, known=known)
        return dataclasses.replace(found, reference=reference, invariant=None, proves=None,
                                   doc=(reference.__doc__ or "").strip())

    return derive


def _mean(spec: OpSpec) -> Judge:
    assert spec.reference is not None
    parts = reference_by_parts(spec.reference)

    def reference(call: HostCall) -> tuple[Reference | None, ...]:
        """The sum of the elements over their number."""
        (found,) = parts(call)
        if found is None or not is_covered_complex(call.held[0].dtype):
            return (None,)
        more = relative(QUOTIENT, call.out_format()) * np.abs(found.expected)
        assert found.proof is not None
        return (dataclasses.replace(found, parts=None, proof=found.proof + more,
                                    contract=found.contract + more),)

    return reference


def _product_limit(n: Any, value: Array, low: Array, high: Array, has_zero: Array,
                   fmt: Format) -> Array:
    """The limit for n complex factors; infinite where the order decides."""
    low, high = low - 2.0, high + 2.0
    steps = np.maximum(np.asarray(n, np.float64), 1.0)
    limits = []
    for f in (fmt, FLOAT64):
        step = relative(2, f)
        growth = np.where(steps * step < 0.5, np.expm1(steps * np.log1p(step)), np.inf)
        limits.append(growth * (1 + 2.0**-50) * np.abs(value))
    zero = chains.product_error(steps, value, low, high, has_zero, fmt)
    return np.asarray(np.where(zero == 0, 0.0, np.where(np.isfinite(zero), sum(limits), np.inf)))


def _moduli(x: Array) -> tuple[Array, Array]:
    return chains.binades(np.abs(x))


def _same_format(call: HostCall) -> bool:
    held = call.held[0].dtype
    return is_covered_complex(held) and part_dtype(call["self"].dtype) is part_dtype(held)


def _prod(spec: OpSpec) -> Judge:
    def reference(call: HostCall) -> tuple[Reference | None, ...]:
        """``|p - prod z| <= ((1 + sqrt(2) gamma_2)^n - 1) |prod z|`` in any order."""
        held, x = call.held[0], call.array("self").astype(np.complex128)
        if not _same_format(call):
            return (None,)
        axis = reduced_dims(call.call) if x.ndim else None
        shape, fmt = tuple(held.shape), call.out_format()
        with np.errstate(all="ignore"):
            value = np.asarray(np.prod(x, axis=axis)).reshape(shape)
            low, high = (np.asarray(b.sum(axis=axis)).reshape(shape) for b in _moduli(x))
            has_zero = np.asarray((x == 0).any(axis=axis)).reshape(shape)
            limit = _product_limit(num_terms(call.call), value, low, high, has_zero, fmt)
        largest = np.where(np.isfinite(limit), 0.0, np.inf)
        return (Reference(value, limit, limit, "((1 + sqrt(2) gamma_2)^n - 1) |prod z|", largest),)

    return reference


def _cumprod(spec: OpSpec) -> Judge:
    def reference(call: HostCall) -> tuple[Reference | None, ...]:
        """``((1 + sqrt(2) gamma_2)^k - 1) |p|`` for a prefix of k factors."""
        held, x = call.held[0], call.array("self").astype(np.complex128)
        if not _same_format(call) or not x.size:
            return (None,)
        x = x if x.ndim else x.reshape(1)
        dim, fmt, shape = dim_of(call.call), call.out_format(), tuple(held.shape)
        with np.errstate(all="ignore"):
            value = np.cumprod(x, axis=dim)
            low, high = (np.cumsum(b, axis=dim) for b in _moduli(x))
            has_zero = np.logical_or.accumulate(x == 0, axis=dim)
            counts = np.arange(1.0, x.shape[dim] + 1)
            counts = counts.reshape([-1 if d == dim else 1 for d in range(x.ndim)])
            limit = _product_limit(counts, value, low, high, has_zero, fmt)
        largest = np.where(np.isfinite(limit), 0.0, np.inf).reshape(shape)
        limit = np.broadcast_to(limit, x.shape).reshape(shape)
        return (Reference(value.reshape(shape), limit, limit,
                          "((1 + sqrt(2) gamma_2)^k - 1) |p| of the prefix", largest),)

    return reference


def _moduli_call(call: HostCall) -> HostCall | None:
    """The real call on ``|z|``, rounded to the format of the parts; None where a modulus is not
    finite, or 0 cannot be told from an underflow."""
    z = call.array("self")
    kind = part_dtype(call["self"].dtype)
    fmt = format_of(kind)
    size = np.abs(z)
    square = size * size
    safe = (size == 0) | ((square >= fmt.tiny / fmt.u) & (square <= fmt.max / 4))
    if not safe.all():
        return None
    rounded = size.astype(np.float32 if kind is torch.float32 else np.float64)
    args = tuple(part_dtype(a) if isinstance(a, torch.dtype) else a for a in call.call.args)
    real = BoundCall(call.call.form, args).replaced(self=torch.from_numpy(np.array(rounded)))
    return HostCall(real, call.held)


def _norm(spec: OpSpec) -> Judge:
    def reference(call: HostCall) -> tuple[Reference | None, ...]:
        """The norm of the moduli, and their own errors."""
        real = _moduli_call(call)
        if real is None or spec.reference is None or call.held[0].is_complex():
            return (None,)
        (found,) = spec.reference(real)
        if found is None or found.proof is None:
            return (None,)
        fmt = format_of(part_dtype(call["self"].dtype))
        n = call["self"].numel()
        # Our own rounding of each modulus is one more; a kernel that adds up squares has 2n terms.
        proof = (gamma(7, fmt.u) + gamma(2 * n + 4, fmt.u)) * np.abs(found.expected) + found.proof
        return (dataclasses.replace(found, proof=proof, contract=proof),)

    return reference


def _list_norm(spec: OpSpec) -> Judge:
    def reference(call: HostCall) -> tuple[Reference | None, ...]:
        """The norm of each list element."""
        single = lookup_complex("aten.linalg_vector_norm")
        assert single is not None
        assert single.reference is not None
        form = form_of(aten.linalg_vector_norm.default)
        found: list[Reference | None] = []
        for z, held in zip(call["self"], call.held, strict=True):
            part = BoundCall(form, form.bind((z, call["ord"]), {}))
            found.extend(single.reference(HostCall(part, (held,))))
        return tuple(found)

    return reference


def _truth(function: Callable[[Array], Array], spec: OpSpec) -> Judge:
    """A test of single numbers: the real op's reference on a real operand that answers alike."""

    def reference(call: HostCall) -> tuple[Reference | None, ...]:
        """A number is 0 if both parts are."""
        assert spec.reference is not None

        def answers(_: Any, t: Tensor) -> Tensor:
            if not t.is_complex():
                return t
            return torch.from_numpy(np.array(function(bits.values(t)).astype(np.float32)))

        return spec.reference(HostCall(call.call.mapped(answers), call.held))

    return reference


def _with_mapped_fact(spec: OpSpec) -> OpSpec:
    """An exact fact of which numbers are 0, on a real operand that is 0 where the complex is."""

    def mapped(call: BoundCall) -> BoundCall:
        return call.mapped(lambda _, t: torch.from_numpy(_nonzero(bits.values(t))))

    invariant, proves = spec.invariant, spec.proves
    assert invariant is not None
    return dataclasses.replace(
        by_parts(spec, known=True), reference=None,
        invariant=lambda call, held: invariant(mapped(call), held),
        proves=None if proves is None else lambda call, held: proves(mapped(call), held))


def _variance(root: bool, part: OpSpec) -> Judge:
    """``part`` is the spec of the variance whose reference serves for each part."""
    assert part.reference is not None
    reference_of_part = part.reference

    def reference(call: HostCall) -> tuple[Reference | None, ...]:
        """The variances of the parts, added; the mean by parts."""
        held = tuple(call.held)
        if held[0].is_complex():
            return tuple(None for _ in held)
        found = []
        for k in (0, 1):
            real = part_call(call.call, k)
            if real is None:
                return tuple(None for _ in held)
            found.append(reference_of_part(HostCall(real, tuple(part_of(t, k) for t in held))))
        first, second = found[0][0], found[1][0]
        if first is None or second is None or first.proof is None or second.proof is None:
            return tuple(None for _ in held)
        fmt, value = call.out_format(), first.expected + second.expected
        limits = []
        for off in (first.proof + second.proof, first.contract + second.contract):
            error = np.asarray(off + 2 * rounding(value + off, fmt))
            if root:
                error = moments.root_error(value, error)
                error = error + 3 * rounding(np.sqrt(value) + error, fmt)
            limits.append(error)
        results: list[Reference | None] = [Reference(
            np.sqrt(value) if root else value, limits[0], limits[1], first.formula,
            np.maximum(first.magnitude, second.magnitude))]
        for a, b in zip(found[0][1:], found[1][1:], strict=True):
            results.append(None if a is None or b is None else of_parts(a, b, apart=False))
        return tuple(results)

    return reference


def _register_variance(name: str, root: bool) -> None:
    def judge(spec: OpSpec) -> Judge:
        part = lookup(f"aten.{name.replace('std', 'var')}")
        assert part is not None
        return _variance(root, part)

    register_derived(f"aten.{name}", _derived(judge))


def _nonzero(z: Array) -> Array:
    return np.asarray(z != 0)


def _register_truth(packet: str, function: Callable[[Array], Array] = _nonzero) -> None:
    register_derived(packet, _derived(lambda spec: _truth(function, spec), known=True))


for _name in ("any", "all", "count_nonzero", "logical_and", "logical_or", "logical_xor",
              "logical_not"):
    _register_truth(f"aten.{_name}")
_register_truth("aten.isnan", lambda z: np.where(np.isnan(z), np.nan, 0.0))
_register_truth("aten.isinf", lambda z: np.where(np.isinf(z.real) | np.isinf(z.imag), np.inf, 0.0))


def _compared(equal: bool) -> Callable[[OpSpec], Judge]:
    def judge(spec: OpSpec) -> Judge:
        def reference(call: HostCall) -> tuple[Reference | None, ...]:
            """Equal if both parts are, after the conversion to the common dtype."""
            dtype = operand_dtype(call.call, "self", "other")
            if not is_covered_complex(dtype) or call.held[0].dtype is not torch.bool:
                return (None,)
            a, b = (_converted(call, n, format_of(dtype)) for n in ("self", "other"))
            same = (a == b) if equal else (a != b)
            return (Reference(np.asarray(same), 0.0, 0.0, "exact"),)

        return reference

    return judge


def _converted(call: HostCall, name: str, fmt: Format) -> Array:
    value = np.asarray(call.number(name))
    return joined(nearest(value.real, fmt), nearest(value.imag, fmt))


register_derived("aten.nonzero", _with_mapped_fact)
for _name in ("var", "std", "var_mean", "std_mean"):
    _register_variance(_name, root=_name.startswith("std"))
register_derived("aten.eq", _derived(_compared(equal=True), known=True))
register_derived("aten.ne", _derived(_compared(equal=False), known=True))
register_derived("aten.mean", _derived(_mean))
register_derived("aten.prod", _derived(_prod))
register_derived("aten.cumprod", _derived(_cumprod))
register_derived("aten.linalg_vector_norm", _derived(_norm))
register_derived("aten.norm", _derived(_norm))
register_derived("aten._foreach_norm", _derived(_list_norm))
