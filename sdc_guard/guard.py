"""The guard: observes every operator call on this thread and decides what a finding does.

``Guard`` is a context manager for any code; :func:`sdc_guard.wrap` puts one around a model for
good.  All numerical work is in the rooms below; what a finding does is in ``policy.py``.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from time import perf_counter
from weakref import WeakSet

import torch
from torch import nn
from torch.optim import Optimizer

from sdc_guard import active, limits, ranks
from sdc_guard.accounting import UnseenKernels, coverage_of, not_seen, not_undoable, tell_dead
from sdc_guard.check.selftest import dead_witnesses
from sdc_guard.evidence.bundle import BundleWriter
from sdc_guard.evidence.environment import collect_environment
from sdc_guard.evidence.eventlog import EventLog
from sdc_guard.gate import Gate, GateCalls
from sdc_guard.observe.mode import GuardMode
from sdc_guard.observe.provenance import Provenance
from sdc_guard.observe.sampling import Scheduler, parse_budget
from sdc_guard.observe.sites import conditions
from sdc_guard.observe.stack import install, remove
from sdc_guard.observe.tracing.tracer import tracer_of
from sdc_guard.pipeline import Pipeline
from sdc_guard.policy import OnFinding, Policy, parse_on_finding
from sdc_guard.progress import Progress
from sdc_guard.records import Coverage, Finding

log = logging.getLogger("sdc_guard")


def active_guard() -> Guard | None:
    """The guard that is active on this thread, or None."""
    found = active.watcher()
    return found if isinstance(found, Guard) else None


class Guard:
    """Checks operator calls while it is entered; may be entered again and again.

    Args:
        budget: share of run time that checking may cost (default 0.02), 0, or ``"all"``, which
            checks every call.
        on_finding: ``"record"``, ``"warn"``, ``"raise"`` (:class:`CorruptionDetected`), ``"skip"``
            (the optimizer step of a corrupt step is not applied) or a callable that gets each
            finding.  ``raise`` and ``skip`` act on the verdicts in ``act_on``.
        out: folder for the event log and evidence bundles; None keeps events in memory.
        optimizer: restricts the step gate to this optimizer, or these; by default every optimizer
            that owns a parameter of the model, or any optimizer where there is no model.
        seed: of the guard's own random generator.
        memory_budget: bytes for copies and retained inputs; default 256 MB or 2 % of the device.
        evidence: ``"full"``, ``"stats"`` (no user data on disk) or ``"none"``.
        act_on: verdicts that ``raise`` and ``skip`` act on.
        kernels: ``"auto"`` checks what is on a CUDA device by Triton kernels there, ``"always"``
            on a CPU too, in Triton's interpreter (slow, for tests), ``"never"`` nowhere.
        witnesses: use these alone, of ``replay``, ``reference``, ``checksum``, ``residual``,
            ``invariant`` and ``kernel``; None: all.  ``("kernel",)`` with ``budget="all"`` checks
            every call that a kernel takes, and no other.
        trace: a file for ``sdc-guard hunt --trace``: each distinct call, without its values.

    A ``Guard`` inside a ``Guard`` on one thread joins the outer one.  A thread is watched while the
    guard is entered on it, and from the first ``optimizer.step()`` that it makes; ops of any other
    thread, and of forked processes, are not.

    Raises:
        UsageError: for an argument out of its range.
    """

    def __init__(
        self,
        *,
        budget: float | str = 0.02,
        on_finding: OnFinding = "record",
        out: str | Path | None = None,
        optimizer: Optimizer | list[Optimizer] | tuple[Optimizer, ...] | None = None,
        seed: int = 0,
        memory_budget: int | None = None,
        evidence: str = "full",
        act_on: tuple[str, ...] = ("corruption",),
        model: nn.Module | None = None,
        kernels: str = "auto",
        witnesses: tuple[str, ...] | None = None,
        trace: object = None,
    ) -> None:
        self.budget = parse_budget(budget)
        self._policy = Policy(on_finding, act_on)
        self.memory_budget_bytes = limits.parse_memory_budget(memory_budget, model)
        self.out = limits.parse_out(out)
        self.seed = limits.parse_seed(seed)
        self._scheduler = Scheduler(self.budget, self.seed)
        self._provenance = Provenance()
        if model is not None:
            self._provenance.name_modules(model)
        dead = dead_witnesses()
        self._events = EventLog(self.out, ranks.rank(), seed=seed,
                                environment=collect_environment(), budget=self.budget)
        self._pipeline = Pipeline(
            self._scheduler, self._events,
            BundleWriter(self.out / "bundles" if self.out is not None else None, level=evidence),
            dead, self.memory_budget_bytes, limits.parse_kernels(kernels),
            limits.parse_witnesses(witnesses))
        self._mode = GuardMode(
            self._scheduler, self._provenance, self._pipeline.check, self._settle,
            self._pipeline.find_plan, self._pipeline.on_error, self.memory_budget_bytes)
        self._mode.is_idle_for = self._pipeline.is_idle_for
        if self._pipeline.device.checks.is_usable:
            self._mode.before_write = self._pipeline.device.before_write
        self._gate = Gate(self._gate_calls(), model, limits.parse_optimizers(optimizer),
                          self.memory_budget_bytes)
        self._unseen = UnseenKernels(self._mode.begin_step_if_due)
        self._tracer = tracer_of(trace)
        self._mode.owns_buffer = self._gate.owns_buffer
        self._mode.settle_step = self._gate.settle
        self._progress = Progress(self._events, self._mode, self._pipeline)
        self._stepped: WeakSet[Optimizer] = WeakSet()
        self._in_step = self._is_over = self._inside_watched = False
        self._num_regions = self._steps_skipped = self._depth = 0
        self._num_unwatched: Counter[str] = Counter()
        self._watching = True
        self._inside_s = self._spent_before_s = self._step_s = 0.0
        self._step_started_s = perf_counter()
        self._outer: Guard | None = None
        tell_dead(dead)

    @property
    def findings(self) -> list[Finding]:
        """What was found so far; repeats of one kind are counted in its last entry."""
        watching = self._outer or self
        with watching._mode.locked():
            watching._pipeline.device.settle()
        return list(watching._pipeline.findings)

    @property
    def coverage(self) -> Coverage:
        """Calls, elements and FLOPs checked and not, per op, with reasons."""
        if self._outer is not None:
            return self._outer.coverage
        return coverage_of(
            self._pipeline, self._mode, self._unseen, unwatched=self._num_unwatched,
            steps_skipped=self._steps_skipped, num_log_failures=self._events.failures.count)

    def summary(self) -> str:
        """Verdicts, coverage and overhead as text."""
        from sdc_guard.render.console import render_summary

        return render_summary(self.findings, self.coverage)

    def __enter__(self) -> Guard:
        outer = active_guard()
        if outer is None or outer is self:
            self.attach()
        else:
            self._outer = outer
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if active_guard() is not self:
            return
        if error is not None and self._depth == 1:
            self.note_exception(error)
        if active.leave():
            remove(self._mode)
        self._depth -= 1
        if self._depth:
            return
        self.detach()
        if error is None and self._policy.corrupt and self.on_finding == "raise":
            self._policy.raise_corrupt()

    def attach(self) -> None:
        """Watch this thread until :meth:`detach`, or as many exits as there were entries."""
        active.enter(self)
        self._depth += 1
        self._outer = None
        self._mode.active = True
        self._scheduler.measure_floor(self._mode.measure_floor_s)
        self._tracer.open()
        if self._watching:
            install(self._mode)
        if self._depth > 1:
            return
        self._mode.conditions = conditions()
        if not self._in_step:
            self._mode.rearm(self._new_step)
        self._gate.open()
        self._unseen.open()
        self._scheduler.start()
        self._step_started_s = perf_counter()

    def detach(self) -> None:
        """Stop watching, leave nothing on the thread, and write the summary to the event log."""
        if not active.is_running(self):
            return
        self._take_last()
        self._scheduler.stop()
        self._rest()
        self._progress.close()
        self._events.write("summary", coverage=self.coverage, findings=len(self.findings))
        self._policy.tell(hold=False)

    def leave_to_parent(self) -> None:
        """Let every call through in this forked child; the parent goes on guarding."""
        self._rest()
        self._events.close()

    def _rest(self) -> None:
        self._tracer.close()
        self._gate.close()
        remove(self._mode)
        self._mode.active = False
        self._unseen.close()
        self._depth = 0
        active.stop(self)

    def note_exception(self, error: BaseException) -> None:
        """Write to the event log that the guarded code raised."""
        self._events.write("exception", step=self._pipeline.step,
                           error=f"{type(error).__name__}: {error}"[:500])

    def note_gap(self, gap: str) -> None:
        """Say in coverage, once in the event log and once in the log, what is not covered."""
        if gap not in self._pipeline.gaps:
            self._pipeline.gaps.add(gap)
            self._events.write("not_covered", reason=gap, step=self._pipeline.step)
            log.warning("sdc_guard: %s", gap)

    def note_loss(self, loss: float) -> None:
        """Tell the loss of the step at hand, for the timeline of the report; without this it is
        the number that backward begins from."""
        (self._outer or self)._progress.loss.give(loss)

    def label(self, **labels: str) -> None:
        """Write these into every event from now on (``test="test_x"``); empty ones no more."""
        kept = {**self._events.labels, **labels}
        self._events.labels = {name: text for name, text in kept.items() if text}

    @property
    def on_finding(self) -> OnFinding:
        """The policy; may be set at any time."""
        return self._policy.on_finding

    @on_finding.setter
    def on_finding(self, on_finding: OnFinding) -> None:
        self._policy.on_finding = parse_on_finding(on_finding)

    def _settle(self) -> None:
        """Apply the policy to new findings; runs outside of the guard's own error handling."""
        pipeline = self._pipeline
        if not pipeline.pending and not pipeline.evaluated:
            return
        (pending, evaluated), pipeline.pending = (pipeline.pending, pipeline.evaluated), []
        pipeline.evaluated = []
        counts = self._policy.take(evaluated)
        # Between steps, input is prepared with gradients on and models are evaluated without.
        prepares = self._is_over and torch.is_grad_enabled()
        counts = self._policy.take(pending, prepares=prepares) or counts
        inside = self._provenance.in_optimizer
        if counts and not inside and self.on_finding == "raise" and ranks.world_size() == 1:
            if self._in_step:  # else the image of the buffers is of the step before
                self._gate.restore_buffers()
            self._policy.raise_corrupt()
        self._policy.tell(hold=inside)

    def _gate_calls(self) -> GateCalls:
        return GateCalls(
            is_active_here=lambda: active_guard() is self,
            is_corrupt=lambda: bool(self._policy.corrupt),
            protects=lambda: self._policy.protects and self.budget != 0.0,
            wants_inside=lambda: self._scheduler.draw_inside(self._step_s, self._inside_s),
            step_begins=self._step_begins,
            entering=self._entering,
            leaving=self._leaving,
            rejected=self._rejected,
            step_done=self._step_done,
            given_up=self._given_up,
            not_undoable=lambda num_bytes: self.note_gap(
                not_undoable(num_bytes, self.memory_budget_bytes)),
            on_error=self._pipeline.on_error,
        )

    def _entering(self, watched: bool) -> None:
        self._provenance.in_optimizer = True
        self._spent_before_s = self._scheduler.spent_s
        self._inside_watched = watched
        self._num_unwatched["optimizer steps"] += not watched
        if not watched:
            remove(self._mode)

    def _take_last(self) -> None:
        """What is still on a device when watching ends; told once all is put back."""
        with self._mode.locked():
            self._pipeline.device.step_over()
        self._policy.take(self._pipeline.pending + self._pipeline.evaluated)
        self._pipeline.pending, self._pipeline.evaluated = [], []

    def _read_kernels(self) -> None:
        """The verdicts that are still on a device, before anything that they are about changes."""
        with self._mode.locked():
            self._pipeline.device.step_over()
        self._settle()

    def _leaving(self) -> None:
        self._read_kernels()
        self._provenance.in_optimizer = False
        if self._inside_watched:
            self._inside_s = max(self._scheduler.spent_s - self._spent_before_s, 1e-6)
        if self._watching:
            self._install()

    def _install(self) -> None:
        if not self._mode.is_dispatching:
            install(self._mode)

    def _rejected(self, where: str) -> None:
        kind = "step_not_undone" if where == "applied" else "step_skipped"
        self._steps_skipped += kind == "step_skipped"
        self._events.write(kind, step=self._pipeline.step, where=where,
                           findings=[f.message for f in self._policy.corrupt])
        if self.on_finding == "raise":
            self._policy.raise_corrupt()

    def _new_step(self) -> None:
        """First differentiable op after an optimizer step."""
        self._in_step = True
        with self._mode.locked():
            self._pipeline.device.step_over()
        self._mode.conditions = conditions()
        self._stepped.clear()
        if self._is_over:
            self._is_over = False
            if self.on_finding != "raise":  # which the next operator does
                self._policy.take(self._pipeline.evaluated)
                self._pipeline.evaluated = []
            self._policy.begin_step()
            self._provenance.forget_step()
        self._gate.begin_step()

    def _step_begins(self, optimizer: Optimizer, takes_closure: bool) -> None:
        """A step whose forward was not seen begins here: it will run in the closure, or it ran
        unwatched (then this optimizer has stepped since the last one that was seen)."""
        self._read_kernels()
        if self._mode.on_new_step is not None:
            if takes_closure:
                self._mode.on_new_step = None
                self._new_step()
            elif optimizer in self._stepped:
                self._policy.begin_step()
                self._gate.begin_step()

    def _step_done(self, optimizer: Optimizer) -> None:
        self._pipeline.step += 1
        self._report_unseen(optimizer)
        self._in_step = False
        self._is_over = True
        now_s = perf_counter()
        self._step_s, self._step_started_s = now_s - self._step_started_s, now_s
        self._unseen.open()
        self._mode.rearm(self._new_step)
        scheduler = self._scheduler
        scheduler.note_step(self._step_s, self._watching)
        if scheduler.due_for_retune():
            scheduler.retune(self._mode.tallies.values())
        # Told from within an op, the next step has begun, and is watched.
        self._watching = self._mode.is_dispatching or scheduler.draw_duty()
        self._num_unwatched["steps"] += not self._watching
        self._progress.step_done()
        if self._watching:
            self._install()
        else:
            remove(self._mode)
            if ranks.world_size() > 1:  # another rank may find the step corrupt
                self._gate.begin_step()
        self._policy.tell(hold=False)

    def _given_up(self, optimizer: Optimizer) -> None:
        """What was found in a step that ended in an exception does not count against the next."""
        self._policy.forget()
        self._step_done(optimizer)

    def _report_unseen(self, optimizer: Optimizer) -> None:
        """Say it when an optimizer steps and no forward, or no backward, was seen since its last
        step.  (Several optimizers may step after one backward.)"""
        mode, again = self._mode, not self._in_step and (
            not self._is_over or optimizer in self._stepped)
        ran_compiled = self._unseen.num_regions != self._num_regions
        alone = self._in_step and not mode.num_backward_ops
        if (again or alone) and self._watching and not ran_compiled:
            self.note_gap(not_seen("forward" if again else "backward"))
        self._stepped.add(optimizer)
        self._num_regions = self._unseen.num_regions
        mode.num_backward_ops = 0
