"""Counters per op: what was seen, what was checked, what was not and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field

from sdc_guard.records import OpCoverage

NUM_MEASURED = 64
"""So many first calls of each op are measured exactly; the elements and FLOPs of later calls that
are not checked are counted at the mean of the measured ones."""


@dataclass(slots=True)
class Tally:
    """Counters of one op packet.  ``rate`` is the share of calls to look at under a budget and
    ``countdown`` the calls to let pass until then; ``site_visits`` has for each site its visits and
    how often it came when the op was due."""

    op: str
    reduction: bool = False
    calls: int = 0
    calls_checked: int = 0
    elements_checked: int = 0
    flops_checked: int = 0
    num_measured: int = 0
    elements_measured: int = 0
    flops_measured: int = 0
    witnesses: Counter[str] = field(default_factory=Counter)
    not_tested: Counter[str] = field(default_factory=Counter)
    rate: float = 1.0
    countdown: int = 0
    armed_for: int = 0
    cost_s: float = 2e-4
    calls_at_retune: int = 0
    site_visits: dict[Hashable, tuple[int, int]] = field(default_factory=dict)

    def measure(self, elements: int, flops: int) -> None:
        self.num_measured += 1
        self.elements_measured += elements
        self.flops_measured += flops

    def _scaled(self, measured: int) -> int:
        if not self.num_measured:
            return 0
        return round(measured / self.num_measured * self.calls)

    def coverage(self) -> OpCoverage:
        checked = self.calls_checked
        exact = self.num_measured >= self.calls
        return OpCoverage(
            op=self.op,
            calls=self.calls,
            calls_checked=checked,
            elements=self.elements_measured
            if exact
            else max(self._scaled(self.elements_measured), self.elements_checked),
            elements_checked=self.elements_checked,
            flops=self.flops_measured
            if exact
            else max(self._scaled(self.flops_measured), self.flops_checked),
            flops_checked=self.flops_checked,
            witnesses=dict(self.witnesses),
            not_tested={**self.not_tested, **self._sampled_out()},
        )

    def _sampled_out(self) -> dict[str, int]:
        left = self.calls - self.calls_checked - sum(self.not_tested.values())
        return {"not sampled (budget)": left} if left > 0 else {}
