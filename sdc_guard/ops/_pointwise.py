"""What all elementwise ops share: formats, symmetries, and the step from a formula to a reference.

Place: see :mod:`sdc_guard.ops._places`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.casts import nearest
from sdc_guard.bounds.gamma import own_rounding, rounding
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT32, Format, format_of, is_covered_float
from sdc_guard.ops._axes import broadcast_axes
from sdc_guard.ops._places import pointwise_symmetries
from sdc_guard.ops._registry import HostCall, Reference, SamplesFn, checked, packet_name
from sdc_guard.ops._samples import FLOATS, pointwise_samples
from sdc_guard.ops._symmetry import OUTERMOST, Symmetry

Array = NDArray[Any]

CHUNK = 32768
"""Elements of a reference that are evaluated at once."""

@dataclass(frozen=True, slots=True)
class Computed:
    """A float64 value and how far a kernel may be off before its result is stored.

    ``contract`` and ``proof`` are absolute, in the format that the kernel computes in;
    ``magnitude`` is the largest intermediate.
    """

    expected: Array
    contract: Array
    proof: Array
    magnitude: Array


Formula = Callable[[HostCall], tuple[Array, Array, int]]
"""Returns the expected values, the largest intermediate, and the number of roundings."""

FORMULAS: dict[str, Formula] = {}
"""Formula by packet, for the list forms (``_foreach_add`` is ``add`` of each element)."""


def compute_format(out: Format) -> Format:
    """ATen's elementwise kernels compute half formats in fp32 (``opmath_type``)."""
    return FLOAT32 if out.precision < FLOAT32.precision else out


def operand_dtype(call: BoundCall, *names: str) -> torch.dtype:
    """The dtype to which ATen converts the named operands before it computes."""
    values = [v for n in names if (v := call.get(n)) is not None]
    tensors = [v for v in values if isinstance(v, Tensor)]
    if not tensors:
        return torch.get_default_dtype()
    dtype = tensors[0].dtype if len(values) == 1 else torch.result_type(values[0], values[1])
    for value in values[2:]:
        dtype = torch.promote_types(dtype, torch.result_type(tensors[0], value))
    return dtype


def operand(call: HostCall, name: str, default: float = 1.0) -> Array:
    """An operand's values; integer tensors rounded to the floating result's format first, as ATen
    converts them."""
    value = call.get(name)
    values = call.number(name, default)
    if isinstance(value, Tensor) and not value.is_floating_point():
        dtype = call.held[0].dtype
        if is_covered_float(dtype):
            return nearest(values, call.out_format())
    return values


def is_ambiguous(call: HostCall) -> bool:
    """True where a half result meets an integer tensor without dimensions that its format does not
    hold: some kernels convert it to the half format first, some compute with it in fp32."""
    dtype = call.held[0].dtype
    if not dtype.is_floating_point or dtype.itemsize > 2:
        return False
    return any(
        not t.dim() and not t.is_floating_point()
        and (nearest(bits.values(t), call.out_format()) != bits.values(t)).any()
        for _, t in call.call.tensors()
    )


OPERANDS = frozenset({"self", "other", "end", "exponent", "min", "max"})
"""Arguments in whose place a number is an operand like any other."""


def readings(call: HostCall) -> list[HostCall]:
    """The call as each kernel may read it.  Where the result is of a half format, an operand
    without dimensions of a wider one, or a number in its place, is rounded to the half format by
    some kernels and used as it is by others: ``mul_.Scalar`` and ``mul.Tensor`` with the single
    value first round it, ``mul.Scalar`` and ``_foreach_mul`` do not (seen in torch 2.13,
    ``mul_kernel`` in ``BinaryOpsKernel.cpp``); ``addcmul`` rounds a ``tensor2`` of this kind."""
    held = call.held[0]
    if held.element_size() != 2 or not is_covered_float(held.dtype):
        return [call]
    own = call.out_format()
    rounded: dict[str, Tensor] = {}
    for name, value in zip(call.call.form.argument_names, call.call.args, strict=True):
        if isinstance(value, Tensor):
            if value.dim() or value.dtype is held.dtype or not is_covered_float(value.dtype):
                continue
        elif not isinstance(value, float) or name not in OPERANDS:
            continue
        wide = call.number(name)
        near = nearest(wide, own)
        if near != wide:
            rounded[name] = torch.from_numpy(np.array(near))
    chosen = [c for n in range(len(rounded) + 1) for c in combinations(rounded, n)]
    return [HostCall(call.call.replaced(**{n: rounded[n] for n in names}), call.held)
            if names else call for names in chosen]


def _apart(first: Array, others: list[Array]) -> Array:
    """How far the readings of a call are apart."""
    distances = np.broadcast_arrays(0.0, *(np.abs(o - first) for o in others))
    return np.asarray(np.maximum.reduce(distances))


