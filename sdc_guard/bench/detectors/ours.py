"""sdc_guard itself, at one of its budgets."""

from __future__ import annotations

from sdc_guard.bench.detectors.base import Alarm, Detector
from sdc_guard.bench.detectors.learned import Learned, write_off
from sdc_guard.bench.detectors.noted import Noted
from sdc_guard.bench.workload import Workload
from sdc_guard.errors import UsageError
from sdc_guard.guard import Guard
from sdc_guard.records import Cause, Coverage, Finding, Verdict

SHARES = (0.005, 0.01, 0.02, 0.05)
"""Budgets, as shares of the run time, that are measured beside ``"all"``."""
STEPS_AT_A_SHARE, STEPS_OF_ALL = 300, 100
"""A repeated fault that is not found by then counts as missed.  With ``"all"`` each call is
replayed in each step, in another way each time, and meets its reference in a share of them."""


STEPS_TO_KNOW = 20
"""Steps in which a guard that will check a share checks everything, so that it knows its sites."""


class GuardDetector(Detector):
    """``with guard: workload.step()``; an alarm for each finding, firm for ``corruption``.

    ``budget`` is ``"all"`` or a share of the run time.  :meth:`reset` puts back what the guard has
    learned about its relations; at a share, the scheduler and the visits of each site go on, as
    they do in a run.

    What is measured at a share is a run that has been under way for long: in its first
    ``STEPS_TO_KNOW`` steps the guard checks everything and so learns all sites, and at
    :meth:`mark` what that has cost is written off.  At the start of a real run a share pays for its
    learning first and finds less.
    """

    def __init__(self, budget: float | str, *, seed: int = 0) -> None:
        self.budget = budget
        self.seed = seed
        self.exhaustive = budget == "all"
        self.steps_to_learn, self.steps_per_turn = (100, 1) if self.exhaustive else (80, 20)
        self.steps_of_repeated = STEPS_OF_ALL if self.exhaustive else STEPS_AT_A_SHARE
        amount = "all" if isinstance(budget, str) else f"{100 * budget:g} %"
        self.name = f"sdc_guard {amount}"
        self.description = (
            "every op call checked" if self.exhaustive
            else f"{amount} of the run time for checks, in a run that knows its sites")
        self._guard: Guard | None = None
        self._learned: Learned | None = None
        self._before: Noted | None = None
        self._num_steps = 0

    @property
    def guard(self) -> Guard:
        """The guard of this run.

        Raises:
            UsageError: before :meth:`begin`.
        """
        if self._guard is None:
            raise UsageError(f"{self.name}: no guard yet; call begin(workload) first")
        return self._guard

    @property
    def coverage(self) -> Coverage:
        """What the guard has checked since :meth:`begin`, and what not."""
        return self.guard.coverage

    def begin(self, workload: Workload) -> None:
        self._guard = Guard(budget="all", on_finding=self._take, evidence="none", seed=self.seed)
        self._learned = None
        self._num_steps = 0

    def step(self, workload: Workload) -> tuple[Alarm, ...]:
        self.alarms = ()
        if self._num_steps == STEPS_TO_KNOW:
            self.guard.budget = self.guard._scheduler.budget = self.budget
        self._num_steps += 1
        with self.guard:
            workload.step()
        return self.alarms

    @property
    def num_checks(self) -> int:  # type: ignore[override]
        """Witnesses that have looked at a call since :meth:`begin`."""
        return sum(sum(op.witnesses.values()) for op in self.coverage.ops)

    def watching(self) -> Guard:
        return self.guard

    def mark(self) -> None:
        if not self.exhaustive:
            write_off(self.guard)
        self._learned = Learned(self.guard, visits_go_on=not self.exhaustive)
        self._before = Noted(self.guard)

    def reset(self) -> None:
        if self._learned is None:
            raise UsageError(f"{self.name}: nothing to return to; call mark() after the warm-up")
        self._learned.put_back(self.guard)
        self._before = Noted(self.guard)

    def explain(self, op: str) -> str:
        if self._before is None:
            return ""
        return "; ".join(self._before.reasons(self.guard, op.rpartition(".")[0]))

    def end(self) -> None:
        self._guard = self._learned = self._before = None

    def _take(self, finding: Finding) -> None:
        cause = "" if finding.cause is Cause.UNKNOWN else finding.cause.value
        self.alarms += (Alarm(op=finding.op, verdict=finding.verdict.value,
                              firm=finding.verdict is Verdict.CORRUPTION, cause=cause,
                              detail=finding.message, of_result=finding.held_is_wrong),)
