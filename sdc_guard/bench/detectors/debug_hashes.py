"""Two runs of a step under torch's debug mode, tensor hashes compared call by call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sdc_guard.bench.detectors.base import Alarm, Detector
from sdc_guard.bench.detectors.images import BeforeStep
from sdc_guard.bench.detectors.stacking import at_bottom, unseen
from sdc_guard.bench.workload import Workload
from sdc_guard.errors import UsageError

HASHES = ["norm", "hash_tensor"]


class DebugHashes(Detector):
    """Runs each step twice from the same state under ``torch.utils._debug_mode.DebugMode`` and
    compares the logs; the first call whose hash differs is named.

    It follows PyTorch's own description of that mode (docstrings and DebugMode tutorial, torch
    2.10 and later): ``log_tensor_hashes`` with both of its hashes, the L1 norm and the XOR of
    ``torch.hash_tensor``, then ``check_hash_mismatches``.  The whole step is run, the optimizer
    included, and the second run's results stay.  Left out: hashes of the operands, and Triton
    kernels' logs.  What the mode does not hash is not seen: ops that return nothing, as most
    ``_foreach`` ops in place.  The L1 norm of a tensor with a NaN differs from itself, so a NaN is
    always a mismatch, also where both runs made it.

    Raises:
        UsageError: at :meth:`begin` if this torch has no such mode.
    """

    name = "debug-mode hashes"
    description = ("the step twice under torch's DebugMode, tensor hashes of all calls compared "
                   "(PyTorch, log_tensor_hashes)")

    names_first_difference = True

    def __init__(self) -> None:
        self._debug_mode: Any = None

    def begin(self, workload: Workload) -> None:
        self._debug_mode = debug_mode()

    def step(self, workload: Workload) -> tuple[Alarm, ...]:
        self.alarms = ()
        before, number = BeforeStep(workload), workload.step_number
        mode, again = self._debug_mode(), self._debug_mode()
        with self._debug_mode.log_tensor_hashes(hash_fn=HASHES):
            with at_bottom(mode):
                workload.step()
            before.put_back()
            workload.step_number = number
            with unseen(dispatching=True), at_bottom(again):
                workload.step()
        self.num_checks += 1
        self.alarms = self._compared(mode.logs, again.logs)
        return self.alarms

    def _compared(self, logs: Sequence[Any], again: Sequence[Any]) -> tuple[Alarm, ...]:
        check = self._debug_mode.check_hash_mismatches
        try:
            num_different = len(check(logs, again))
        except ValueError as error:
            return (Alarm(op="", verdict="logs differ", firm=True, cause="", detail=str(error)),)
        if not num_different:
            return ()
        first = next(one for one, other in zip(logs, again, strict=True) if check([one], [other]))
        return (Alarm(op=str(first.op), verdict="hash mismatch", firm=True, cause="",
                      detail=f"the first of {num_different} hashes that differ: {first}"[:300]),)


def debug_mode() -> Any:
    """The class ``DebugMode`` of this torch.

    Raises:
        UsageError: if there is none, or one without tensor hashes.
    """
    try:
        from torch.utils._debug_mode import DebugMode
    except ImportError:
        found: Any = None
    else:
        found = DebugMode
    if found is None or not hasattr(found, "check_hash_mismatches"):
        raise UsageError("debug-mode hashes: this torch has no DebugMode with tensor hashes; "
                         "use torch 2.10 or later")
    return found
