"""More than 2^31 elements, for real, in int8: places beyond what a 32-bit index reaches."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import sdc_guard
from sdc_guard import Cause, Verdict
from sdc_guard.inject.faults import TransientFlip

aten = torch.ops.aten
NUM = 2**31 + 11
FAR = NUM - 3
NEEDED_BYTES = 14 * 2**30

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def operand() -> Tensor:
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if available < NEEDED_BYTES:
        pytest.skip(f"{available} bytes of memory available, {NEEDED_BYTES} needed")
    x = torch.zeros(NUM, dtype=torch.int8)
    x[::7] = 3
    x[FAR] = 1
    return x


CALLS: dict[str, tuple[object, Callable[[Tensor], Tensor]]] = {
    "add": (aten.add.Tensor, lambda x: x + x),
    "copy": (aten.clone.default, lambda x: x.clone()),
    "compare": (aten.ne.Scalar, lambda x: x != 0),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_flip_far_out_is_found_where_it_is(operand: Tensor, name: str) -> None:
    op, compute = CALLS[name]
    guard = sdc_guard.Guard(budget="all")
    with guard, TransientFlip(op, 0, 0, FAR, 0):  # type: ignore[arg-type]
        compute(operand)
    (finding,) = guard.findings
    assert (finding.verdict, finding.cause) == (Verdict.CORRUPTION, Cause.TRANSIENT)
    assert finding.worst is not None
    assert finding.worst.index == (FAR,)
    assert guard.coverage.guard_errors == 0


@pytest.mark.parametrize("name", CALLS)
def test_correct_results_are_left_in_peace(operand: Tensor, name: str) -> None:
    guard = sdc_guard.Guard(budget="all")
    with guard:
        CALLS[name][1](operand)
        operand[torch.tensor([0, 2**31, FAR])]
    assert guard.findings == []
    assert guard.coverage.guard_errors == 0
    assert guard.coverage.calls_checked == guard.coverage.calls
