"""Make the recorded call again and say which recorded result comes out."""

from __future__ import annotations

import cmath
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard.bits import has_numbers, values
from sdc_guard.errors import UsageError
from sdc_guard.evidence.environment import collect_environment
from sdc_guard.evidence.environment_diff import environment_differences
from sdc_guard.evidence.reading import Bundle
from sdc_guard.evidence.standalone.script import num_different
from sdc_guard.evidence.standalone.switches import settings
from sdc_guard.evidence.tensors_on_disk import c_order_bytes, dtype_name
from sdc_guard.formats import format_of, is_covered_complex, is_covered_float
from sdc_guard.plain_json import value_of_float
from sdc_guard.records import Record, Value, Worst

HELD, EXPECTED, OTHER, FAILED = "held", "expected", "other", "failed"


class ReplayResult(Record, frozen=True, kw_only=True):
    """What a replay gave.

    ``reproduces`` is ``held`` (the result in use then came out in at least one run), ``expected``
    (the right one in every run: equal bits, or where it came from a reference of other precision,
    the worst element inside the recorded bound) or ``other``.  ``runs`` has the outcome of each
    run, a call that raised being ``failed``.  The counts, one per output, and ``worst``, the
    element farthest from the expected result (from the held one where none is stored), are those
    of the first run whose outcome is ``reproduces``.
    """

    reproduces: str
    num_runs: int
    runs: tuple[str, ...]
    wrong_from_held: tuple[int, ...]
    wrong_from_expected: tuple[int | None, ...]
    worst: Worst | None
    environment_differences: tuple[str, ...]
    message: str


class _Run(Record, frozen=True, kw_only=True):
    outcome: str
    wrong_from_held: tuple[int, ...] = ()
    wrong_from_expected: tuple[int | None, ...] = ()
    worst: Worst | None = None
    detail: str = ""


def replay(
    bundle: Bundle,
    *,
    num_runs: int = 3,
    device: str | None = None,
    num_threads: int | None = None,
) -> ReplayResult:
    """Make the recorded call ``num_runs`` times, each on freshly rebuilt operands.

    The very same overload is called on them directly, so that an ``out=`` that is also an input
    still is; thread count and numeric flags are set as recorded and put back.

    Raises:
        BundleError: see :meth:`~sdc_guard.evidence.reading.Bundle.fresh_call`.
        UsageError: if ``num_runs`` or ``num_threads`` is below 1.
    """
    for name, number in (("num_runs", num_runs), ("num_threads", num_threads)):
        if number is not None and number < 1:
            raise UsageError(f"{name}={number}: give 1 or more")
    with settings(bundle.flags, num_threads or bundle.num_threads):
        runs = [_run(bundle, device) for _ in range(num_runs)]
        here = collect_environment()
    outcomes = tuple(run.outcome for run in runs)
    all_expected = set(outcomes) == {EXPECTED}
    reproduces = HELD if HELD in outcomes else EXPECTED if all_expected else OTHER
    told = next((r for r in runs if r.outcome == reproduces), runs[0])
    return ReplayResult(
        reproduces=reproduces,
        num_runs=num_runs,
        runs=outcomes,
        wrong_from_held=told.wrong_from_held,
        wrong_from_expected=told.wrong_from_expected,
        worst=told.worst,
        environment_differences=environment_differences(bundle.environment, here),
        message=_message(bundle, reproduces, outcomes, told),
    )


def _run(bundle: Bundle, device: str | None) -> _Run:
    call = bundle.fresh_call(device)
    try:
        results = call.results(call.args, call.form.call(call.args))
    except Exception as error:  # an operator may raise anything; that is an outcome
        return _Run(outcome=FAILED, detail=f"the call raised {type(error).__name__}: {error}")
    if len(results) != len(bundle.held):
        return _Run(outcome=OTHER, detail=f"{len(results)} outputs here, {len(bundle.held)} then")
    from_held = tuple(_num_wrong(r, h) for r, h in zip(results, bundle.held, strict=True))
    from_expected = tuple(
        None if e is None else _num_wrong(r, e)
        for r, e in zip(results, bundle.expected, strict=True)
    )
    known = [n for n in from_expected if n is not None]
    detail = ""
    if not any(from_held):
        outcome = HELD
    elif known and not any(known):
        outcome = EXPECTED
    else:
        outcome, detail = _by_bound(bundle, results)
    references: Sequence[Tensor | None] = bundle.expected if known else bundle.held
    return _Run(outcome=outcome, wrong_from_held=from_held, wrong_from_expected=from_expected,
                worst=_worst(results, references), detail=detail)


def _num_wrong(result: Tensor | None, stored: Tensor | None) -> int:
    if result is None or stored is None:
        return int((result is None) is not (stored is None))
    if result.dtype is not stored.dtype or result.shape != stored.shape:
        return max(1, result.numel())
    return num_different(c_order_bytes(result), c_order_bytes(stored), result.element_size())


