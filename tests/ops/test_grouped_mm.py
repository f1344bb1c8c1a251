"""Grouped products: memory that the kernel leaves as it was is no finding, wrong numbers are."""

from __future__ import annotations

import pytest
import torch

import sdc_guard
from sdc_guard.inject.misread import MisreadElement

aten = torch.ops.aten


def factors(rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(rows, 16, generator=generator), torch.randn(3, 16, 8, generator=generator)
    return a, b, torch.tensor([4, 12, 32], dtype=torch.int32)


@pytest.mark.parametrize("rows", [32, 48])
def test_correct_groups_are_left_in_peace(rows: int) -> None:
    """With 48 rows, 16 behind the last offset hold whatever the memory held."""
    a, b, offs = factors(rows)
    guard = sdc_guard.Guard(budget="all")
    for i in range(8):
        torch.full((rows, 8), float(i + 1))  # other memory than the last time
        with guard:
            aten._grouped_mm(a, b, offs)
    assert [f.message for f in guard.findings] == []
    assert guard.coverage.guard_errors == 0
    assert guard.coverage.calls_checked == 8


def test_the_wrong_expert_is_found() -> None:
    """An offset that is read wrongly sends rows to another group."""
    a, b, offs = factors(32)
    guard = sdc_guard.Guard(budget="all")
    with guard, MisreadElement(aten._grouped_mm.default, (2,), "offset", shape=(3,), flat_index=0):
        aten._grouped_mm(a, b, offs)
    assert guard.findings[0].verdict is sdc_guard.Verdict.CORRUPTION
