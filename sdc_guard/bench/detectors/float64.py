"""Recompute in float64 and compare within torch's default tolerances."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

from sdc_guard.bench.detectors.base import Alarm, Detector
from sdc_guard.bench.detectors.calls_again import NOT_COMPARED, CallsAgain, Results
from sdc_guard.bench.detectors.stacking import at_bottom
from sdc_guard.bench.workload import Workload
from sdc_guard.calls import BoundCall


class Float64Recompute(Detector):
    """Computes every op call again with its floating operands in float64 and compares by
    ``torch.testing.assert_close``.

    It follows the comparison that PyTorch documents for testing (``torch.testing``, table of
    default tolerances by dtype: 1.3e-6 and 1e-5 for float32, 1.6e-2 and 1e-5 for bfloat16, relative
    and absolute).  Two NaNs at one place count as equal.  The recomputation uses the same device
    and torch's own float64 kernels.  Left out: calls that draw random numbers, and ops that have
    no float64 kernel (``mode.left_out`` counts them).
    """

    name = "float64 recompute"
    description = ("every op call again in float64, compared with torch.testing.assert_close at "
                   "its default tolerances")

    def __init__(self) -> None:
        self.mode = CallsAgain(beyond_tolerance, self._take, "beyond tolerance")

    def step(self, workload: Workload) -> tuple[Alarm, ...]:
        self.alarms = ()
        with at_bottom(self.mode):
            workload.step()
        self.num_checks = self.mode.num_compared
        return self.alarms

    def _take(self, alarm: Alarm) -> None:
        self.alarms += (alarm,)


def beyond_tolerance(before: BoundCall, held: Results) -> str:
    """What ``assert_close`` says of the results, held against the same call in float64."""
    wide = BoundCall(before.form, tuple(_widened(value) for value in before.args))
    try:
        expected = wide.results(wide.args, wide.form.call(wide.args))
    except (RuntimeError, NotImplementedError):
        return NOT_COMPARED
    for i, (one, other) in enumerate(zip(held, expected, strict=True)):
        if one is None or other is None:
            continue
        try:
            assert_close(one, other, check_dtype=False, check_stride=False, equal_nan=True)
        except AssertionError as error:
            return f"result {i}: " + " ".join(str(error).split())
    return ""


def _widened(value: Any) -> Any:
    if isinstance(value, torch.dtype) and value.is_floating_point:
        return torch.float64
    if isinstance(value, (list, tuple)):
        return [_widened(v) for v in value]
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(torch.float64, copy=True)
    if isinstance(value, Tensor) and value.is_complex():
        return value.to(torch.complex128, copy=True)
    return value
