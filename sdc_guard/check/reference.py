"""Reference, sample and checksum: a float64 value by an independent path, within a derived bound.
Where the results have no such value their residual is judged with it (``check/residual.py``).

A reference of a large call is evaluated on a random window of one axis (the *sample* witness), so
that its cost stays near ``REFERENCE_WORK`` operations; a checksum covers all elements of a product
in one pass over its operands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall, resolved
from sdc_guard.check.frames import LARGE_ELEMENTS, LARGE_WORK, Frame
from sdc_guard.check.plan import Plan
from sdc_guard.check.residual import broken_residuals, part
from sdc_guard.formats import format_of, is_covered_complex, is_covered_float
from sdc_guard.ops._axes import narrow, narrow_call
from sdc_guard.ops._registry import HostCall, Reference
from sdc_guard.records import Suspicion

REFERENCE_WORK = 4_000_000
"""Operations that a sampled reference may cost: about 5 to 20 ms of NumPy."""


Seen = Callable[[Tensor, Reference], None]


def full_reference(
    plan: Plan, call: BoundCall, held: tuple[Tensor, ...], seen: Seen | None = None
) -> list[Suspicion]:
    """Judge every element of every result.  ``seen`` is told each result that has a reference, and
    the reference."""
    return list(_judge(plan, call, held, "reference", None, seen))


def sampled_reference(
    plan: Plan, call: BoundCall, held: tuple[Tensor, ...], generator: np.random.Generator,
    max_work: int | None = None,
) -> tuple[str, list[Suspicion]]:
    """Judge the whole call if it costs at most ``max_work`` operations (default
    ``REFERENCE_WORK``), else a random window; returns the witness's name, which is empty where
    neither is possible: the call is beyond ``LARGE_WORK`` and cannot be evaluated in part.

    Raises whatever the reference raises; the caller records it as a failure of the guard.
    """
    work = plan.reference_work
    max_work = REFERENCE_WORK if max_work is None else max_work
    name = "residual" if plan.spec.reference is None else "reference"
    if work <= max_work:
        return name, full_reference(plan, call, held)
    window = plan.window(held)
    if window is None and (work <= LARGE_WORK or plan.spec.streams):
        return name, full_reference(plan, call, held)
    if window is None:
        return "", []
    label, size = window
    length = max(1, min(size, size * max_work // work))
    start = int(generator.integers(0, size - length + 1))
    return "sample", list(_judge(plan, call, held, "sample", (label, start, length)))


def reference_at(
    plan: Plan, call: BoundCall, held: tuple[Tensor, ...], output: int,
    index: tuple[int, ...] | None,
) -> list[Suspicion] | None:
    """Judge the whole call where that takes seconds at most, else a window around one element of a
    result; None where neither is possible."""
    num_elements = held[output].numel()
    if plan.reference_work <= LARGE_WORK and num_elements <= LARGE_ELEMENTS:
        return full_reference(plan, call, held)
    window, labels = plan.window(held), plan.axes.outputs[output]
    if window is None or index is None or window[0] not in labels:
        return full_reference(plan, call, held) if plan.spec.streams else None
    label, size = window
    length = size * LARGE_WORK // max(plan.reference_work, 1)
    length = max(1, min(size, length, size * LARGE_ELEMENTS // num_elements))
    start = min(max(0, index[labels.index(label)] - length // 2), size - length)
    return list(_judge(plan, call, held, "reference", (label, start, length)))


def _judge(
    plan: Plan,
    call: BoundCall,
    held: tuple[Tensor, ...],
    witness: str,
    window: tuple[str, int, int] | None,
    seen: Seen | None = None,
) -> Iterator[Suspicion]:
    reference, residual = plan.spec.reference, plan.spec.residual
    if reference is None and residual is None:
        return
    part_held = held
    call = resolved(call)
    if window is not None:
        call = narrow_call(call, plan.axes, *window)
        part_held = tuple(
            narrow(t, labels, *window) for t, labels in zip(held, plan.axes.outputs, strict=True)
        )
    with np.errstate(all="ignore"):
        host = HostCall(call, part_held)
        if residual is not None:
            yield from broken_residuals(residual(host), plan.axes, part_held, held, window)
        expectations = () if reference is None else reference(host)
        for i, expectation in enumerate(expectations):
            if expectation is None or held[i] is None or not part_held[i].numel():
                continue
            if seen is not None:
                seen(part_held[i], expectation)
            found = compare(part_held[i], expectation)
            if found is None:
                continue
            wrong, exceeds = found
            limit = expectation.contract
            if exceeds == "proof" and expectation.proof is not None:
                limit = expectation.proof
            yield _suspicion(
                held[i],
                plan,
                i,
                window,
                witness,
                expectation,
                wrong,
                exceeds,
                limit,
            )


def compare(got: Tensor, expectation: Reference) -> tuple[NDArray[np.bool_], str] | None:
    """Elements outside the proof bound, or outside the contract where none is; None if all is well.

    Nothing is judged where an intermediate may overflow the format.  A NaN or an infinity is
    wrong where the definition is finite, and a finite value is wrong where the definition is
    NaN, and no intermediate overflows; a NaN in an infinity's place only where the reference says
    so, because a permitted order of evaluation may meet inf - inf.
    """
    values = bits.values(got)
    if expectation.parts is not None:
        return _compare_parts(values, got.dtype, expectation.parts)
    if not (is_covered_float(got.dtype) or is_covered_complex(got.dtype)):
        wrong = np.asarray(values != np.broadcast_to(expectation.expected, values.shape))
        return (wrong, "proof") if wrong.any() else None
    return _compare_values(values, got.dtype, expectation)


def _compare_parts(
    values: NDArray[Any], dtype: torch.dtype, parts: tuple[Reference, Reference]
) -> tuple[NDArray[np.bool_], str] | None:
    """Either part of a complex result against a reference of its own."""
    found = [_compare_values(v, dtype, part)
             for v, part in zip((values.real, values.imag), parts, strict=True)]
    broken = [f for f in found if f is not None]
    for exceeds in ("proof", "contract"):
        wrong = [mask for mask, kind in broken if kind == exceeds]
        if wrong:
            return np.logical_or.reduce(wrong), exceeds
    return None


def _compare_values(
    values: NDArray[Any], dtype: torch.dtype, expectation: Reference
) -> tuple[NDArray[np.bool_], str] | None:
    """Floating results.  The error of a complex one is a modulus, and none is judged whose expected
    value has a part that is not finite: what a product of infinities gives depends on how it is
    evaluated (C99, Annex G)."""
    expected = np.broadcast_to(expectation.expected, values.shape)
    fmt = format_of(dtype)
    error = np.abs(values - expected)
    for limit, exceeds in ((expectation.proof, "proof"), (expectation.contract, "contract")):
        if limit is None or (error <= limit).all():
            continue
        reach = np.abs(expected) + np.nan_to_num(limit, posinf=0.0)
        judged = (reach < fmt.max) & (np.asarray(expectation.magnitude) < fmt.max)
        judged &= np.isfinite(expected) & np.isfinite(limit)
        wrong = judged & ~(error <= limit)
        if values.dtype.kind == "f":
            undefined = np.isnan(expected) & (np.asarray(expectation.magnitude) < fmt.max)
            wrong |= undefined & ~np.isnan(values)
            if expectation.keeps_infinities:
                endless = np.isinf(expected) & (np.asarray(expectation.magnitude) < fmt.max)
                wrong |= endless & np.isnan(values)
        if wrong.any():
            return wrong, exceeds
    return None


def _suspicion(
    held: Tensor,
    plan: Plan,
    output: int,
    window: tuple[str, int, int] | None,
    witness: str,
    expectation: Reference,
    wrong: NDArray[np.bool_],
    exceeds: str,
    limit: NDArray[Any] | float,
) -> Suspicion:
    if window is not None and held.numel() > LARGE_ELEMENTS:
        return Suspicion(
            witness=witness,
            relation="",
            output=output,
            wrong=wrong,
            expected=np.broadcast_to(expectation.expected, wrong.shape),
            limit=np.broadcast_to(limit, wrong.shape),
            exceeds=exceeds,
            formula=expectation.formula,
            frame=Frame(plan.axes, *window),
        )
    shape = tuple(held.shape)
    where = part(shape, plan.axes.outputs[output], window)
    full_wrong = np.zeros(shape, dtype=bool)
    full_wrong[where] = wrong
    full_expected = bits.values(held)
    full_expected[where] = expectation.expected
    full_limit = np.full(shape, np.inf)
    full_limit[where] = limit
    return Suspicion(
        witness=witness,
        relation="",
        output=output,
        wrong=full_wrong,
        expected=full_expected,
        limit=full_limit,
        exceeds=exceeds,
        formula=expectation.formula,
    )


def checksum(plan: Plan, call: BoundCall, held: tuple[Tensor, ...]) -> list[Suspicion]:
    """Row sums of a product against ``A (B w)``, of a large one part by part; a row outside its
    bound is judged element by element by the reference, which names the wrong ones."""
    if plan.spec.checksum is None or not is_covered_float(held[0].dtype):
        return []
    window = plan.window(held)
    if window is None or held[0].numel() <= LARGE_ELEMENTS:
        return _checksum(plan, call, held, None)
    label, size = window
    length = max(1, size * LARGE_ELEMENTS // held[0].numel())
    for start in range(0, size, length):
        frame = Frame(plan.axes, label, start, min(length, size - start))
        part = tuple(t for t in frame.view(held) if t is not None)
        found = _checksum(plan, frame.call(call), part, frame)
        if found:
            return found
    return []


def _checksum(
    plan: Plan, call: BoundCall, held: tuple[Tensor, ...], frame: Frame | None
) -> list[Suspicion]:
    assert plan.spec.checksum is not None
    with np.errstate(all="ignore"):
        found = plan.spec.checksum(HostCall(call, held))
        if found is None:
            return []
        expected, limit, magnitude, formula = found
        sums = bits.values(held[0]).sum(-1)
        judged = np.isfinite(expected) & (magnitude < format_of(held[0].dtype).max)
        wrong_rows = judged & ~(np.abs(sums - expected) <= limit)
    if not wrong_rows.any():
        return []
    confirmed = full_reference(plan, call, held)
    if confirmed:
        return [replace(s, frame=frame) for s in confirmed]
    wrong = np.broadcast_to(wrong_rows[..., None], tuple(held[0].shape))
    return [
        Suspicion(
            witness="checksum",
            relation="",
            output=0,
            wrong=wrong,
            expected=None,
            limit=np.broadcast_to(limit[..., None], wrong.shape),
            exceeds="proof",
            formula=formula,
            frame=frame,
        )
    ]
