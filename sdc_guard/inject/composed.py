"""Faults put together of a damage (what happens to bits), a region (which elements) and a timing
(when): of a kernel's result (:class:`ResultFault`, :class:`StaleResult`), or of an operand as the
kernel reads it (:class:`OperandFault`).

Enter them inside (above) the detector, around one training step or, again, around each of several.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sdc_guard import bits
from sdc_guard.calls import BoundCall, Path
from sdc_guard.inject.base import Fault
from sdc_guard.inject.damage import Damage
from sdc_guard.inject.misread import Misread
from sdc_guard.inject.override import CallInfo, Results
from sdc_guard.inject.regions import All, Region
from sdc_guard.inject.timing import Always, Once, Timer, Timing

_DUE, _KEEP = "due", "keep"


def damaged(
    tensor: Tensor, region: Region, damage: Damage
) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Bits of a tensor before and after a damage, C-ordered; None where the region is empty."""
    where = region(tensor)
    if not len(where):
        return None
    old = _copy(tensor)
    new = old.reshape(-1).copy()
    damage(new, where, tensor.dtype)
    return old, new.reshape(old.shape)


def write(tensor: Tensor, words: NDArray[Any]) -> None:
    """Store the bits of all elements, on any device, beneath every mode and version counter."""
    host = bits.on_host(tensor)
    bits.raw(host)[...] = words
    if host is not tensor:
        bits.restore(tensor, host)


