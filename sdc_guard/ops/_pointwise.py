"""What all elementwise ops share: formats, symmetries, and the step from a formula to a reference.

Place.  On a CPU most elementwise kernels give an element the same bits wherever it stands; that
was seen for every op here that is not marked ``tail_sensitive`` (torch 2.13, AVX-512, fp64, fp32,
bf16, fp16, 1 and 2 threads, 3 to 70,001 elements: rolled, strided and offset operands).  The marked
ones compute the last elements of each thread's share, and all elements of strided operands, with
other code than the vector body, up to some ulps apart; their relations keep each element on its
side (``at::native::vectorized_loop``: body in multiples of two vectors, at most 64 elements;
``at::parallel_for``: shares of ``ceil(n / threads)`` elements, at least 32768).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
from sdc_guard.ops._registry import HostCall, Reference, SamplesFn, checked, packet_name
from sdc_guard.ops._samples import FLOATS, pointwise_samples
from sdc_guard.ops._symmetry import (
    OUTERMOST,
    RERUN,
    Move,
    Symmetry,
    double,
    flat,
    negate,
    roll,
    split,
)

Array = NDArray[Any]

GRAIN_SIZE = 32768
"""Elements below which ``at::parallel_for`` does not divide an elementwise kernel."""

BODY_MULTIPLE = 64
"""Two vectors of the widest kind: 2 x 32 bf16 lanes of AVX-512."""


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


def converted(call: HostCall, name: str, dtype: torch.dtype) -> Array:
    """An operand's values after ATen's conversion to ``dtype``, exactly."""
    value = call.number(name)
    if dtype.is_floating_point:
        return nearest(value, format_of(dtype))
    return value


def kernel_format(call: BoundCall, held: Tensor) -> Format:
    """The format a kernel computes in: that of the promoted operands for ``out=`` forms, whose
    result may be wider or narrower than the computation; that of the result for the others."""
    out = format_of(held.dtype)
    if not call.form.is_out:
        return compute_format(out)
    written = set(call.form.overwrites)
    read = [t for path, t in call.tensors() if path[0] not in written]
    read = [t for t in read if t.dim()] or read
    floats = [format_of(t.dtype) for t in read if is_covered_float(t.dtype)]
    if not floats:
        return FLOAT32
    return compute_format(max(floats, key=lambda f: f.precision))


def stored_reference(call: HostCall, value: Computed, formula: str) -> Reference:
    """The reference of a floating result: the kernel's error and the rounding of the store."""
    out = call.out_format()
    compute = kernel_format(call.call, call.held[0])
    contract, proof = value.contract, value.proof
    if compute is not out:
        size = np.abs(value.expected)
        contract = contract + rounding(size + contract, out)
        proof = proof + rounding(size + proof, out)
    magnitude = np.where(np.abs(value.magnitude) >= compute.max, np.inf, value.magnitude)
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


