"""The base of all faults of kernels: a context manager around a :class:`KernelOverride` that keeps
the ground truth of what was done.

``injected`` lists what the fault changed since it was made.  A result that is an operand handed
through (``aten.lift``) is no new number and is left alone.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sdc_guard import bits
from sdc_guard.inject.flip import flip_bit, size_ulps, value_of
from sdc_guard.inject.measure import limits_of, size_of
from sdc_guard.inject.override import CallInfo, KernelOverride, Results
from sdc_guard.inject.phases import Phases
from sdc_guard.inject.trigger import Watch
from sdc_guard.inject.truth import MAX_FIRST_INDICES, InjectedFault


def describe_change(
    *,
    model: str,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    where: NDArray[np.intp],
    before: NDArray[Any],
    after: NDArray[Any],
    limits: NDArray[np.float64] | None = None,
    op: str = "",
    call_number: int = 0,
    output: int = 0,
    bit: int | None = None,
    phase: str = "",
    rate: float | None = None,
    inside: str = "",
) -> InjectedFault:
    """The record of some changed elements: ``where`` flat in C order, ascending; ``before`` and
    ``after`` their bits; ``limits`` their contract bounds."""
    size = size_of(dtype, before, after, limits)
    first = int(before[0]), int(after[0])
    return InjectedFault(
        model=model, op=op, call_number=call_number, output=output, shape=shape,
        flat_index=int(where[0]), bit=bit, before=value_of(dtype, first[0]),
        after=value_of(dtype, first[1]), size_ulps=size_ulps(dtype, *first), num_wrong=len(where),
        first_indices=tuple(int(i) for i in where[:MAX_FIRST_INDICES]),
        num_not_finite=size.num_not_finite, worst_index=int(where[size.worst]),
        size_bounds=size.bounds, phase=phase, rate=rate,
        inside=inside)


class Fault:
    """Base of all fault models: installs the override, keeps the ground truth.

    Subclasses implement :meth:`_strike`.  ``masked`` counts executions on which the model was due
    but changed no bit.  A fault can be entered again; ``injected`` and ``masked`` go on.

    ``under_mode``: each entry also puts a dispatch mode that does nothing on the stack, so that
    autograd makes the calls that were recorded (:func:`sdc_guard.inject.record_calls`), and
    watches the phases of the training step and the user's calls.  ``model`` is the name in the
    ground truth.
    """

    under_mode = False
    rate: float | None = None

    def __init__(self, op: torch._ops.OpOverload, device: str = "CPU") -> None:
        self.op = op
        self.model = type(self).__name__
        self.injected: list[InjectedFault] = []
        self.masked = 0
        self._lock = threading.Lock()
        self._phases: Phases | None = None
        self._watch: Watch | None = None
        self._contexts = ExitStack()
        self._override = KernelOverride(op, self._after, device, before=self._before)

    @property
    def num_calls(self) -> int:
        """Executions of the op since the last entry."""
        return self._override.num_calls

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._override)
            if self.under_mode:
                self._phases = stack.enter_context(Phases())
            mode = self._mode()
            if mode is not None:
                stack.enter_context(mode)
            self._watch = mode if isinstance(mode, Watch) else None
            self._contexts = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._contexts.__exit__(kind, error, trace)

    def _mode(self) -> TorchDispatchMode | None:
        """The dispatch mode of one entry."""
        return Watch(self.op) if self.under_mode else None

    def _prepare(self, info: CallInfo) -> None:
        """Look at the operands before the kernel runs."""

    def _may_strike(self, info: CallInfo) -> bool:
        """False if, after :meth:`_prepare`, this execution is known to come out right."""
        return True

    def _strike(self, info: CallInfo, results: Results) -> None:
        raise NotImplementedError

    def _before(self, info: CallInfo) -> None:
        self._prepare(info)
        if self._may_strike(info) and not self.injected and info.call.form.overwrites:
            info.images = info.call.with_private_images()

    def _after(self, info: CallInfo, results: Results) -> None:
        info.results = results
        self._strike(info, results)

    def _target(self, info: CallInfo, results: Results, output: int) -> Tensor | None:
        """The result to change (the parts of a complex one); None if the call has none there or
        hands an operand through."""
        target = results[output] if 0 <= output < len(results) else None
        if target is None or target.numel() == 0:
            return None
        if target.is_complex():  # its parts are the elements
            target = torch.view_as_real(target.detach())
        call = info.call
        num_written = sum(path[0] in call.form.overwrites for path, _ in call.tensors())
        if output < num_written:
            return target
        pointer = target.data_ptr()
        return None if any(t.data_ptr() == pointer for _, t in call.tensors()) else target

    def _mask(self) -> None:
        with self._lock:
            self.masked += 1

    def _flip(
        self, info: CallInfo, target: Tensor, output: int, flat_index: int, bit: int
    ) -> None:
        before, after = flip_bit(target, flat_index, bit)
        self._record_one(info, target, output, flat_index, bit, before, after)

    def _record_one(
        self,
        info: CallInfo,
        target: Tensor,
        output: int,
        flat_index: int,
        bit: int | None,
        before: int,
        after: int,
    ) -> None:
        """Record one changed element; ``before`` and ``after`` are its bits."""
        unsigned = f"u{target.element_size()}"
        self._record(info, target, output, np.array([flat_index]),
                     np.array([before], dtype=unsigned), np.array([after], dtype=unsigned), bit)

    def _record_change(
        self, info: CallInfo, target: Tensor, output: int, old: NDArray[Any], bit: int | None = None
    ) -> None:
        """Record how ``target`` differs from ``old``, a C-ordered copy of its bits."""
        new = bits.raw(bits.on_host(target))
        wrong = np.flatnonzero(new != old)
        if not len(wrong):
            self._mask()
            return
        self._record(info, target, output, wrong, old.reshape(-1)[wrong],
                     new.flat[wrong], bit)

    def _record(
        self,
        info: CallInfo,
        target: Tensor,
        output: int,
        where: NDArray[np.intp],
        before: NDArray[Any],
        after: NDArray[Any],
        bit: int | None,
    ) -> None:
        limits = None
        if not self.injected:
            limits = self._limits(info, output, where, before)
        record = describe_change(
            model=self.model, dtype=target.dtype, shape=tuple(target.shape), where=where,
            before=before, after=after, limits=limits, op=str(self.op),
            call_number=info.call_number, output=output, bit=bit,
            phase="" if self._phases is None else self._phases.now, rate=self.rate,
            inside="" if self._watch is None else self._watch.handled)
        with self._lock:
            self.injected.append(record)

    def _limits(
        self, info: CallInfo, output: int, where: NDArray[np.intp], before: NDArray[Any]
    ) -> NDArray[np.float64] | None:
        """Contract bounds of the struck elements, from the operands before the call and the right
        results."""
        held = list(info.results)
        struck = held[output]
        if struck is None or struck.is_complex():
            return None
        right = bits.on_host(bits.snapshot(struck))
        bits.raw(right).flat[where] = before
        held[output] = right
        return limits_of(info.images or info.call, held, output, where)
