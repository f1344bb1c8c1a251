"""A program under guard may replace the clock, as tests of timers do: the guard reads its own."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

import sdc_guard
from sdc_guard.inject import TransientFlip


@pytest.mark.parametrize("clock", ["perf_counter", "monotonic"])
def test_the_guard_takes_no_reading_of_a_replaced_clock(clock: str) -> None:
    a = torch.arange(64.0).reshape(8, 8)
    flip = TransientFlip(torch.ops.aten.mm.default, 0, 0, 1, 27, counts="user")
    with (mock.patch(f"time.{clock}", side_effect=[]) as replaced,
          sdc_guard.Guard(budget="all") as guard):
        a + a
        with flip:
            a @ a
    assert [finding.op for finding in guard.findings] == ["aten.mm.default"]
    assert not guard.coverage.guard_errors
    replaced.assert_not_called()