def _by_bound(bundle: Bundle, results: Sequence[Tensor | None]) -> tuple[str, str]:
    """``expected`` if the worst element now lies within the finding's bound of the expected value.

    A reference in another precision is never met bit for bit by a correct operator, so bits
    alone would call every correct machine ``other``.
    """
    worst = bundle.finding.worst
    if worst is None or worst.bound is None or not 0 <= worst.output < len(results):
        return OTHER, ""
    right, now = bundle.expected[worst.output], results[worst.output]
    index = _locate(bundle, worst)
    if now is None or right is None or index is None or now.shape != right.shape:
        return OTHER, ""
    if not (has_numbers(now.dtype) and has_numbers(right.dtype)):
        return OTHER, ""
    got, wanted = _number(now, index), _number(right, index)
    limit = worst.bound.limit
    if not all(map(cmath.isfinite, (got, wanted, limit))):
        return OTHER, ""
    square = sum((Fraction(a) - Fraction(b)) ** 2
                 for a, b in ((got.real, wanted.real), (got.imag, wanted.imag)))
    inside = square <= Fraction(limit) ** 2
    words = "within" if inside else "outside"
    detail = (f"at the worst element {list(index)} the result is {got!r}, {abs(got - wanted):.3g} "
              f"from the expected {wanted!r}, {words} its bound {limit:.3g}")
    return (EXPECTED if inside else OTHER), detail


def _locate(bundle: Bundle, worst: Worst) -> tuple[int, ...] | None:
    """The worst element's index among the stored results (a narrowed call has other indices)."""
    held = bundle.held[worst.output]
    if held is None:
        return None
    if not bundle.is_reduced:
        inside = len(worst.index) == held.ndim and all(
            0 <= i < n for i, n in zip(worst.index, held.shape, strict=True))
        return worst.index if inside else None
    size = held.element_size()
    wanted = int(worst.got.bits or "0", 16).to_bytes(16, "little")[:size]
    data = c_order_bytes(held)
    found = [i for i in range(held.numel()) if data[i * size : (i + 1) * size] == wanted]
    if len(found) != 1:
        return None
    return tuple(int(i) for i in np.unravel_index(found[0], tuple(held.shape)))


def _number(tensor: Tensor, index: tuple[int, ...]) -> float | complex:
    value = _values(tensor)[index].item()
    return value if isinstance(value, complex) else float(value)


def _values(tensor: Tensor) -> NDArray[Any]:
    with np.errstate(invalid="ignore"):  # widening a signalling NaN raises the flag
        return values(tensor)


def _worst(results: Sequence[Tensor | None], references: Sequence[Tensor | None]) -> Worst | None:
    """The element farthest from the reference, over all outputs; None if every one is equal."""
    found: list[tuple[float, Worst]] = []
    for output, (now, right) in enumerate(zip(results, references, strict=True)):
        if now is None or right is None or now.shape != right.shape or not now.numel():
            continue
        if not (has_numbers(now.dtype) and has_numbers(right.dtype)):
            continue
        got, wanted = _values(now), _values(right)
        wide = np.complex128 if now.is_complex() or right.is_complex() else np.float64
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(got.astype(wide) - wanted.astype(wide))
        same = np.asarray(got == wanted) | (_is_nan(got) & _is_nan(wanted))
        error = np.where(same, 0.0, np.where(np.isnan(error), np.inf, error))
        flat = int(np.argmax(error))
        index = tuple(int(i) for i in np.unravel_index(flat, error.shape))
        size = float(error[index])
        if size > 0:
            found.append((size, _worst_at(output, index, now, right, size)))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _is_nan(array: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(array != array)


def _worst_at(
    output: int, index: tuple[int, ...], now: Tensor, right: Tensor, error: float
) -> Worst:
    got, expected = _element(now, index), _element(right, index)
    ulps = error
    if is_covered_float(now.dtype) or is_covered_complex(now.dtype):
        size = abs(_number(right, index))
        ulps = error / float(format_of(now.dtype).ulp(np.asarray(size)))
    xor = int(got.bits, 16) ^ int(expected.bits, 16) if got.dtype == expected.dtype else None
    return Worst(output=output, index=index, got=got, expected=expected,
                 xor="" if xor is None else f"0x{xor:0{len(got.bits) - 2}x}",
                 error=value_of_float(error), error_ulps=ulps, bound=None)


def _element(tensor: Tensor, index: tuple[int, ...]) -> Value:
    size = tensor.element_size()
    flat = int(np.ravel_multi_index(index, tuple(tensor.shape))) if index else 0
    data = c_order_bytes(tensor)[flat * size : (flat + 1) * size]
    bits = int.from_bytes(data, "little")
    return Value(dtype=dtype_name(tensor), bits=f"0x{bits:0{2 * size}x}",
                 repr=repr(_values(tensor)[index].item()))


def _message(bundle: Bundle, reproduces: str, outcomes: tuple[str, ...], told: _Run) -> str:
    n = len(outcomes)
    if reproduces == HELD:
        times = outcomes.count(HELD)
        text = f"the result that was in use then came out in {times} of {n} runs"
    elif reproduces == EXPECTED:
        text = f"the expected result came out in all {n} runs; it does not diverge here"
    else:
        counts = ", ".join(f"{outcomes.count(o)} {o}" for o in dict.fromkeys(outcomes))
        text = f"neither the result in use then nor the expected one in all {n} runs ({counts})"
    notes = [text, told.detail]
    if all(e is None for e in bundle.expected):
        notes.append("no expected result is stored")
    if bundle.call.form.seeded:
        notes.append("the operator draws random numbers, whose state is not stored")
    return "; ".join(note for note in notes if note)
