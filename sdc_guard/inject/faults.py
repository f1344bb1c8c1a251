"""Fault models: what goes wrong, where, when, and the ground truth of what was done.

Each model is a context manager around a :class:`KernelOverride`; ``injected`` lists what it changed
since it was made.  Models of faulty hardware (:class:`TransientFlip`, :class:`RepeatedFlip`,
:class:`Stuck`) are here, models of faulty software in :mod:`sdc_guard.inject.kernel_bugs`.

A result that is an operand handed through (``aten.lift``) is no new number and is left alone.
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

from sdc_guard import bits
from sdc_guard.errors import UsageError
from sdc_guard.inject.flip import (
    flip_bit,
    num_bits,
    position,
    read_element,
    size_ulps,
    storage_offsets,
    value_of,
)
from sdc_guard.inject.override import CallInfo, KernelOverride, Results
from sdc_guard.inject.trigger import UserCalls
from sdc_guard.records import Record, Value


class InjectedFault(Record, frozen=True, kw_only=True):
    """Ground truth: one execution of a kernel whose result was changed.

    ``call_number`` counts executions of the op since the fault was entered, replays included;
    ``output`` is the place among the flat results (overwritten operands first).  ``flat_index``
    (C order) is the changed element, the first of ``num_wrong``; ``before``, ``after`` and
    ``size_ulps`` are its own (:func:`sdc_guard.inject.flip.size_ulps`).  ``bit`` is None where
    the model does not change a chosen bit.
    """

    model: str
    op: str
    call_number: int
    output: int
    shape: tuple[int, ...]
    flat_index: int
    bit: int | None
    before: Value
    after: Value
    size_ulps: float | None
    num_wrong: int


class Fault:
    """Base of all fault models: installs the override, keeps the ground truth.

    Subclasses implement :meth:`_strike`.  ``masked`` counts executions on which the model was due
    but changed no bit.  A fault can be entered again; ``injected`` and ``masked`` go on.
    """

    def __init__(self, op: torch._ops.OpOverload, device: str = "CPU") -> None:
        self.op = op
        self.injected: list[InjectedFault] = []
        self.masked = 0
        self._lock = threading.Lock()
        self._override = KernelOverride(op, self._strike, device, before=self._prepare)

    @property
    def num_calls(self) -> int:
        """Executions of the op since the last entry."""
        return self._override.num_calls

    def __enter__(self) -> Self:
        self._override.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._override.__exit__(kind, error, trace)

    def _prepare(self, info: CallInfo) -> None:
        """Look at the operands before the kernel runs."""

    def _strike(self, info: CallInfo, results: Results) -> None:
        raise NotImplementedError

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
        self._record(info, target, output, flat_index, bit, before, after, 1)

    def _record(
        self,
        info: CallInfo,
        target: Tensor,
        output: int,
        flat_index: int,
        bit: int | None,
        before: int,
        after: int,
        num_wrong: int,
    ) -> None:
        dtype = target.dtype
        record = InjectedFault(
            model=type(self).__name__,
            op=str(self.op),
            call_number=info.call_number,
            output=output,
            shape=tuple(target.shape),
            flat_index=flat_index,
            bit=bit,
            before=value_of(dtype, before),
            after=value_of(dtype, after),
            size_ulps=size_ulps(dtype, before, after),
            num_wrong=num_wrong,
        )
        with self._lock:
            self.injected.append(record)

    def _record_change(
        self, info: CallInfo, target: Tensor, output: int, old: NDArray[Any], bit: int | None = None
    ) -> None:
        """Record how ``target`` differs from ``old``, a C-ordered copy of its bits."""
        wrong = np.flatnonzero(bits.raw(bits.on_host(target)) != old)
        if not len(wrong):
            self._mask()
            return
        first = int(wrong[0])
        after = read_element(target, position(target, first))
        self._record(
            info, target, output, first, bit, int(old.reshape(-1)[first]), after, len(wrong)
        )


class _Place:
    """Element and bit of a flip: as given, or drawn uniformly once the tensor is known."""

    def __init__(self, flat_index: int | None, bit: int | None, seed: int) -> None:
        self.flat_index = flat_index
        self.bit = bit
        self._generator = np.random.default_rng(seed)

    def settle(self, target: Tensor) -> tuple[int, int]:
        if self.flat_index is None:
            self.flat_index = int(self._generator.integers(target.numel()))
        if self.bit is None:
            self.bit = int(self._generator.integers(num_bits(target.dtype)))
        return self.flat_index, self.bit


class TransientFlip(Fault):
    """One bit of one element inverted once, in the ``call_number``-th call of ``op`` from 0.

    ``counts="kernel"`` counts every execution since entry, a guard's replays included.
    ``counts="user"`` counts the calls that reach a dispatch mode on top of the stack
    (:class:`UserCalls`): those of the user's code, its backward and its optimizer.  Enter such
    a fault after the guard, leave it before.

    ``flat_index`` (C order) and ``bit`` are drawn at the call from ``seed`` where they are None.

    Raises:
        UsageError: at construction if ``counts`` is neither word or ``call_number`` is negative; in
            the call if the element or bit does not exist there.
    """

    def __init__(
        self,
        op: torch._ops.OpOverload,
        call_number: int,
        output: int = 0,
        flat_index: int | None = None,
        bit: int | None = None,
        *,
        counts: str = "kernel",
        seed: int = 0,
        device: str = "CPU",
    ) -> None:
        if counts not in ("kernel", "user"):
            raise UsageError(f"counts is {counts!r}, must be 'kernel' or 'user'")
        if call_number < 0:
            raise UsageError(f"call_number is {call_number}, must be 0 or more")
        super().__init__(op, device)
        self.call_number = call_number
        self.output = output
        self.counts = counts
        self._place = _Place(flat_index, bit, seed)
        self._user_calls: UserCalls | None = None
        self._stack = ExitStack()

    @property
    def flat_index(self) -> int | None:
        return self._place.flat_index

    @property
    def bit(self) -> int | None:
        return self._place.bit

    def __repr__(self) -> str:
        return (
            f"TransientFlip({self.op}, call_number={self.call_number}, output={self.output}, "
            f"flat_index={self.flat_index}, bit={self.bit}, counts={self.counts!r})"
        )

    def __enter__(self) -> Self:
        super().__enter__()
        if self.counts == "user":
            self._user_calls = UserCalls(self.op, self.call_number)
            self._stack.enter_context(self._user_calls)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._stack.close()
        finally:
            super().__exit__(kind, error, trace)

    def _strike(self, info: CallInfo, results: Results) -> None:
        if self._user_calls is not None:
            due = self._user_calls.take()
        else:
            due = info.call_number == self.call_number
        if not due:
            return
        target = self._target(info, results, self.output)
        if target is None:
            self._mask()
            return
        self._flip(info, target, self.output, *self._place.settle(target))


class RepeatedFlip(Fault):
    """One bit of one element inverted in every execution of ``op``, a checker's replays included,
    whose result ``output`` has shape ``shape`` (and ``dtype``, where given), from the
    ``from_call``-th execution since entry on.

    ``flat_index`` (C order) and ``bit`` are drawn at the first such call from ``seed`` where they
    are None, and stay.

    Raises:
        UsageError: in a call if the element or bit does not exist there.
    """

    def __init__(
        self,
        op: torch._ops.OpOverload,
        shape: tuple[int, ...],
        output: int = 0,
        flat_index: int | None = None,
        bit: int | None = None,
        from_call: int = 0,
        *,
        dtype: torch.dtype | None = None,
        seed: int = 0,
        device: str = "CPU",
    ) -> None:
        super().__init__(op, device)
        self.shape = tuple(shape)
        self.output = output
        self.from_call = from_call
        self.dtype = dtype
        self._place = _Place(flat_index, bit, seed)

    @property
    def flat_index(self) -> int | None:
        return self._place.flat_index

    @property
    def bit(self) -> int | None:
        return self._place.bit

    def __repr__(self) -> str:
        return (
            f"RepeatedFlip({self.op}, shape={self.shape}, output={self.output}, "
            f"flat_index={self.flat_index}, bit={self.bit}, dtype={self.dtype})"
        )

    def _strike(self, info: CallInfo, results: Results) -> None:
        if info.call_number < self.from_call:
            return
        target = self._target(info, results, self.output)
        if target is None or tuple(target.shape) != self.shape:
            return
        if self.dtype is not None and target.dtype is not self.dtype:
            return
        self._flip(info, target, self.output, *self._place.settle(target))


class Stuck(Fault):
    """One lane of a vector unit with a stuck bit: in every execution, the elements whose place in
    memory, counted from the result's first element, is ``lane`` modulo ``lanes`` have bit ``bit``
    set to ``value``.

    Raises:
        UsageError: at construction if ``lane`` is not in ``0..lanes-1`` or ``value`` not 0 or 1;
            in a call whose result's dtype has no such bit.
    """

    def __init__(
        self,
        op: torch._ops.OpOverload,
        *,
        lane: int,
        lanes: int,
        bit: int,
        value: int = 1,
        output: int = 0,
        device: str = "CPU",
    ) -> None:
        if not 0 <= lane < lanes:
            raise UsageError(f"lane is {lane}, must be in 0..{lanes - 1} for lanes={lanes}")
        if value not in (0, 1):
            raise UsageError(f"value is {value}, must be 0 or 1")
        super().__init__(op, device)
        self.lane = lane
        self.lanes = lanes
        self.bit = bit
        self.value = value
        self.output = output

    def _strike(self, info: CallInfo, results: Results) -> None:
        target = self._target(info, results, self.output)
        if target is None:
            return
        limit = num_bits(target.dtype)
        if not 0 <= self.bit < limit:
            raise UsageError(f"bit is {self.bit}, must be in 0..{limit - 1} for {target.dtype}")
        image = bits.on_host(target)
        view = bits.raw(image)
        old = np.array(view, order="C")
        mask = view.dtype.type(1 << self.bit)
        stuck = old | mask if self.value else old & ~mask
        on_lane = storage_offsets(target) % self.lanes == self.lane
        np.copyto(view, np.where(on_lane, stuck, old))
        if image is not target:
            bits.restore(target, image)
        self._record_change(info, target, self.output, old, self.bit)
