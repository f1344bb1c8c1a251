"""One fault, one verdict: a guarded step with a fault in it, undone afterwards."""

from __future__ import annotations

import math
from collections import Counter

from sdc_guard.bench.detectors.learned import Learned
from sdc_guard.bench.detectors.noted import NOTHING, Noted
from sdc_guard.bench.state import TrainingState
from sdc_guard.bench.workload import TrainingStep
from sdc_guard.calls import form_of
from sdc_guard.guard import Guard
from sdc_guard.inject.faults import Fault, InjectedFault, TransientFlip
from sdc_guard.records import Finding, Record

CORRUPTION = "corruption"
"""A finding names the op and calls its result corrupt: detected."""
SOFTER = "softer verdict"
"""A finding names the op, with another verdict than corruption."""
ELSEWHERE = "other op"
"""Findings, none of which names the op."""
LOUD = "exception"
"""The fault ended the step with an exception, without a finding."""
MISSED = "missed"
NOT_INJECTED = "not injected"
"""The fault changed no bit; it is not counted."""


class Trial(Record, frozen=True, kw_only=True):
    """What became of fault number ``index`` of a campaign.

    ``verdicts`` and ``causes`` count the findings that name the op.  ``why``: for all outcomes but
    ``corruption``, what the guard did instead.  ``sites``: its plans for results of that shape.
    """

    index: int
    op: str
    fault: InjectedFault | None
    num_steps: int
    outcome: str
    verdicts: dict[str, int]
    causes: dict[str, int]
    why: str
    sites: tuple[str, ...]


class Rig:
    """A warm guarded training run in which faults can be tried, each from the same state.

    Parameters and optimizer state, and what the guard has learned about its sites, are put back
    after each trial; batches go on, so that every fault meets other data.
    """

    def __init__(self, training: TrainingStep, *, warmup_steps: int, seed: int) -> None:
        self.training = training
        self.findings: list[Finding] = []
        self.guard = Guard(budget="all", on_finding=self.findings.append, evidence="none",
                           seed=seed)
        self.false_alarms: list[str] = []
        for _ in range(warmup_steps):
            self.clean_step()
        self._state = TrainingState(training)
        self._learned = Learned(self.guard)

    def clean_step(self) -> None:
        """A guarded step without a fault; whatever is found in it is a false alarm."""
        with self.guard:
            self.training.step()
        self.false_alarms += [finding.message for finding in self.findings]
        self.findings.clear()

    def try_fault(self, index: int, fault: Fault, *, max_steps: int) -> Trial:
        """A transient fault gets one step; a repeated one up to ``max_steps``, fewer where a
        finding names its op before."""
        self.findings.clear()
        before = Noted(self.guard)
        num_steps, raised = 0, ""
        limit = 1 if isinstance(fault, TransientFlip) else max_steps
        while num_steps < limit and not raised and not self._named(fault):
            num_steps += 1
            with self.guard, fault:
                try:
                    self.training.step()
                except Exception as error:
                    raised = f"{type(error).__name__}: {error}"[:300]
        trial = self._judge(index, fault, num_steps, raised, before)
        self._state.put_back(self.training)
        self._learned.put_back(self.guard)
        self.findings.clear()
        return trial

    def _named(self, fault: Fault) -> list[Finding]:
        return [finding for finding in self.findings if finding.op == str(fault.op)]

    def _judge(
        self, index: int, fault: Fault, num_steps: int, raised: str, before: Noted
    ) -> Trial:
        named = self._named(fault)
        verdicts = Counter(finding.verdict.value for finding in named)
        if not fault.injected:
            outcome = NOT_INJECTED
        elif verdicts[CORRUPTION]:
            outcome = CORRUPTION
        elif named:
            outcome = SOFTER
        elif self.findings:
            outcome = ELSEWHERE
        else:
            outcome = LOUD if raised else MISSED
        why = ""
        sites: tuple[str, ...] = ()
        if outcome != CORRUPTION:
            why = "; ".join(self._reasons(fault, raised, before))
            sites = describe_sites(self.guard, fault)
        return Trial(
            index=index, op=str(fault.op), fault=fault.injected[0] if fault.injected else None,
            num_steps=num_steps, outcome=outcome, verdicts=dict(verdicts),
            causes=dict(Counter(finding.cause.value for finding in named)), why=why, sites=sites)

    def _reasons(self, fault: Fault, raised: str, before: Noted) -> list[str]:
        """What the guard noted during the trial that may explain why no corruption was called."""
        reasons = [raised] if raised else []
        reasons += [f"{f.verdict.value} in {f.op}: {f.attribution.reason}" for f in self.findings]
        noted = before.reasons(self.guard, form_of(fault.op).packet)
        if noted == [NOTHING] and reasons:
            return reasons
        return reasons + noted


def describe_sites(guard: Guard, fault: Fault) -> tuple[str, ...]:
    """The guard's plans for the fault's op where results are as large: each relation with its
    number of clean runs, or ``refused`` where it is not used; visits and references."""
    packet = form_of(fault.op).packet
    num_elements = math.prod(fault.injected[0].shape) if fault.injected else None
    described = []
    for plan in guard._pipeline._plans.values():
        if plan.spec.packet != packet:
            continue
        if len(plan.axes.outputs) == 1 and num_elements not in (None, plan.elements):
            continue
        relations = ", ".join(
            f"{r.name} ({'refused' if r.refused else r.passes})" for r in plan.relations)
        described.append(f"{relations or 'rerun only'}; visits {plan.visits}, "
                         f"references {plan.referenced}")
    return tuple(described)
