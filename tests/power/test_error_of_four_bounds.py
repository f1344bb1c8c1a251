"""An error of four contract bounds, in whichever element, is seen by the reference.

The samples are those that the op's own file names.  Each error is put into an image of the held
result; the untouched result must pass, so that it is the error that is seen.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall, form_of
from sdc_guard.check.plan import Plan, make_plan
from sdc_guard.check.reference import full_reference
from sdc_guard.formats import format_of
from sdc_guard.ops import OpSpec, all_specs
from sdc_guard.ops._registry import HostCall
from tests.shares import is_in, slow

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
NUM_ELEMENTS = 4
"""Elements of each result that get an error: first, last, and two drawn ones."""
NUM_BOUNDS = 4
SPECS = {spec.packet: spec for spec in all_specs() if spec.reference and spec.samples}


def samples(spec: OpSpec, dtype: torch.dtype) -> Iterator[tuple[Plan, BoundCall, Any]]:
    generator = torch.Generator().manual_seed(zlib.crc32(f"{spec.packet} {dtype}".encode()))
    assert spec.samples is not None
    for op, args, kwargs in spec.samples(generator, dtype):
        form = form_of(op)
        call = BoundCall(form, form.bind(args, kwargs))
        held = call.run_identical()
        yield make_plan(spec, call, held), call, held


def limits(
    plan: Plan, call: BoundCall, held: tuple[Tensor, ...]
) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.float64]]]:
    """(output, expected values, contract limits) of the floating results that are judged; the limit
    is infinite where an intermediate may overflow."""
    assert plan.spec.reference is not None
    with np.errstate(all="ignore"):
        expectations = plan.spec.reference(HostCall(call, held))
    for output, expectation in enumerate(expectations):
        if expectation is None or held[output] is None or not held[output].is_floating_point():
            continue
        shape = tuple(held[output].shape)
        in_range = np.asarray(expectation.magnitude) < format_of(held[output].dtype).max
        contract = np.where(in_range, np.asarray(expectation.contract, dtype=np.float64), np.inf)
        yield (output, np.broadcast_to(expectation.expected, shape),
               np.broadcast_to(contract, shape))


def neighbour(number: Tensor, up: bool) -> Tensor:
    """The next number of the dtype: above or below (0-dim)."""
    image = bits.snapshot(number)
    pattern = bits.raw(image)
    width = 8 * number.element_size()
    sign = 1 << (width - 1)
    held = int(pattern[()])
    if held & (sign - 1) == 0:
        pattern[()] = 1 if up else sign | 1
    else:
        pattern[()] = held + (1 if up == (held < sign) else -1)
    return image


def with_error(tensor: Tensor, index: tuple[int, ...], expected: float, error: float) -> Tensor:
    """An image with one element at least ``error`` (signed) away from ``expected``, and by as
    little more as the dtype allows; for an error of 0 the next number above."""
    image = bits.snapshot(tensor)
    target = expected + error
    wrong = torch.tensor(target, dtype=torch.float64).to(tensor.dtype)
    while abs(float(wrong) - expected) < abs(error) or float(wrong) == expected:
        wrong = neighbour(wrong, up=error >= 0)
    bits.raw(image)[index] = bits.raw(wrong)[()]
    return image


def places(shape: tuple[int, ...], seed: int) -> list[tuple[int, ...]]:
    num = int(np.prod(shape))
    drawn = np.random.default_rng(seed).integers(num, size=NUM_ELEMENTS - 2)
    return [tuple(int(i) for i in np.unravel_index(flat, shape))
            for flat in (0, num - 1, *map(int, drawn))]


def misses(spec: OpSpec, dtype: torch.dtype) -> tuple[int, list[str]]:
    """(errors put in, those that were not seen); each round puts one into every result."""
    num, missed = 0, []
    for sample, (plan, call, held) in enumerate(samples(spec, dtype)):
        if full_reference(plan, call, held):
            continue  # a contract that this kernel breaks is the conformance test's business
        judged = [(output, expected, contract, places(expected.shape, sample))
                  for output, expected, contract in limits(plan, call, held) if expected.size]
        for turn in range(NUM_ELEMENTS):
            changed = list(held)
            put: dict[int, tuple[int, ...]] = {}
            for output, expected, contract, where in judged:
                index = where[turn]
                centre = float(expected[index])
                error = (1 - 2 * (turn % 2)) * NUM_BOUNDS * float(contract[index])
                reach = abs(centre) + 2 * abs(error)
                if not reach < format_of(held[output].dtype).max / 2:
                    continue
                changed[output] = with_error(held[output], index, centre, error)
                put[output] = index
            num += len(put)
            seen = full_reference(plan, call, tuple(changed))
            missed += [
                f"{call.form.name} output {output} {list(index)} of {list(held[output].shape)}: "
                f"{float(bits.values(changed[output])[index])!r} passes"
                for output, index in put.items()
                if not any(s.output == output and s.wrong[index] for s in seen)]
    return num, missed


# tests/ops/test_contract_margin.py has the other half of the judged ops among the fast tests.
@pytest.mark.parametrize("packet", [
    slow(p) if SPECS[p].judged and not SPECS[p].takes_complex and is_in(p, 0, 2) else p
    for p in sorted(SPECS)])
def test_an_error_of_four_contract_bounds_is_seen_in_any_element(packet: str) -> None:
    spec = SPECS[packet]
    counts = {}
    for dtype in DTYPES:
        num, missed = misses(spec, dtype)
        assert not missed, f"{len(missed)} of {num} in {dtype}: " + "\n".join(missed[:5])
        counts[dtype] = num
    if spec.proves is not None and not sum(counts.values()):
        return  # an exact fact fixes every bit; tests/ops/test_conformance.py breaks it
    floats = [d for d in DTYPES if any(
        t is not None and t.is_floating_point() for _, _, held in samples(spec, d) for t in held)]
    assert not floats or sum(counts.values()), f"no error could be put into {packet}: {counts}"
