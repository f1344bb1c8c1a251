"""Checks by kernels on the device that holds the operands: launched, left alone, read together.

A launch returns at once; its verdict stays in a record on the device.  Until the records are read
the operands and results are held alive here, and the guard reads before anything else can change
them: before an operator writes to one of their storages, before the optimizer steps, at the end of
a step, and when what is held alive exceeds the memory budget.  Reading costs one copy for all
records of a device.  Held are aliases: ``tensor.data = ...`` takes nothing from them, and no
autograd graph lives longer because of them.

A record over its limit is a *doubt*.  The host's reference names the wrong elements; where it finds
none the kernel is asked once more, without anything remembered.  If it repeats its doubt the two
witnesses contradict each other, which is reported as such; if not, its first answer was wrong, and
that is counted.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
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
"""Of one block, and of all launches after which the records are read."""
MAX_RUNS_PER_SITE = 8
State = tuple[int, int, int]
"""A tensor's version, the address of its values, and the bytes of its storage."""
Launched = Callable[[], float]
"""Seconds that the device spent, once the records were read."""


@dataclass(slots=True)
class Pending:
    """A launched check.  ``tag`` is the caller's own; ``first`` is the first of its records, of
    which there is one for each of ``checks``; ``states`` are those of its tensors at the launch,
    ``with_grad`` tells whether gradients were on."""

    plan: Plan
    observation: Observation
    tag: Any
    run: KernelRun
    first: int
    seed: int
    checks: list[KernelCheck] = field(default_factory=list)
    states: tuple[State, ...] = ()
    with_grad: bool = field(default_factory=torch.is_grad_enabled)
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


class _Records:
    """The records of a device, in blocks: one launch may ask for any number (the norms of a list of
    gradients do)."""

    def __init__(self, device: torch.device) -> None:
        self.num_used = 0
        self._device = device
        self._blocks: list[Tensor] = []

    def next(self) -> Tensor:
        """A zeroed record, int64 [2]."""
        block, row = divmod(self.num_used, NUM_RECORDS)
        if block == len(self._blocks):
            self._blocks.append(_new_records(self._device))
        self.num_used += 1
        return self._blocks[block][row]

    def take_back(self, first: int) -> None:
        """Nobody will read those from ``first`` on."""
        for part in self._used(first):
            _clear(part)
        self.num_used = first

    def read(self) -> list[Any]:
        """The verdicts of all that are used, which are zeroed and free again."""
        verdicts = []
        for part in self._used(0):
            # The wait for the copy is one for the zeros too: other streams may use them at once.
            copy = part.clone()
            _clear(part)
            verdicts += _read(copy)
        self.num_used = 0
        del self._blocks[1:]
        return verdicts

    def _used(self, first: int) -> list[Tensor]:
        starts = range(0, self.num_used, NUM_RECORDS)
        return [block[max(0, first - start) : self.num_used - start]
                for start, block in zip(starts, self._blocks, strict=False)
                if first < start + NUM_RECORDS]


class _Notes:
    """:class:`sdc_guard.ops._kernels.Notes` of one launch."""

    def __init__(
        self, records: _Records, seed: int, checks: list[KernelCheck],
        memory: OperandMemory | None,
    ) -> None:
        self.seed = seed
        self._records = records
        self._checks = checks
        self._memory = memory

    def record(self, check: KernelCheck) -> Tensor:
        record = self._records.next()
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
        self._records: dict[torch.device, _Records] = {}
        self._pending: dict[torch.device, list[Pending]] = {}
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
            records.num_used >= NUM_RECORDS for records in self._records.values())

    def runs_on(self, device: torch.device) -> bool:
        """Do kernels check what is on this device?"""
        if device.type == "cuda":
            return self._use != "never"
        return self._use == "always" and self.is_interpreted

    def run_for(self, plan: Plan, call: BoundCall, held: tuple[Tensor, ...]) -> KernelRun | None:
        """What launches the checks of this call; None where no kernel takes it."""
        kernel = plan.spec.kernel
        present = present_in(held)
        if kernel is None or present is None or not self.runs_on(present.device):
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
        present = present_in(observation.held)
        assert present is not None
        device = present.device
        records = self._records.get(device)
        if records is None:
            records = self._records[device] = _Records(device)
        seed = int(self._generator.integers(0, 2**63 - 1))
        pending = Pending(plan, _aliases(observation), tag, run, records.num_used, seed)
        notes = _Notes(records, seed, pending.checks, self.memory)
        timer = _timer(device)
        try:
            # The interpreter's arithmetic is NumPy's.
            with np.errstate(all="ignore"), launching_on(present):
                run(observation.call, observation.held, notes)
        except BaseException:  # what the kernels have noted so far is about no other call
            records.take_back(pending.first)
            raise
        pending.spent_s = timer()
        if not pending.checks:
            return ()
        tensors = _tensors(pending.observation)
        pending.states = tuple(map(_state, tensors))
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
            verdicts = self._records[device].read()
            for pending in pendings:
                unchanged = _is_unchanged(pending)
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
        present = present_in(pending.observation.held)
        assert present is not None
        records = _Records(present.device)
        checks: list[KernelCheck] = []
        with np.errstate(all="ignore"), launching_on(present):
            notes = _Notes(records, pending.seed, checks, None)
            pending.run(pending.observation.call, pending.observation.held, notes)
        verdicts = records.read()
        return any(v.num_over and c == doubt.check for c, v in zip(checks, verdicts, strict=True))


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


def present_in(held: tuple[Tensor | None, ...]) -> Tensor | None:
    """The first result that the call was asked for; the input of a first layer has no gradient."""
    return next((t for t in held if t is not None), None)


def _is_unchanged(pending: Pending) -> bool:
    """Have the tensors of a launch not been written to since?"""
    num_operands = sum(1 for _ in pending.observation.call.tensors())
    # What a call overwrites gets its new version after the launch, when the operator returns.
    late = bool(pending.observation.call.form.overwrites)
    for i, tensor in enumerate(_tensors(pending.observation)):
        version, *memory = _state(tensor)
        known_version, *known_memory = pending.states[i]
        if memory != known_memory or not (
                0 <= version - known_version <= (late and i >= num_operands)):
            return False
    return True


def _aliases(observation: Observation) -> Observation:
    """The same memory under version counters that are shared with the tensors'."""
    def alias(tensor: Tensor) -> Tensor:
        if tensor.is_inference():  # has neither a counter nor a graph
            return tensor
        # Below autograd, where a mode runs, `detach` alone begins a counter of its own.
        with torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.ADInplaceOrView, False):
            return tensor.detach()

    held = [t if t is None else alias(t) for t in observation.held]
    return Observation(observation.call.mapped(lambda _, t: alias(t)), tuple(held))


def _state(tensor: Tensor) -> State:
    """What a write changes, and whoever frees or resizes the memory (FSDP does)."""
    version = -1 if tensor.is_inference() else tensor._version
    if tensor.layout is not torch.strided:
        return version, 0, 0
    return version, tensor.data_ptr(), tensor.untyped_storage().nbytes()


def _clear(records: Tensor) -> None:
    with torch.inference_mode():  # they may have been made in it, and are written to elsewhere
        records.zero_()


def _new_records(device: torch.device) -> Tensor:
    from sdc_guard_kernels.verdict import new_records

    records = new_records(NUM_RECORDS, device)
    if device.type == "cuda":  # a launch in another stream shall find the zeros
        torch.cuda.current_stream(device).synchronize()
    return records


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