def share_ends(numel: int, threads: int) -> list[int]:
    """Where ``at::parallel_for`` ends the share of each thread of an elementwise kernel."""
    used = max(1, min(threads, -(-numel // GRAIN_SIZE)))
    share = -(-numel // used)
    return [min(numel, share * (i + 1)) for i in range(used) if share * i < numel]


def keeps_tails(numel: int, threads: int) -> bool:
    """True if the engine's flat splits (at multiples of 64 near a half and a third) leave every
    element in the vector body or in the scalar tail that it is in."""
    if numel <= 3 * BODY_MULTIPLE:
        return False
    cuts = [numel // k // BODY_MULTIPLE * BODY_MULTIPLE for k in (2, 3)]
    sizes = [numel, *cuts, *(numel - cut for cut in cuts)]
    inner = [end for n in sizes for end in share_ends(n, threads)[:-1]]
    return all(end % BODY_MULTIPLE == 0 for end in inner)


def one_layout(call: BoundCall, held: tuple[Tensor, ...]) -> bool:
    """True if results and all operands with dimensions are dense and laid out alike."""
    layouts = {(tuple(t.shape), t.stride()) for t in held}
    layouts |= {(tuple(t.shape), t.stride()) for _, t in call.tensors() if t.dim()}
    return len(layouts) == 1 and all(bits.is_dense(t) for t in held)


def _vector_call(call: BoundCall, start: int, length: int) -> BoundCall:
    """The call on a stretch of its dense operands taken as vectors."""

    def stretch(_: Any, t: Tensor) -> Tensor:
        return t.as_strided((length,), (1,), t.storage_offset() + start) if t.dim() else t

    return call.mapped(stretch)


def in_shares(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    """The call again in pieces of at most 32768 elements, on views and in the other order.

    The pieces start at multiples of 64 within each thread's share and end where it ends, so every
    element stays in its kernel's vector body or scalar tail.  Dense operands of one layout only.
    """
    operands = [t for _, t in call.tensors() if t.dim()]
    first = operands[0]
    numel = first.numel()
    pieces: list[tuple[int, int]] = []
    begin = 0
    for end in share_ends(numel, torch.get_num_threads()):
        size = min(GRAIN_SIZE, max(BODY_MULTIPLE, (end - begin) // 2 // BODY_MULTIPLE
                                   * BODY_MULTIPLE))
        pieces += [(s, min(size, end - s)) for s in range(begin, end, size)]
        begin = end
    image: Tensor | None = None
    for start, length in reversed(pieces):
        part = _vector_call(call, start, length).run()[0]
        if image is None:
            image = torch.empty_strided(first.shape, first.stride(), dtype=part.dtype,
                                        device=part.device)
        image.as_strided((length,), (1,), start).copy_(part)
    assert image is not None
    return (image,)


def beside(call: BoundCall, visit: int) -> tuple[Tensor, ...]:
    """The call on vectors in which the operands follow copies of their first element, as many as
    a multiple of 64: other addresses, the same distance from the tail."""
    lead = BODY_MULTIPLE * (1 + visit % 3)
    sizes = [t for _, t in call.tensors() if t.dim()]
    first = sizes[0]
    numel = first.numel()

    def led(_: Any, t: Tensor) -> Tensor:
        if not t.dim():
            return t
        vector = t.as_strided((numel,), (1,), t.storage_offset())
        return torch.cat([vector[:1].expand(lead), vector])

    got = call.mapped(led).run()[0]
    return (got.as_strided(first.shape, first.stride(), lead),)


IN_SHARES = Symmetry("split shares", (Move("custom", function=in_shares),),
                     frozenset({"address", "core", "tile"}), True)
BESIDE = Symmetry("shift by whole vectors", (Move("custom", function=beside),),
                  frozenset({"address", "tile"}), True)


def odd_in(call: BoundCall, *names: str) -> tuple[Symmetry, ...]:
    """Negation of the named operands, where all of them are floating tensors."""
    tensors = [call.get(name) for name in names]
    if names and all(isinstance(t, Tensor) and t.is_floating_point() for t in tensors):
        return (negate(*names),)
    return ()


def pointwise_symmetries(
    call: BoundCall,
    held: tuple[Tensor, ...],
    *,
    odd: tuple[str, ...] = (),
    tail_sensitive: bool = False,
    layout_sensitive: bool = False,
) -> tuple[Symmetry, ...]:
    """Flat splits of dense operands of one layout, splits along the outermost axis else; a roll of
    the last axis for the lane where the op does not depend on the place; negation of ``odd``
    operands for the bits.  The cheap one comes three times in five."""
    result = held[0]
    signed = odd_in(call, *odd)
    if result.numel() < 2:
        # A tensor ``value`` (masked_fill, fill) may not get a dimension, so it cannot be doubled.
        if tail_sensitive or isinstance(call.get("value"), Tensor):
            return (RERUN, *signed)
        return (double(), *signed)
    dense = one_layout(call, held)
    if tail_sensitive:
        threads = torch.get_num_threads()
        if not dense or (layout_sensitive and not result.is_contiguous()):
            return (split(OUTERMOST, known=False), *signed, RERUN)
        if result.device.type != "cpu" or keeps_tails(result.numel(), threads):
            return (flat(), *signed)
        if result.numel() < GRAIN_SIZE:
            return (BESIDE, *signed)
        return (IN_SHARES, *signed)
    cheap = flat() if dense else split(OUTERMOST)
    last = max((d for d in range(result.dim()) if result.shape[d] > 1), default=None)
    lane = () if last is None else (roll(f"d{last}", lane=True),)
    if not lane and not signed:
        return (cheap,)
    if result.numel() >= GRAIN_SIZE:
        return (cheap, *lane, cheap, *signed, cheap)
    # A small call costs its Python, so some visits are one plain call at another address; any
    # three visits in a row have one that moves the place.
    return (cheap, RERUN, *lane, RERUN, cheap, *signed)


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
            if dtype.is_floating_point and not is_covered_float(dtype):
                return (None,)
            with np.errstate(all="ignore"):
                expected, largest, num_roundings = evaluate(call)
                if not dtype.is_floating_point:
                    return (integer_reference(call, np.asarray(expected)),)
                if num_roundings == 0:
                    return (Reference(np.asarray(expected, dtype=np.float64), 0.0, 0.0, formula),)
                compute = kernel_format(call.call, call.held[0])
                value = chain(expected, largest, num_roundings, compute)
                if extra is not None:
                    more = extra(call)
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


def bounded(
    *targets: Any,
    formula: str,
    odd: Odd = (),
    tail_sensitive: Sensitive = False,
    layout_sensitive: bool = False,
    domain: str = "any",
) -> Callable[[Callable[[HostCall, Format], Computed]], Callable[[HostCall, Format], Computed]]:
    """Register ops with a bound of their own; the function gets the call and the format that the
    kernel computes in.  Only floating results are judged."""

    def decorate(
        evaluate: Callable[[HostCall, Format], Computed],
    ) -> Callable[[HostCall, Format], Computed]:
        def reference(call: HostCall) -> tuple[Reference | None, ...]:
            if not is_covered_float(call.held[0].dtype):
                return (None,)
            with np.errstate(all="ignore"):
                value = evaluate(call, kernel_format(call.call, call.held[0]))
                return (stored_reference(call, value, formula),)

        reference.__doc__ = evaluate.__doc__
        reference.__module__ = evaluate.__module__
        register_pointwise(targets, reference, odd=odd, tail_sensitive=tail_sensitive,
                           layout_sensitive=layout_sensitive, domain=domain)
        return evaluate

    return decorate
