"""Complex calls of ops that treat the real and the imaginary part each by itself.

Such a call is two real calls on views of the parts: reference, bounds and exact facts of the real
spec hold for either, with nothing added.  A real operand beside complex ones has the imaginary part
0.  Relations are those of the real spec, promised only where they were seen to hold for complex
numbers as well.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall, form_of
from sdc_guard.formats import is_covered_complex, part_dtype
from sdc_guard.ops._registry import (
    HostCall,
    InvariantFn,
    OpSpec,
    ProvesFn,
    Reference,
    ReferenceFn,
    SamplesFn,
)
from sdc_guard.ops._samples import SampleList
from sdc_guard.ops._symmetry import Symmetry, negate

Held = tuple[Tensor, ...]

VALUES = frozenset({
    "self", "other", "tensors", "input", "src", "source", "value", "values", "fill_value", "s",
    "grad", "grad_output", "grad_in",
})
"""Operands that are numbers, not places, masks or factors."""


HEADROOM = 4.0
"""Between intermediates of single parts and those of complex numbers."""


def is_complex_call(call: BoundCall, held: Held) -> bool:
    """True if a result or an operand is complex."""
    return any(t.is_complex() for t in held if t is not None) or any(
        t.is_complex() for _, t in call.tensors())


def part_of(tensor: Tensor, part: int) -> Tensor:
    """A view of the real (0) or the imaginary (1) part; any other tensor itself."""
    return torch.view_as_real(tensor).select(-1, part) if tensor.is_complex() else tensor


def _zeros(tensor: Tensor) -> Tensor:
    kind = np.float64 if tensor.dtype is torch.float64 else np.float32
    return torch.from_numpy(np.zeros(tuple(tensor.shape), kind))


def part_call(call: BoundCall, part: int) -> BoundCall | None:
    """The call on the parts of its operands, to be read and never made; None where a complex number
    is a factor, which mixes the parts."""
    names = call.form.argument_names
    if call.get("reduce") in ("multiply", "prod"):
        return None
    args: list[Any] = []
    for name, value in zip(names, call.args, strict=True):
        is_value = name in VALUES

        def taken(item: Any, is_value: bool = is_value) -> Any:
            if isinstance(item, Tensor):
                if item.is_complex():
                    return part_of(item, part)
                return _zeros(item) if part and is_value else item
            return part_dtype(item) if isinstance(item, torch.dtype) else item

        if isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value):
            args.append([taken(v) for v in value])
        elif isinstance(value, complex):
            if not is_value:
                return None
            args.append(value.imag if part else value.real)
        elif part and is_value and isinstance(value, (int, float)):
            args.append(0.0)
        else:
            args.append(taken(value))
    return BoundCall(call.form, tuple(args))


def _parts(
    call: BoundCall, held: Held, split: Callable[[BoundCall, int], BoundCall | None] = part_call
) -> list[tuple[BoundCall, Held]]:
    """The real and the imaginary call with their results; the real one alone where no result is
    complex, none where the parts mix (a number is true if either part is not 0)."""
    if any(t is not None and t.dtype is torch.bool for t in held):
        return []
    num = 2 if any(t is not None and t.is_complex() for t in held) else 1
    found: list[tuple[BoundCall, Held]] = []
    for k in range(num):
        part = split(call, k)
        if part is None:
            return []
        results = tuple(None if t is None else part_of(t, k) for t in held)
        found.append((part, results))
    return found


def joined(real: NDArray[Any], imag: NDArray[Any]) -> NDArray[np.complex128]:
    """Complex numbers of these parts, infinities and NaNs kept where they are."""
    real, imag = np.broadcast_arrays(real, imag)
    both = np.empty(real.shape, dtype=np.complex128)
    both.real, both.imag = real, imag
    return both


def _modulus(real: NDArray[Any] | float, imag: NDArray[Any] | float) -> NDArray[Any]:
    return np.asarray(np.hypot(real, imag) * (1 + 2.0**-50))


def of_parts(real: Reference, imag: Reference, *, apart: bool = True) -> Reference:
    """The reference of a complex result whose parts have these.  Not ``apart``: where one of them
    is not finite or may overflow, neither is judged, because a factor with imaginary part 0 carries
    it over (MKL multiplies by an ``alpha`` of 1)."""
    if not apart:
        sizes = [np.abs(x) for r in (real, imag) for x in (r.expected, r.magnitude)]
        largest = np.maximum.reduce(np.broadcast_arrays(*sizes))
        largest = np.where(np.isfinite(largest), HEADROOM * largest, np.inf)
        real, imag = (dataclasses.replace(r, magnitude=largest) for r in (real, imag))
    proof = None if real.proof is None or imag.proof is None else _modulus(real.proof, imag.proof)
    return Reference(
        joined(real.expected, imag.expected), proof, _modulus(real.contract, imag.contract),
        f"{real.formula}; either part", np.maximum(real.magnitude, imag.magnitude), (real, imag))


Split = Callable[[BoundCall, int], BoundCall | None]
"""The real call that gives the real (0) or the imaginary (1) part of the results."""


def reference_by_parts(
    reference: ReferenceFn, split: Split = part_call, *, apart: bool = True
) -> ReferenceFn:
    """The reference of a real op applied to either part."""

    def judged(call: HostCall) -> tuple[Reference | None, ...]:
        held = tuple(call.held)
        found = [reference(HostCall(c, h)) for c, h in _parts(call.call, held, split)]
        if not found:
            return tuple(None for _ in held)
        results: list[Reference | None] = []
        for i, tensor in enumerate(held):
            each = [f[i] for f in found]
            if tensor is None or not tensor.is_complex() or None in each:
                results.append(each[0] if tensor is not None and not tensor.is_complex() else None)
            else:
                results.append(of_parts(*each, apart=apart))  # type: ignore[arg-type]
        return tuple(results)

    judged.__doc__ = reference.__doc__
    judged.__module__ = reference.__module__
    return judged


def _invariant_by_parts(invariant: InvariantFn) -> InvariantFn:
    def broken(call: BoundCall, held: Held) -> tuple[int, NDArray[np.bool_], str] | None:
        for part, results in _parts(call, held):
            found = invariant(part, results)
            if found is not None:
                return found
        return None

    return broken


def _proves_by_parts(proves: ProvesFn) -> ProvesFn:
    def proven(call: BoundCall, held: Held) -> bool:
        parts = _parts(call, held)
        return bool(parts) and all(proves(c, h) for c, h in parts)

    return proven


def by_parts(
    spec: OpSpec, *, known: bool, odd: tuple[str, ...] = (), split: Split = part_call
) -> OpSpec:
    """The spec of the complex calls of an op that treats the parts by themselves.

    ``known``: its relations were seen to keep every bit of complex numbers, and no part that is not
    finite gets into the other.  ``odd``: operands whose negation negates the result.  ``split``
    makes the two real calls.
    """

    def symmetries(call: BoundCall, held: Held) -> tuple[Symmetry, ...]:
        declared = spec.symmetries(call, held) if callable(spec.symmetries) else spec.symmetries
        found = tuple(dataclasses.replace(s, known=s.known and known) for s in declared)
        if odd and all(isinstance(call.get(n), Tensor) and call[n].is_complex() for n in odd):
            found += (negate(*odd),)
        return found

    return dataclasses.replace(
        spec,
        symmetries=symmetries,
        reference=None if spec.reference is None else reference_by_parts(
            spec.reference, split, apart=known),
        invariant=None if spec.invariant is None else _invariant_by_parts(spec.invariant),
        proves=None if spec.proves is None else _proves_by_parts(spec.proves),
        checksum=None,
        samples=None if spec.samples is None else complexified(spec.samples),
        takes_complex=True,
    )


def complexified(samples: SamplesFn) -> SamplesFn:
    """The real calls of a sample with complex numbers in their floating operands, in the same
    layouts; those that torch takes."""

    def drawn(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if not is_covered_complex(dtype):
            return []
        real = part_dtype(dtype)
        calls = []
        for op, args, kwargs in samples(generator, real):
            form = form_of(op)
            call = _complexified(BoundCall(form, form.bind(args, kwargs)), dtype)
            with contextlib.suppress(RuntimeError):
                if is_complex_call(call, call.run_identical()):
                    calls.append((op, *_unbound(call)))
        return calls

    return drawn


def _complexified(call: BoundCall, dtype: torch.dtype) -> BoundCall:
    real = part_dtype(dtype)

    def changed(_: Any, t: Tensor) -> Tensor:
        return with_imaginary(t) if t.dtype is real else t

    args = tuple(dtype if a is real else a for a in call.mapped(changed).args)
    return BoundCall(call.form, args)


def with_imaginary(tensor: Tensor) -> Tensor:
    """A complex tensor of the same layout with this real part; the imaginary part is made of the
    same numbers in another order."""
    numbers = tensor.as_strided((bits.span(tensor),), (1,), tensor.storage_offset())
    both = torch.complex(numbers.clone(), 0.75 * numbers.roll(1))
    return both.as_strided(tuple(tensor.shape), tensor.stride(), 0)


def _unbound(call: BoundCall) -> tuple[tuple[Any, ...], dict[str, Any]]:
    n = call.form.num_positional
    return call.args[:n], dict(zip(call.form.argument_names[n:], call.args[n:], strict=True))