class ResultFault(Fault):
    """``damage`` to the elements ``region`` of result ``output``.

    ``shape`` and ``dtype``, where given, restrict the fault to results that have them.  ``bit`` is
    what the ground truth says.  ``condition``, where given, sees the operands as they are before
    the call and must hold.
    """

    under_mode = True

    def __init__(
        self,
        op: torch._ops.OpOverload,
        timing: Timing,
        region: Region,
        damage: Damage,
        *,
        output: int = 0,
        shape: tuple[int, ...] | None = None,
        dtype: torch.dtype | None = None,
        bit: int | None = None,
        condition: Callable[[BoundCall], bool] | None = None,
        counted: Any = None,
        seed: int = 0,
        device: str = "CPU",
    ) -> None:
        super().__init__(op, device)
        self.timer = Timer(timing, op, counted, seed)
        self.region = region
        self.damage = damage
        self.output = output
        self.shape = shape
        self.dtype = dtype
        self.bit = bit
        self.condition = condition
        if isinstance(timing, Always) and timing.rate < 1:
            self.rate = timing.rate

    def __repr__(self) -> str:
        return (f"{type(self).__name__}({self.op}, {self.timer.timing}, {self.region}, "
                f"{self.damage}, output={self.output}, shape={self.shape}, dtype={self.dtype})")

    def _mode(self) -> TorchDispatchMode | None:
        return self.timer.watch()

    def _prepare(self, info: CallInfo) -> None:
        due = self.timer.is_due(self.timer.whose())
        info.note = due and (self.condition is None or self.condition(info.call))

    def _may_strike(self, info: CallInfo) -> bool:
        return bool(info.note)

    def _fits(self, target: Tensor) -> bool:
        return ((self.shape is None or tuple(target.shape) == self.shape)
                and (self.dtype is None or target.dtype is self.dtype))

    def _change(
        self, info: CallInfo, target: Tensor
    ) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Bits before and after; None where nothing is struck."""
        return damaged(target, self.region, self.damage)

    def _strike(self, info: CallInfo, results: Results) -> None:
        if not self._may_strike(info):
            return
        target = self._target(info, results, self.output)
        change = None
        if target is not None and self._fits(target):
            change = self._change(info, target)
        if target is None or change is None:
            if isinstance(self.timer.timing, Once):
                self._mask()
            return
        old, new = change
        if np.array_equal(old, new):
            self._mask()
            return
        write(target, new)
        self.timer.struck()
        self._record_change(info, target, self.output, old, self.bit)


class StaleResult(ResultFault):
    """The kernel never writes its result: an overwritten operand keeps what it held before the
    call; a fresh tensor holds what the latest earlier call of the user's gave for that shape and
    dtype, in memory that was freed and taken again.  Where there was none, it holds bytes of the
    call's first operand, as a freed block would, and zeros if it is no floating result.
    """

    def __init__(
        self,
        op: torch._ops.OpOverload,
        timing: Once,
        *,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        output: int = 0,
        device: str = "CPU",
    ) -> None:
        super().__init__(op, timing, All(), lambda words, where, dtype: None, output=output,
                         shape=shape, dtype=dtype, device=device)
        self._earlier: NDArray[Any] | None = None

    def __repr__(self) -> str:
        return (f"StaleResult({self.op}, {self.timer.timing}, output={self.output}, "
                f"shape={self.shape}, dtype={self.dtype})")

    def _prepare(self, info: CallInfo) -> None:
        whose = self.timer.whose()
        if self.timer.is_due(whose):
            info.note = _DUE
            written = [t for p, t in info.call.tensors() if p[0] in info.call.form.overwrites]
            if self.output < len(written):
                self._earlier = _copy(_parts(written[self.output]))
        elif whose >= 0 and not self.timer.spent:
            info.note = _KEEP

    def _may_strike(self, info: CallInfo) -> bool:
        return info.note is _DUE

    def _strike(self, info: CallInfo, results: Results) -> None:
        super()._strike(info, results)
        target = self._target(info, results, self.output) if info.note is _KEEP else None
        if target is not None and self._fits(target):
            self._earlier = _copy(target)

    def _change(
        self, info: CallInfo, target: Tensor
    ) -> tuple[NDArray[Any], NDArray[Any]] | None:
        old = _copy(target)
        if self._earlier is not None:
            return old, self._earlier
        operand = next((t for _, t in info.call.tensors() if t.numel() and not t.is_complex()
                        and t.layout is torch.strided), None)
        if operand is None or not target.is_floating_point():
            return old, np.zeros_like(old)  # what is no index could end the process
        memory = np.frombuffer(_copy(operand).tobytes(), dtype=np.uint8)
        filled = np.resize(memory, old.nbytes)
        return old, filled.view(old.dtype).reshape(old.shape)


def _copy(tensor: Tensor) -> NDArray[Any]:
    return np.array(bits.raw(bits.on_host(tensor)), order="C")


def _parts(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor


class OperandFault(Misread):
    """The kernel computes from the operand at ``path`` with ``damage`` at ``region``; the operand
    itself stays as it is.

    ``shape`` and ``dtype``, where given, restrict the fault to operands that have them.  A change
    of an operand that changes no bit of a result is counted in ``masked``, for each result.

    Raises:
        UsageError: at construction if ``op`` draws random numbers.
    """

    under_mode = True

    def __init__(
        self,
        op: torch._ops.OpOverload,
        timing: Timing,
        path: Path | None,
        region: Region,
        damage: Damage,
        *,
        shape: tuple[int, ...] | None = None,
        dtype: torch.dtype | None = None,
        seed: int = 0,
        device: str = "CPU",
    ) -> None:
        super().__init__(op, device)
        self.timer = Timer(timing, op, None, seed)
        self.path = path
        self.region = region
        self.damage = damage
        self.shape = shape
        self.dtype = dtype

    def __repr__(self) -> str:
        return (f"OperandFault({self.op}, {self.timer.timing}, path={self.path}, {self.region}, "
                f"{self.damage}, shape={self.shape}, dtype={self.dtype})")

    def _mode(self) -> TorchDispatchMode | None:
        return self.timer.watch()

    def _fits(self, path: Path, tensor: Tensor) -> bool:
        return (self.path in (None, path) and tensor.layout is torch.strided
                and tensor.numel() > 0 and not tensor.is_complex()
                and (self.shape is None or tuple(tensor.shape) == self.shape)
                and (self.dtype is None or tensor.dtype is self.dtype))

    def _as_read(self, call: BoundCall) -> BoundCall | None:
        if not self.timer.is_due(self.timer.whose()):
            return None
        images: dict[Path, Tensor] = {}
        for path, tensor in call.tensors():
            change = self._misread(call, tensor) if self._fits(path, tensor) else None
            if change is not None and not np.array_equal(*change):
                images[path] = bits.snapshot(tensor)
                write(images[path], change[1])
        if not images:
            if isinstance(self.timer.timing, Once):
                self._mask()
            return None

        def read(path: Path, tensor: Tensor) -> Tensor:
            if path in images:
                return images[path]
            return bits.snapshot(tensor) if path[0] in call.form.overwrites else tensor

        return call.mapped(read)

    def _misread(
        self, call: BoundCall, tensor: Tensor
    ) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Bits of an operand as it is and as it is read; None where it is read right."""
        return damaged(tensor, self.region, self.damage)
