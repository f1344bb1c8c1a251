"""Arbitration of results that are no floats: a bool cannot be subtracted from a bool."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import sdc_guard
from sdc_guard.inject.faults import RepeatedFlip

aten = torch.ops.aten
x = torch.linspace(-3, 3, 250).reshape(5, 10, 5)

CASES: dict[str, tuple[object, Callable[[], Tensor], torch.dtype, int]] = {
    "lt": (aten.lt.Tensor, lambda: x < x.flip(0), torch.bool, 0),
    "isinf": (aten.isinf.default, lambda: torch.isinf(x), torch.bool, 0),
    "signbit": (aten.signbit.default, lambda: torch.signbit(x), torch.bool, 0),
    "int64": (aten.mul.Tensor, lambda: torch.arange(250) * torch.arange(250), torch.int64, 62),
    "int8": (aten.add.Tensor, lambda: x.to(torch.int8) + x.to(torch.int8), torch.int8, 7),
    "uint8": (aten.mul.Tensor, lambda: x.abs().to(torch.uint8) * x.abs().to(torch.uint8),
              torch.uint8, 7),
}


@pytest.mark.parametrize("name", CASES)
def test_a_repeated_fault_in_an_exact_result_is_corruption(name: str) -> None:
    op, compute, dtype, bit = CASES[name]
    shape = tuple(compute().shape)
    guard = sdc_guard.Guard(budget="all")
    with guard, RepeatedFlip(op, shape, 0, 178, bit, dtype=dtype):  # type: ignore[arg-type]
        compute()
    assert guard.coverage.guard_errors == 0
    assert guard.findings[0].verdict is sdc_guard.Verdict.CORRUPTION
    assert guard.findings[0].worst is not None
