"""The witness on the device: when its kernels are launched, read, and asked again.

Stands between the pipeline, which investigates what is found, and ``check/device.py``, which holds
what was launched.  A device is used once its witness has seen a planted flip there.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from sdc_guard.attribute.arbitrate import undecided
from sdc_guard.bits import bits_equal
from sdc_guard.check.device import DeviceChecks, Doubt, place_in_result, present_in
from sdc_guard.check.plan import Plan
from sdc_guard.check.probe import feed
from sdc_guard.check.reference import reference_at
from sdc_guard.check.selftest import kernel_is_alive
from sdc_guard.device_bits import is_capturing
from sdc_guard.observe.mode import Watch
from sdc_guard.observe.sampling import Scheduler
from sdc_guard.records import Observation, Suspicion

Investigate = Callable[..., bool]
"""``Pipeline._investigate``."""


class DeviceWitness:
    """See the module docstring.  Not thread-safe; used under the mode's lock."""

    def __init__(
        self,
        checks: DeviceChecks,
        scheduler: Scheduler,
        investigate: Investigate,
        on_error: Callable[[str, BaseException], None],
        note_gap: Callable[[str], None],
    ) -> None:
        self.checks = checks
        self.is_dead = False
        self.withdrawn = 0
        self.reads_evaluation = False
        self._alive: dict[torch.device, bool] = {}
        self._scheduler = scheduler
        self._investigate = investigate
        self._on_error = on_error
        self._note_gap = note_gap

    def launch(self, plan: Plan, observation: Observation, watch: Watch) -> tuple[str, ...]:
        """Launch the kernels that check this call; returns the witnesses that will speak of it."""
        try:
            present = present_in(observation.held)
            if plan.spec.kernel is None or present is None:
                return ()
            if not self.checks.runs_on(present.device):
                return ()
            started_s, is_new = perf_counter(), not plan.kernel_runs
            run = self.checks.run_for(plan, observation.call, observation.held)
            if run is None or not self._is_alive(present.device):
                return ()
            if self.checks.is_full:
                self.settle()
            origin = watch.origin()
            watch.origin = lambda: origin  # the frames are gone when the verdict is read
            witnesses = self.checks.launch(plan, observation, run, watch)
            if is_new and not self.checks.is_interpreted:
                self._scheduler.excuse(perf_counter() - started_s)
            return witnesses
        except Exception as error:
            self._on_error(f"while launching kernels that check {observation.call.form.name}",
                           error)
            return ()

    def before_write(self, written: list[Tensor], says_all: bool) -> None:
        """An operator is about to write to these tensors; without ``says_all``, perhaps, and
        perhaps to others."""
        if says_all:
            self.checks.memory.forget(written)
        else:
            self.checks.memory.clear()
        if self.checks.has_pending and self.checks.is_about(written):
            self.settle()

    def step_over(self) -> None:
        """Read what was launched, and remember nothing of the weights: they change now."""
        self.checks.memory.clear()
        self.settle()

    def settle(self) -> None:
        """Read what was launched and investigate what is doubted."""
        if not self.checks.has_pending or is_capturing():
            return
        # Outside of operators too: no mode of the user's or our own sees what is done here.
        with torch._C._DisableTorchDispatch(), torch.no_grad():
            self._read()

    def _read(self) -> None:
        try:
            doubts, costs = self.checks.read()
        except Exception as error:  # a fault of the device, or no memory left
            self.checks.drop()
            self._on_error("while reading the verdicts of kernels", error)
            return
        for watch, seconds in costs:
            if seconds:
                self._scheduler.charge_device(watch.tally, seconds)
        for doubt in doubts:
            self.reads_evaluation = not doubt.pending.with_grad
            try:
                self._examine(doubt)
            except Exception as error:
                name = doubt.pending.observation.call.form.name
                self._on_error(f"while examining what a kernel doubts in {name}", error)
                self._leave_open(doubt, "a kernel puts the result outside its bound, and looking "
                                 f"closer failed: {type(error).__name__}: {error}")
            finally:
                self.reads_evaluation = False

    def _examine(self, doubt: Doubt) -> None:
        pending = doubt.pending
        plan, observation, watch = pending.plan, pending.observation, pending.tag
        call, held = observation.call, observation.held
        place = place_in_result(doubt)
        if doubt.unchanged:
            suspicions = reference_at(plan, call, held, doubt.check.output, place)
            for suspicion in suspicions or ():
                if self._investigate(plan, observation, suspicion, None, watch):
                    return
            if not self.checks.repeats(doubt):
                self.withdrawn += 1
                self._note_gap(f"{call.form.name}: a kernel doubted a result once and not again; "
                               + ("the call is too large for the host's reference"
                                  if suspicions is None
                                  else "the host's reference found it right"))
                return
            reason = ("a kernel puts the result outside its bound, twice, and the host's "
                      "reference inside")
            if suspicions is None:
                if _comes_out_otherwise(doubt) and self._investigate(
                        plan, observation, _as_suspicion(doubt, place), None, watch):
                    return
                reason = ("a kernel puts the result outside its bound, twice; the call is too "
                          "large for the host's reference")
        else:
            reason = ("a kernel puts the result outside its bound; its operands have been "
                      "written to since, so nothing else could judge it")
        self._leave_open(doubt, reason)

    def _leave_open(self, doubt: Doubt, reason: str) -> None:
        """Keep a doubt as a finding that nothing could decide."""
        pending = doubt.pending
        suspicion = _as_suspicion(doubt, place_in_result(doubt))
        try:
            self._investigate(pending.plan, pending.observation, suspicion, None, pending.tag,
                              undecided(suspicion, reason))
        except Exception as error:
            name = pending.observation.call.form.name
            self._on_error(f"while keeping what a kernel doubts in {name}", error)

    def _is_alive(self, device: torch.device) -> bool:
        if device not in self._alive:
            self._learn(device)
            self._alive[device] = alive = self._is_seen_alive(device)
            if not alive:
                self.is_dead = True
                self._note_gap(f"the kernels on {device} missed a planted flip, doubted a right "
                               "result, or failed: they are not used there")
        return self._alive[device]

    def _is_seen_alive(self, device: torch.device) -> bool:
        try:
            return kernel_is_alive(device)
        except Exception as error:  # no C compiler, say: every launch would fail in the same way
            self._on_error(f"while trying the kernels on {device}", error)
            return False

    def _learn(self, device: torch.device) -> None:
        """Ask the device how it adds up products; bounds are those of the literature otherwise."""
        try:
            if device.type == "cuda":
                feed(device)
        except Exception as error:
            self._on_error(f"while asking {device} how it adds up products", error)


def _comes_out_otherwise(doubt: Doubt) -> bool:
    """Does the identical call give other bits?  That needs no reference to tell."""
    pending, output = doubt.pending, doubt.check.output
    if not pending.plan.replayable:
        return False
    again = pending.observation.call.run_identical()[output]
    return not bits_equal(again, pending.observation.held[output])


def _as_suspicion(doubt: Doubt, place: tuple[int, ...] | None) -> Suspicion:
    """What the record says, where no other witness could name the elements."""
    held = doubt.pending.observation.held[doubt.check.output]
    wrong = np.zeros(tuple(held.shape), dtype=bool)
    if place is None:
        wrong[...] = True
    elif doubt.check.unit == "row":
        wrong[place[:-1]] = True
    elif doubt.check.unit == "column":
        wrong.swapaxes(-1, -2)[(*place[:-2], place[-1])] = True
    else:
        wrong[place] = True
    return Suspicion(
        witness=doubt.check.witness,
        relation="",
        output=doubt.check.output,
        wrong=wrong,
        expected=None,
        limit=None,
        exceeds="proof",
        formula=f"{doubt.check.formula}: {doubt.worst_share:.3g} times the limit",
    )
