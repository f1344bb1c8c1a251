"""Rerun and compare: dual modular redundancy, op by op."""

from __future__ import annotations

from sdc_guard import bits
from sdc_guard.bench.detectors.base import Alarm, Detector
from sdc_guard.bench.detectors.calls_again import CallsAgain, Results
from sdc_guard.bench.detectors.stacking import at_bottom
from sdc_guard.bench.workload import Workload
from sdc_guard.calls import BoundCall


class RerunAndCompare(Detector):
    """Makes every op call again on copies of its operands, taken before, and compares the bits.

    It follows dual modular redundancy as it is generally described for BLAS-1 and BLAS-2 routines
    (FT-BLAS, ICS 2021: computing twice and comparing), moved from instructions to op calls.  It
    repeats the same overload; forward, backward and optimizer are covered.  Left out: calls that
    draw random numbers, collectives, custom ops, and any vote on which of the two is right.
    """

    name = "rerun and compare"
    description = "every op call twice, bits compared (dual modular redundancy, FT-BLAS, ICS 2021)"

    def __init__(self) -> None:
        self.mode = CallsAgain(differing_bits, self._take, "results differ")

    def step(self, workload: Workload) -> tuple[Alarm, ...]:
        self.alarms = ()
        with at_bottom(self.mode):
            workload.step()
        self.num_checks = self.mode.num_compared
        return self.alarms

    def _take(self, alarm: Alarm) -> None:
        self.alarms += (alarm,)


def differing_bits(before: BoundCall, held: Results) -> str:
    """Which result of a second call has other bits than the one held."""
    again = before.results(before.args, before.form.call(before.args))
    for i, (one, other) in enumerate(zip(held, again, strict=True)):
        if one is not None and other is not None and not bits.bits_equal(one, other):
            num_wrong = int(bits.wrong_mask(one, other).sum())
            return f"result {i}: {num_wrong} of {one.numel()} elements came out otherwise again"
    return ""
