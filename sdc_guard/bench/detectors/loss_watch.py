"""Watch loss and gradient norm for NaN, Inf and spikes, and run an odd step again."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdc_guard.bench.detectors.base import Alarm, Detector
from sdc_guard.bench.detectors.images import BeforePass, gradients
from sdc_guard.bench.detectors.stacking import unseen
from sdc_guard.bench.workload import Batch, Workload

SPIKE_FACTOR = 10.0
NUM_SAMPLES = 100

Numbers = tuple[float, float]
"""Loss and gradient norm of one forward and backward pass."""


class LossWatch(Detector):
    """Rejects a loss that is NaN, infinite or at least 10 times the largest of the first ones, and
    a gradient norm that is NaN or infinite; then runs the pass again from the same state.

    It follows NVIDIA Megatron-LM's rerun state machine
    (``megatron/core/rerun_state_machine.py``, experimental): the rejected number comes out
    otherwise: *possible transient error*; the same again: possibly a persistent error or the
    application's.  The first losses are those of the warm-up, up to 100.  A spike that comes again
    does not stop the job there, so it is no firm alarm here.  Left out: the third run, from a
    checkpoint on another device, which would tell the last two apart; collectives; the optimizer,
    which it does not watch either; and the stop of the job: training goes on with the second run's
    gradients.
    """

    name = "NaN and loss-spike watch"
    description = ("loss NaN, Inf or 10 x the first ones, gradient norm NaN or Inf; then the pass "
                   "again (Megatron-LM, rerun state machine)")

    steps_after_one = 5
    steps_of_repeated = 50
    steps_per_turn = 5

    def __init__(self) -> None:
        self._largest = 0.0
        self._num_samples = 0
        self._sampling = True
        self._marked = (0.0, 0, True)

    def begin(self, workload: Workload) -> None:
        self._largest, self._num_samples, self._sampling = self._marked = (0.0, 0, True)

    def step(self, workload: Workload) -> tuple[Alarm, ...]:
        self.alarms = ()
        batch = workload.next_batch()
        before = BeforePass(workload)
        found = _numbers(workload, workload.forward_backward(batch))
        self.num_checks += len(found)
        rejected = self._rejected(found)
        if rejected:
            self.alarms = (self._judged(workload, batch, before, found, *rejected),)
        elif self._sampling:
            self._largest = max(self._largest, abs(found[0]))
            self._num_samples += 1
            self._sampling = self._num_samples < NUM_SAMPLES
        workload.update()
        return self.alarms

    def mark(self) -> None:
        self._sampling = False
        self._marked = (self._largest, self._num_samples, self._sampling)

    def reset(self) -> None:
        self._largest, self._num_samples, self._sampling = self._marked

    def _rejected(self, found: Numbers) -> tuple[str, int] | None:
        """What is wrong, and with which of the numbers."""
        for i, what in enumerate(("loss", "gradient norm")):
            if math.isnan(found[i]):
                return f"{what} is NaN", i
            if math.isinf(found[i]):
                return f"{what} is Inf", i
        if not self._sampling and abs(found[0]) >= SPIKE_FACTOR * self._largest:
            return f"spiky loss: {SPIKE_FACTOR:g} x {self._largest:.6g} or more", 0
        return None

    def _judged(
        self, workload: Workload, batch: Batch, before: BeforePass, found: Numbers, why: str,
        which: int,
    ) -> Alarm:
        before.put_back()
        with unseen(dispatching=True):
            loss = workload.forward_backward(batch)
        first, again = found[which], _numbers(workload, loss)[which]
        is_same = first == again or (math.isnan(first) and math.isnan(again))
        verdict = "possible persistent or application error" if is_same else (
            "possible transient error")
        return Alarm(op="", verdict=verdict, firm=not (is_same and why.startswith("spiky")),
                     cause="" if is_same else "transient",
                     detail=f"{why}; {first:.9g}, run again {again:.9g}")


def _numbers(workload: Workload, loss: Tensor) -> Numbers:
    with unseen():
        norm = torch.nn.utils.get_total_norm([g for _, g in gradients(workload.model)])
        return float(loss), float(norm)
