"""Checks by kernels on the device that holds the operands: launched, left alone, read together.

A launch returns at once; its verdict stays in a record on the device.  Until the records are read
the operands and results are held alive here, and the guard reads before anything else can change
them: before an operator writes to one of their storages, before the optimizer steps, at the end of
a step, and when what is held alive exceeds the memory budget.  Reading costs one copy for all
records of a device.

A record over its limit is a *doubt*.  The host's reference names the wrong elements; where it finds
none the kernel is asked once more, without anything remembered.  If it repeats its doubt the two
witnesses contradict each other, which is reported as such; if not, its first answer was wrong, and
that is counted.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard.calls import BoundCall
from sdc_guard.check.plan import Plan
from sdc_guard.check.remembered import OperandMemory, storage_of
from sdc_guard.device_bits import launching_on
from sdc_guard.ops._kernels import KernelCheck, KernelRun
from sdc_guard.records import Observation

NUM_RECORDS = 1024
MAX_RECORDS_PER_LAUNCH = 16
MAX_RUNS_PER_SITE = 8
Launched = Callable[[], float]
"""Seconds that the device spent, once the records were read."""


@dataclass(slots=True)
class Pending:
    """A launched check.  ``tag`` is the caller's own; ``slots`` are its records."""

    plan: Plan
    observation: Observation
    tag: Any
    run: KernelRun
    first: int
    seed: int
    checks: list[KernelCheck] = field(default_factory=list)
    versions: tuple[int, ...] = ()
    spent_s: Launched = lambda: 0.0


@dataclass(frozen=True, slots=True)
class Doubt:
    """A record over its limit.  ``place`` counts units of ``check`` in the result, and is None
    where it is not known; ``unchanged``: operands and result have not been written to since."""

    pending: Pending
    check: KernelCheck
    worst_share: float
    place: int | None
    num_over: int
    unchanged: bool


class _Notes:
    """:class:`sdc_guard.ops._kernels.Notes` of one launch."""

    def __init__(
        self, records: Tensor, first: int, seed: int, checks: list[KernelCheck],
        memory: OperandMemory | None,
    ) -> None:
        self.seed = seed
        self._records = records
        self._next = first
        self._last = first + MAX_RECORDS_PER_LAUNCH
        self._checks = checks
        self._memory = memory

    def record(self, check: KernelCheck) -> Tensor:
        if self._next >= self._last:
            raise RuntimeError(f"a launch asks for more than {MAX_RECORDS_PER_LAUNCH} records")
        record = self._records[self._next]
        self._next += 1
        self._checks.append(check)
        return record

    def remembered(self, operand: Tensor, name: str, compute: Callable[[], Any]) -> Any:
        return compute() if self._memory is None else self._memory.get(operand, name, compute)


