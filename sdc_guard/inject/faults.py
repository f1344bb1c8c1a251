"""Models of faulty hardware with one place and one bit: :class:`TransientFlip`,
:class:`RepeatedFlip`, :class:`Stuck`.

Models of faulty software are in :mod:`sdc_guard.inject.kernel_bugs`; faults of any region, damage
and time in :mod:`sdc_guard.inject.composed`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sdc_guard import bits
from sdc_guard.errors import UsageError
from sdc_guard.inject.base import Fault
from sdc_guard.inject.flip import num_bits, storage_offsets
from sdc_guard.inject.override import CallInfo, Results
from sdc_guard.inject.trigger import UserCalls
from sdc_guard.inject.truth import InjectedFault

__all__ = ["Fault", "InjectedFault", "RepeatedFlip", "Stuck", "TransientFlip"]


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

    def _mode(self) -> TorchDispatchMode | None:
        if self.counts != "user":
            return super()._mode()
        self._user_calls = UserCalls(self.op, self.call_number)
        return self._user_calls

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
