"""Reference, sample and checksum: a float64 value by an independent path, within a derived bound.
Where the results have no such value their residual is judged with it (``check/residual.py``).

A reference of a large call is evaluated on a random window of one axis (the *sample* witness), so
that its cost stays near ``REFERENCE_WORK`` operations; a checksum covers all elements of a product
in one pass over its operands.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.check.plan import Plan
from sdc_guard.check.residual import broken_residuals, part
from sdc_guard.formats import format_of, is_covered_float
from sdc_guard.ops._axes import narrow, narrow_call
from sdc_guard.ops._registry import HostCall, Reference
from sdc_guard.records import Suspicion

REFERENCE_WORK = 4_000_000
"""Operations that a sampled reference may cost: about 5 to 20 ms of NumPy."""


def full_reference(plan: Plan, call: BoundCall, held: tuple[Tensor, ...]) -> list[Suspicion]:
    """Judge every element of every result."""
    return list(_judge(plan, call, held, "reference", None))


def sampled_reference(
    plan: Plan, call: BoundCall, held: tuple[Tensor, ...], generator: np.random.Generator,
    max_work: int | None = None,
) -> tuple[str, list[Suspicion]]:
    """Judge the whole call if it costs at most ``max_work`` operations (default
    ``REFERENCE_WORK``), else a random window; returns the witness's name.

    Raises whatever the reference raises; the caller records it as a failure of the guard.
    """
    work = plan.reference_work
    max_work = REFERENCE_WORK if max_work is None else max_work
    window = plan.window(held) if work > max_work else None
    if window is None:
        name = "residual" if plan.spec.reference is None else "reference"
        return name, full_reference(plan, call, held)
    label, size = window
    length = max(1, min(size, size * max_work // work))
    start = int(generator.integers(0, size - length + 1))
    return "sample", list(_judge(plan, call, held, "sample", (label, start, length)))


def _judge(
    plan: Plan,
    call: BoundCall,
    held: tuple[Tensor, ...],
    witness: str,
    window: tuple[str, int, int] | None,
) -> Iterator[Suspicion]:
    reference, residual = plan.spec.reference, plan.spec.residual
    if reference is None and residual is None:
        return
    part_held = held
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
            found = compare(part_held[i], expectation)
            if found is None:
                continue
            wrong, exceeds = found
            limit = expectation.contract
            if exceeds == "proof" and expectation.proof is not None:
                limit = expectation.proof
            yield _suspicion(
                held[i],
                plan.axes.outputs[i],
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
    NaN and no intermediate overflows.
    """
    values = bits.values(got)
    expected = np.broadcast_to(expectation.expected, values.shape)
    if values.dtype.kind != "f" or not is_covered_float(got.dtype):
        wrong = np.asarray(values != expected)
        return (wrong, "proof") if wrong.any() else None
    fmt = format_of(got.dtype)
    error = np.abs(values - expected)
    for limit, exceeds in ((expectation.proof, "proof"), (expectation.contract, "contract")):
        if limit is None or (error <= limit).all():
            continue
        reach = np.abs(expected) + np.nan_to_num(limit, posinf=0.0)
        judged = (reach < fmt.max) & (np.asarray(expectation.magnitude) < fmt.max)
        judged &= np.isfinite(expected) & np.isfinite(limit)
        wrong = judged & ~(error <= limit)
        undefined = np.isnan(expected) & (np.asarray(expectation.magnitude) < fmt.max)
        wrong |= undefined & ~np.isnan(values)
        if wrong.any():
            return wrong, exceeds
    return None


def _suspicion(
    held: Tensor,
    labels: tuple[str, ...],
    output: int,
    window: tuple[str, int, int] | None,
    witness: str,
    expectation: Reference,
    wrong: NDArray[np.bool_],
    exceeds: str,
    limit: NDArray[Any] | float,
) -> Suspicion:
    shape = tuple(held.shape)
    where = part(shape, labels, window)
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
    """Row sums of a product against ``A (B w)``; a row outside its bound is judged element by
    element by the reference, which names the wrong ones."""
    if plan.spec.checksum is None or not is_covered_float(held[0].dtype):
        return []
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
        return confirmed
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
        )
    ]