class DeviceChecks:
    """See the module docstring.

    Args:
        use: ``"auto"`` runs kernels on CUDA, ``"always"`` on a CPU too, in Triton's interpreter,
            ``"never"`` nowhere.
        generator: the guard's own.
        memory_budget_bytes: of operands and results that may be held alive for a reading.
    """

    def __init__(self, use: str, generator: np.random.Generator, memory_budget_bytes: int) -> None:
        self.memory = OperandMemory()
        self._use = use if importlib.util.find_spec("triton") is not None else "never"
        self.is_interpreted = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")
        self._generator = generator
        self._memory_budget_bytes = memory_budget_bytes
        self._records: dict[torch.device, Tensor] = {}
        self._pending: dict[torch.device, list[Pending]] = {}
        self._num_used: dict[torch.device, int] = {}
        self._storages: set[int] = set()
        self._held_bytes = 0

    @property
    def is_usable(self) -> bool:
        """True if kernels may run in this process.  Asks no driver: that would keep a process from
        using CUDA after it is forked."""
        return self._use == "always" or (self._use == "auto" and torch.backends.cuda.is_built())

    @property
    def has_pending(self) -> bool:
        return bool(self._storages)

    @property
    def is_full(self) -> bool:
        """True if the records should be read before another launch."""
        return self._held_bytes > self._memory_budget_bytes or any(
            used + MAX_RECORDS_PER_LAUNCH > NUM_RECORDS for used in self._num_used.values())

    def runs_on(self, device: torch.device) -> bool:
        """Do kernels check what is on this device?"""
        if device.type == "cuda":
            return self._use != "never"
        return self._use == "always" and self.is_interpreted

    def run_for(self, plan: Plan, call: BoundCall, held: tuple[Tensor, ...]) -> KernelRun | None:
        """What launches the checks of this call; None where no kernel takes it."""
        kernel, device = plan.spec.kernel, device_of(held)
        if kernel is None or device is None or not self.runs_on(device):
            return None
        # A site holds for any number where it takes one; coefficients do not.
        numbers = tuple(v for v in call.args if isinstance(v, float))
        runs = plan.kernel_runs
        if numbers not in runs:
            if len(runs) >= MAX_RUNS_PER_SITE:
                runs.clear()
            runs[numbers] = kernel(call, held)
        return runs[numbers]

    def launch(
        self, plan: Plan, observation: Observation, run: KernelRun, tag: Any
    ) -> tuple[str, ...]:
        """Launch the checks of one call; returns the witnesses.

        Raises whatever a launch raises; nothing is pending then.
        """
        device = device_of(observation.held)
        assert device is not None
        records = self._records.get(device)
        if records is None:
            records = self._records[device] = _new_records(device)
        first = self._num_used.get(device, 0)
        seed = int(self._generator.integers(0, 2**63 - 1))
        pending = Pending(plan, observation, tag, run, first, seed)
        notes = _Notes(records, first, seed, pending.checks, self.memory)
        timer = _timer(device)
        # The interpreter's arithmetic is NumPy's.
        with np.errstate(all="ignore"), launching_on(records):
            run(observation.call, observation.held, notes)
        pending.spent_s = timer()
        if not pending.checks:
            return ()
        self._num_used[device] = first + len(pending.checks)
        tensors = _tensors(observation)
        pending.versions = tuple(map(_version, tensors))
        for tensor in tensors:
            self._storages.add(storage_of(tensor))
            self._held_bytes += tensor.numel() * tensor.element_size()
        self._pending.setdefault(device, []).append(pending)
        return tuple(dict.fromkeys(f"kernel {check.witness}" for check in pending.checks))

    def is_about(self, written: list[Tensor]) -> bool:
        """True if a launched check looks at the memory of one of these tensors."""
        return any(storage_of(t) in self._storages for t in written)

    def drop(self) -> None:
        """Forget all that was launched, after a failure to read it."""
        self._pending.clear()
        self._num_used.clear()
        self._records.clear()
        self._storages.clear()
        self._held_bytes = 0

    def read(self) -> tuple[list[Doubt], list[tuple[Any, float]]]:
        """Wait for the launched checks; returns the doubts, and the seconds that each check took
        on its device, by tag."""
        doubts: list[Doubt] = []
        costs: list[tuple[Any, float]] = []
        launched, self._pending = self._pending, {}
        for device, pendings in launched.items():
            for pending in pendings:
                costs.append((pending.tag, pending.spent_s()))
            used = self._num_used.pop(device)
            part = self._records[device][:used]
            verdicts = _read(part)
            part.zero_()
            for pending in pendings:
                unchanged = pending.versions == tuple(map(_version, _tensors(pending.observation)))
                for check, verdict in zip(pending.checks, verdicts[pending.first:], strict=False):
                    if verdict.num_over:
                        place = None if verdict.place == 0xFFFFFFFF else verdict.place
                        doubts.append(Doubt(pending, check, verdict.worst_share, place,
                                            verdict.num_over, unchanged))
        self._storages.clear()
        self._held_bytes = 0
        return doubts, costs

    def repeats(self, doubt: Doubt) -> bool:
        """Ask the kernel again, with nothing remembered: does the same check doubt the result?"""
        pending = doubt.pending
        records = _new_records(pending.observation.held[doubt.check.output].device)
        checks: list[KernelCheck] = []
        with np.errstate(all="ignore"), launching_on(records):
            notes = _Notes(records, 0, pending.seed, checks, None)
            pending.run(pending.observation.call, pending.observation.held, notes)
        verdicts = _read(records[: len(checks)])
        return any(v.num_over and c == doubt.check for c, v in zip(checks, verdicts, strict=True))


def device_of(held: Sequence[Tensor | None]) -> torch.device | None:
    """Where a call's results are; some may be masked out."""
    return next((t.device for t in held if t is not None), None)


def place_in_result(doubt: Doubt) -> tuple[int, ...] | None:
    """Index of the doubted element, or of the first element of the doubted row or column."""
    if doubt.place is None:
        return None
    shape = tuple(doubt.pending.observation.held[doubt.check.output].shape)
    kept = {"element": shape, "row": shape[:-1], "column": (*shape[:-2], *shape[-1:])}
    counted = kept[doubt.check.unit]
    if doubt.place >= int(np.prod(counted, dtype=np.int64)):
        return None
    index = tuple(int(i) for i in np.unravel_index(doubt.place, counted)) if counted else ()
    if doubt.check.unit == "row":
        return (*index, 0)
    return (*index[:-1], 0, *index[-1:]) if doubt.check.unit == "column" else index


def _tensors(observation: Observation) -> list[Tensor]:
    held = [t for t in observation.held if t is not None]
    return [*(t for _, t in observation.call.tensors()), *held]


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _new_records(device: torch.device) -> Tensor:
    from sdc_guard_kernels.verdict import new_records

    return new_records(NUM_RECORDS, device)


def _read(records: Tensor) -> list[Any]:
    from sdc_guard_kernels.verdict import read

    return read(records)


def _timer(device: torch.device) -> Callable[[], Launched]:
    """Times what is launched from now on; on a CPU the caller's own clock has seen it."""
    if device.type != "cuda":
        return lambda: lambda: 0.0
    started = torch.cuda.Event(enable_timing=True)
    started.record(torch.cuda.current_stream(device))

    def stop() -> Launched:
        ended = torch.cuda.Event(enable_timing=True)
        ended.record(torch.cuda.current_stream(device))

        def spent_s() -> float:
            ended.synchronize()
            return float(started.elapsed_time(ended)) * 1e-3

        return spent_s

    return stop