def converted(call: HostCall, name: str, dtype: torch.dtype) -> Array:
    """An operand's values after ATen's conversion to ``dtype``, exactly."""
    value = call.number(name)
    if dtype.is_floating_point:
        return nearest(value, format_of(dtype))
    return value


def _common_format(call: BoundCall) -> Format | None:
    """The format of the promoted operands of an ``out=`` form; None where none is floating."""
    written = set(call.form.overwrites)
    read = [t for path, t in call.tensors() if path[0] not in written and is_covered_float(t.dtype)]
    floats = [format_of(t.dtype) for t in [t for t in read if t.dim()] or read]
    return max(floats, key=lambda f: f.precision, default=None)


def kernel_format(call: BoundCall, held: Tensor) -> Format:
    """The format a kernel computes in: that of the promoted operands for ``out=`` forms, whose
    result may be wider or narrower than the computation; that of the result for the others."""
    out = format_of(held.dtype)
    if not call.form.is_out:
        return compute_format(out)
    common = _common_format(call)
    return FLOAT32 if common is None else compute_format(common)


def stored_reference(call: HostCall, value: Computed, formula: str) -> Reference:
    """The reference of a floating result: the kernel's error and the rounding of the store."""
    out = call.out_format()
    compute = kernel_format(call.call, call.held[0])
    contract, proof = value.contract, value.proof
    if compute is not out:
        size = np.abs(value.expected)
        contract = contract + rounding(size + contract, out)
        proof = proof + rounding(size + proof, out)
    reach = compute.max
    common = _common_format(call.call) if call.call.form.is_out else None
    if common is not None and common.precision < min(out.precision, compute.precision):
        # A wider ``out=`` gets what was stored in the operands' half format first.
        size = np.abs(value.expected)
        contract, proof = (e + rounding(size + e, common) for e in (contract, proof))
        reach = common.max
    magnitude = np.where(np.abs(value.magnitude) >= reach, np.inf, value.magnitude)
    return Reference(np.asarray(value.expected, dtype=np.float64), proof, contract, formula,
                     magnitude)


def chain(expected: Array, largest: Array, num_roundings: int, compute: Format) -> Computed:
    """``n u (1 + n u) L + n eta / 2`` for n operations on intermediates of at most ``L``."""
    error = num_roundings * (1 + num_roundings * compute.u) * rounding(largest, compute)
    error = error + own_rounding(num_roundings + 1, largest)
    return Computed(expected, error, error, largest)


def integer_reference(call: HostCall, expected: Array) -> Reference | None:
    """An exact result of an integer or boolean op, wrapped to its width; None where the formula
    leaves the integers, which replay alone judges."""
    if expected.dtype.kind == "f":
        return None
    target = bits.values(call.held[0]).dtype
    return Reference(expected.astype(target), 0.0, 0.0, "exact")


Sensitive = bool | Callable[[BoundCall, tuple[Tensor, ...]], bool]
Odd = tuple[str, ...] | Callable[[BoundCall], tuple[str, ...]]


def register_pointwise(
    targets: tuple[Any, ...],
    reference: Callable[[HostCall], tuple[Reference | None, ...]],
    *,
    odd: Odd = (),
    tail_sensitive: Sensitive = False,
    layout_sensitive: bool = False,
    samples: SamplesFn | None = None,
    domain: str = "any",
    family: str = "pointwise",
) -> None:
    """Register elementwise ops; ``domain`` says which operands the samples draw, see
    :mod:`sdc_guard.ops._samples`."""

    def symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
        sensitive = tail_sensitive(call, held) if callable(tail_sensitive) else tail_sensitive
        names = odd(call) if callable(odd) else odd
        return pointwise_symmetries(call, held, odd=names, tail_sensitive=sensitive,
                                    layout_sensitive=layout_sensitive)

    for target in targets:
        checked(
            target,
            family=family,
            axes=broadcast_axes,
            symmetries=symmetries,
            window=(OUTERMOST,),
            samples=samples or pointwise_samples(target, domain),
        )(reference)


