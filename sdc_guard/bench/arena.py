"""One detector against one workload: trials of injected faults, each from the same state.

Whatever the detector, fault number ``i`` of a model strikes the same numbers: the state after the
warm-up, batch ``first + i mod NUM_STARTS`` and the same random stream.  So detectors can be
compared fault by fault, and :mod:`sdc_guard.bench.harm` can say what a missed one would have done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from sdc_guard.bench.cells import ELSEWHERE, FIRM, LOUD, MISSED, SOFT, FaultTrial
from sdc_guard.bench.detectors.base import Alarm, Detector
from sdc_guard.bench.state import TrainingState
from sdc_guard.bench.workload import Workload
from sdc_guard.errors import UsageError
from sdc_guard.inject import (
    MODELS,
    AnyFault,
    InjectedFault,
    Target,
    draw,
    op_class,
    record_calls,
    size_class,
)

WARMUP_STEPS = 40
"""Enough for every relation of a site that is visited once a step to be admitted, and for running
statistics to have seen something."""
STEPS_TO_STRIKE = 3
NUM_STARTS = 16
"""Batches that trials begin with, in turn."""


@dataclass(frozen=True)
class Prepared:
    """A workload after its warm-up, with its state and what a step of it can be struck at."""

    workload: Workload
    state: TrainingState
    target: Target
    first_step: int

    def rewind(self, index: int, seed: int) -> None:
        """The state, batch and random stream that trial ``index`` begins with."""
        self.state.put_back(self.workload)
        self.workload.step_number = self.first_step + index % NUM_STARTS
        torch.manual_seed((seed << 20) + index)


    def first_strike(self, fault: AnyFault, index: int, seed: int) -> InjectedFault | None:
        """What the fault changes first in the training that nobody watches, if it does soon."""
        self.rewind(index, seed)
        try:
            for _ in range(STEPS_TO_STRIKE):
                with fault:
                    self.workload.step()
                if fault.injected:
                    break
        except Exception:
            return fault.injected[0] if fault.injected else None
        finally:
            self.state.put_back(self.workload)
        return fault.injected[0] if fault.injected else None


def prepare(
    build: Callable[[], Workload], step: Callable[[Workload], object],
    begin: Callable[[Workload], object] = lambda workload: None, *, seed: int,
    warmup_steps: int = WARMUP_STEPS,
) -> Prepared:
    """Build a workload, run ``step`` on it ``warmup_steps`` times, and record its calls."""
    workload = build()
    begin(workload)
    for number in range(warmup_steps):
        torch.manual_seed((seed << 20) + number)
        step(workload)
    state, first_step = TrainingState(workload), workload.step_number
    calls = record_calls(workload.step)
    target = Target(calls=tuple(calls), model=workload.model, optimizer=workload.optimizer,
                    batches=workload)  # type: ignore[arg-type]  # mypy takes the field for a method
    prepared = Prepared(workload, state, target, first_step)
    prepared.rewind(0, seed)
    return prepared


class Arena:
    """A detector that has watched the warm-up of a workload, and in which faults can be tried.

    ``clean_alarms`` are those of the warm-up and of :meth:`clean_steps`: false ones.  ``num_clean``
    counts the steps that they came from.
    """

    def __init__(
        self, detector: Detector, build: Callable[[], Workload], *, seed: int,
        warmup_steps: int = WARMUP_STEPS,
    ) -> None:
        self.detector = detector
        self.seed = seed
        self.clean_alarms: list[Alarm] = []
        self.num_clean = 0
        self._prepared = prepare(build, self._clean_step, detector.begin, seed=seed,
                                 warmup_steps=warmup_steps)
        detector.mark()

    def _clean_step(self, workload: Workload) -> None:
        self.clean_alarms += self.detector.step(workload)
        self.num_clean += 1

    def clean_steps(self, num_steps: int) -> None:
        """Go on training without a fault; every alarm is counted."""
        self._prepared.rewind(0, self.seed)
        for _ in range(num_steps):
            self._clean_step(self._prepared.workload)
        self.detector.reset()

    def fault(self, model: str, index: int) -> AnyFault:
        """Fault number ``index`` of a model, fresh.

        Raises:
            UsageError: if the model can strike nothing in this training.
        """
        return draw(model, self._prepared.target, index, self.seed)

    def max_steps(self, kind: str) -> int:
        """Steps that a fault of this kind may take until it is found."""
        once = kind in ("transient", "state", "data", "checker")
        return self.detector.steps_after_one if once else self.detector.steps_of_repeated

    def try_fault(self, model: str, index: int) -> FaultTrial | None:
        """Train with the fault until a firm alarm names it, or ``max_steps`` are over; None if it
        changed no bit.

        A repeated or deterministic fault must change a number of the plain training within
        ``STEPS_TO_STRIKE`` steps: one that only strikes what a detector recomputes is none to it.
        """
        kind = MODELS[model].kind
        max_steps = self.max_steps(kind)
        workload = self._prepared.workload
        truth = None
        try:
            fault = self.fault(model, index)
        except UsageError:
            return None  # there is nothing of the kind in this training
        if kind in ("repeated", "deterministic"):
            truth = self._prepared.first_strike(self.fault(model, index), index, self.seed)
            if truth is None:
                return None
        expected = self._alarms_without(index, max_steps)
        self._prepared.rewind(index, self.seed)
        alarms: list[Alarm] = []
        raised, num_steps = "", 0
        try:
            while num_steps < max_steps and not raised:
                num_steps += 1
                found: Iterable[Alarm] = ()
                with fault:
                    try:
                        found = self.detector.step(workload)
                    except Exception as error:
                        raised = f"{type(error).__name__}: {error}"[:300]
                        found = self.detector.alarms
                alarms += _beyond(found, expected[num_steps - 1] if expected else ())
                if self._outcome(alarms, fault, "") == FIRM:
                    break
            if not fault.injected:
                return None
            return self._judged(index, kind, fault, truth or fault.injected[0], alarms, raised,
                                num_steps, sum(map(len, expected[:num_steps])))
        finally:
            self._prepared.state.put_back(workload)
            self.detector.reset()

    def _alarms_without(self, index: int, max_steps: int) -> list[tuple[Alarm, ...]]:
        """What a detector that is known to raise false alarms says in these steps on its own."""
        if not self.clean_alarms:
            return []
        self._prepared.rewind(index, self.seed)
        alarms = [self.detector.step(self._prepared.workload) for _ in range(max_steps)]
        self.detector.reset()
        return alarms

    def _judged(
        self, index: int, kind: str, fault: AnyFault, truth: InjectedFault, alarms: list[Alarm],
        raised: str, num_steps: int, num_false: int,
    ) -> FaultTrial:
        outcome = self._outcome(alarms, fault, raised)
        if kind == "checker" and outcome == FIRM and not any(
                a.firm and a.of_result for a in alarms):
            outcome = SOFT
        op = "" if fault.op is None else str(fault.op)
        why = "" if outcome == FIRM else "; ".join(
            part for part in (raised, self.detector.explain(op),
                              *(f"{a.verdict} in {a.op}: {a.detail}" for a in alarms[:3])) if part)
        return FaultTrial(
            index=index, op=op, op_class=op_class(fault.op, truth.phase),
            size=size_class(truth), outcome=outcome, num_steps=num_steps, alarms=tuple(alarms[:5]),
            num_false=num_false, fault=truth, why=why)

    def _outcome(self, alarms: list[Alarm], fault: AnyFault, raised: str) -> str:
        names = {"", str(fault.op), *(strike.inside for strike in fault.injected)}
        anywhere = fault.op is None or self.detector.names_first_difference
        meant = [a for a in alarms if anywhere or a.op in names]
        if any(a.firm for a in meant):
            return FIRM
        if meant:
            return SOFT
        if alarms:
            return ELSEWHERE
        return LOUD if raised else MISSED


def _beyond(found: Iterable[Alarm], expected: Iterable[Alarm]) -> list[Alarm]:
    """The alarms that are not among the expected ones, by operator and verdict."""
    left = Counter((a.op, a.verdict) for a in expected)
    more = []
    for alarm in found:
        key = (alarm.op, alarm.verdict)
        if left[key]:
            left[key] -= 1
        else:
            more.append(alarm)
    return more
