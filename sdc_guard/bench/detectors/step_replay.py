"""Run the forward and backward pass of a step again and compare by hash."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from sdc_guard.bench.detectors.base import Alarm, Detector
from sdc_guard.bench.detectors.images import BeforePass, RandomState, gradients
from sdc_guard.bench.detectors.stacking import unseen
from sdc_guard.bench.workload import Workload
from sdc_guard.errors import UsageError


class StepReplay(Detector):
    """On a checked step: keep random streams and buffers, run forward and backward, go back, run
    again; loss, gradients, buffers and random streams must have the same hashes before the
    optimizer steps.

    It follows torchtitan's ``SDCReplayer`` (``torchtitan/observability/sdc_replayer.py``,
    August 2026) with one replay.  The hash is the one named there, ``torch.hash_tensor``, an XOR of
    the bits.  The second run's results stay.  Left out: the raise on every rank, caller-owned
    scalars, and its schedule: it checks the first step after each start, or each step; here it is
    every ``interval``-th step of the run, and :meth:`reset` does not turn that count back.  The
    optimizer is not covered there either.

    Raises:
        UsageError: at construction if ``interval`` is below 1.
    """

    def __init__(self, interval: int = 1) -> None:
        if interval < 1:
            raise UsageError(f"interval={interval}: must be at least 1, which checks every step")
        self.interval = interval
        self.exhaustive = interval == 1
        self.steps_of_repeated = 3 * interval
        self.steps_per_turn = interval
        self.name = "step replay" if interval == 1 else f"step replay every {interval}"
        often = "each step" if interval == 1 else f"every {interval}th step"
        self.description = (f"forward and backward of {often} again, hashes compared (torchtitan, "
                            "SDCReplayer)")
        self._num_steps = 0

    def begin(self, workload: Workload) -> None:
        self._num_steps = 0

    def step(self, workload: Workload) -> tuple[Alarm, ...]:
        self.alarms = ()
        is_checked = self._num_steps % self.interval == 0
        self._num_steps += 1
        batch = workload.next_batch()
        if not is_checked:
            workload.forward_backward(batch)
            workload.update()
            return self.alarms
        self.num_checks += 1
        before = BeforePass(workload)
        loss = workload.forward_backward(batch)
        first = _Signature(workload, loss)
        before.put_back()
        with unseen(dispatching=True):
            loss = workload.forward_backward(batch)
        different = first.differences(_Signature(workload, loss))
        if different:
            self.alarms = (Alarm(
                op="", verdict="replay mismatch", firm=True, cause="",
                detail=f"{different[0]} has another hash in the replay, the first of "
                       f"{len(different)}"),)
        workload.update()
        return self.alarms


class _Signature:
    """Hashes of what a pass has left, by name."""

    def __init__(self, workload: Workload, loss: Tensor) -> None:
        with unseen():
            tensors = [("loss", loss), *gradients(workload.model), *workload.model.named_buffers()]
            self._hashes = {name: hash_of(tensor) for name, tensor in tensors}
            self._random = RandomState(workload.device)

    def differences(self, other: _Signature) -> list[str]:
        names = list(dict.fromkeys([*self._hashes, *other._hashes]))
        found = [n for n in names if self._hashes.get(n) != other._hashes.get(n)]
        if self._random.differs_from(other._random):
            found.append("the random state")
        return found


def hash_of(tensor: Tensor) -> int:
    """``torch.hash_tensor`` of a tensor, 0 for an empty one; of complex numbers by their parts."""
    if tensor.numel() == 0:
        return 0
    tensor = tensor.detach()
    parts = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return cast(int, torch.hash_tensor(parts).item())