def pointwise(
    *targets: Any,
    formula: str,
    odd: Odd = (),
    tail_sensitive: Sensitive = False,
    domain: str = "any",
    extra: Callable[[HostCall], Array] | None = None,
    integers: bool = False,
    dtypes: tuple[torch.dtype, ...] | None = None,
    **shape_of_samples: Any,
) -> Callable[[Formula], Formula]:
    """Register ops whose result is ``formula`` evaluated with one rounding per operation.

    ``extra`` adds an absolute error that some kernel keeps for a stated reason; the arguments after
    it are those of :func:`sdc_guard.ops._samples.pointwise_samples`.
    """
    drawn = dtypes or ((*FLOATS, torch.int64) if integers else FLOATS)

    def decorate(evaluate: Formula) -> Formula:
        def reference(call: HostCall) -> tuple[Reference | None, ...]:
            dtype = call.held[0].dtype
            if dtype.is_floating_point and (not is_covered_float(dtype) or is_ambiguous(call)):
                return (None,)
            with np.errstate(all="ignore"):
                expected, largest, num_roundings = evaluate(call)
                if not dtype.is_floating_point:
                    return (integer_reference(call, np.asarray(expected)),)
                others = [evaluate(other) for other in readings(call)[1:]]
                more = _apart(expected, [o[0] for o in others])
                if num_roundings == 0:  # out= may be narrower than the operands
                    stored = nearest(np.asarray(expected, dtype=np.float64), call.out_format())
                    return (Reference(stored, more, more, formula),)
                compute = kernel_format(call.call, call.held[0])
                for _, size, _ in others:
                    largest = np.maximum(largest, size)
                value = chain(expected, largest, num_roundings, compute)
                if extra is not None:
                    more = more + extra(call)
                value = Computed(value.expected, value.contract + more, value.proof + more,
                                 value.magnitude)
                return (stored_reference(call, value, formula),)

        reference.__doc__ = evaluate.__doc__
        reference.__module__ = evaluate.__module__
        for target in targets:
            FORMULAS[packet_name(target)] = evaluate
            samples = pointwise_samples(target, domain, drawn, **shape_of_samples)
            register_pointwise((target,), reference, odd=odd, tail_sensitive=tail_sensitive,
                               samples=samples)
        return evaluate

    return decorate


def _chunks(call: HostCall) -> list[HostCall]:
    """The call in parts along the first dimension, small enough for a formula's many intermediates
    to stay in the cache: 3 times faster on a million elements."""
    held = call.held[0]
    size = held.shape[0] if held.dim() else 1
    length = max(1, CHUNK * size // max(held.numel(), 1))
    if length >= size:
        return [call]

    def part(start: int) -> HostCall:
        def narrowed(_: Any, t: Tensor) -> Tensor:
            if t.dim() < held.dim() or t.shape[0] != size:
                return t
            return t.narrow(0, start, min(length, size - start))

        return HostCall(call.call.mapped(narrowed), (narrowed((), held),))

    return [part(start) for start in range(0, size, length)]


def _joined(parts: list[Computed]) -> Computed:
    """The parts of a call one after the other again."""
    if len(parts) == 1:
        return parts[0]
    rows = [np.broadcast_arrays(p.expected, p.contract, p.proof, p.magnitude) for p in parts]
    return Computed(*(np.concatenate(column) for column in zip(*rows, strict=True)))


def _widened(part: HostCall, fmt: Format, evaluate: Callable[[HostCall, Format], Computed]
             ) -> Computed:
    """The bound of a part, wide enough for every reading of the call."""
    value, *others = [evaluate(reading, fmt) for reading in readings(part)]
    if not others:
        return value
    more = _apart(value.expected, [o.expected for o in others])
    contract, proof, magnitude = (
        np.maximum.reduce(np.broadcast_arrays(*(getattr(v, name) for v in (value, *others))))
        for name in ("contract", "proof", "magnitude"))
    return Computed(value.expected, contract + more, proof + more, magnitude)


def bounded(
    *targets: Any,
    formula: str,
    odd: Odd = (),
    tail_sensitive: Sensitive = False,
    layout_sensitive: bool = False,
    domain: str = "any",
    integers: Callable[[HostCall], Array | None] | None = None,
) -> Callable[[Callable[[HostCall, Format], Computed]], Callable[[HostCall, Format], Computed]]:
    """Register ops with a bound of their own; the function gets the call and the format that the
    kernel computes in.  Only floating results are judged, and by ``integers`` the calls that
    compute in an integer format, for which it returns the exact values (None for others)."""

    def decorate(
        evaluate: Callable[[HostCall, Format], Computed],
    ) -> Callable[[HostCall, Format], Computed]:
        def reference(call: HostCall) -> tuple[Reference | None, ...]:
            whole = None if integers is None else integers(call)
            if whole is not None:
                if call.held[0].dtype.is_floating_point:
                    return (None,)
                return (integer_reference(call, whole),)
            if not is_covered_float(call.held[0].dtype) or is_ambiguous(call):
                return (None,)
            with np.errstate(all="ignore"):
                fmt = kernel_format(call.call, call.held[0])
                value = _joined([_widened(part, fmt, evaluate) for part in _chunks(call)])
                return (stored_reference(call, value, formula),)

        reference.__doc__ = evaluate.__doc__
        reference.__module__ = evaluate.__module__
        drawn = FLOATS if integers is None else (*FLOATS, torch.int64)
        for target in targets:
            register_pointwise((target,), reference, odd=odd, tail_sensitive=tail_sensitive,
                               layout_sensitive=layout_sensitive,
                               samples=pointwise_samples(target, domain, drawn))
        return evaluate

    return decorate
