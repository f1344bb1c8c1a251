"""Fault models of software: kernels that are wrong, each time, for some data, layout or place.

Unlike a flip these repeat on every identical call wherever it runs, so a guard must call
them ``software``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall, Path, form_of
from sdc_guard.errors import UsageError
from sdc_guard.inject.base import Fault
from sdc_guard.inject.flip import flip_bit, position, read_element, write_element
from sdc_guard.inject.misread import Misread
from sdc_guard.inject.override import CallInfo, Results
from sdc_guard.inject.predicates import Condition, is_transposed, operand_of


def _memory(image: Tensor) -> NDArray[Any]:
    """All memory between the image's first and last element, in order, gaps included."""
    view = bits.raw(image)
    return np.lib.stride_tricks.as_strided(view, (bits.span(image),), (view.itemsize,))


class _MisreadOperand(Misread):
    """Reads the operand of one name wrongly in whole."""

    def __init__(self, op: torch._ops.OpOverload, operand: str, device: str) -> None:
        super().__init__(op, device)
        form = form_of(op)
        if operand not in form.argument_names:
            raise UsageError(
                f"{op} has no operand {operand!r}; it has {', '.join(form.argument_names)}"
            )
        if form.position(operand) in form.overwrites:
            raise UsageError(f"{op} overwrites {operand!r}; name an operand that it only reads")
        self.operand = operand

    def _applies(self, call: BoundCall) -> bool:
        raise NotImplementedError

    def _misread(self, tensor: Tensor) -> Tensor:
        raise NotImplementedError

    def _as_read(self, call: BoundCall) -> BoundCall | None:
        if operand_of(call, self.operand) is None or not self._applies(call):
            return None
        place = call.form.position(self.operand)

        def change(path: Path, tensor: Tensor) -> Tensor:
            if path[0] == place:
                return self._misread(tensor) if tensor.numel() else tensor
            return bits.snapshot(tensor) if path[0] in call.form.overwrites else tensor

        return call.mapped(change)


class WrongOffset(_MisreadOperand):
    """The kernel reads ``operand`` ``shift`` elements too far when ``when(call)`` holds.

    The read wraps at the end of the memory that the operand spans, so the kernel touches nothing
    that is not its own.  ``when`` sees the operands as they are before the call;
    :mod:`sdc_guard.inject.predicates` has ready ones.  A list operand is shifted in each tensor.

    Raises:
        UsageError: if ``op`` has no such operand, writes to it, or draws random numbers.
    """

    def __init__(
        self,
        op: torch._ops.OpOverload,
        when: Condition,
        *,
        operand: str = "self",
        shift: int = 1,
        device: str = "CPU",
    ) -> None:
        super().__init__(op, operand, device)
        self.when = when
        self.shift = shift

    def _applies(self, call: BoundCall) -> bool:
        return self.when(call)

    def _misread(self, tensor: Tensor) -> Tensor:
        image = bits.snapshot(tensor)
        host = bits.on_host(image)
        memory = _memory(host)
        memory[:] = np.roll(memory, -self.shift)
        if host is not image:
            bits.restore(image, host)
        return image


class WrongLayout(_MisreadOperand):
    """The kernel ignores the strides of ``operand`` where ``when(shape, strides)`` holds: it reads
    the operand's memory in order, as if it were contiguous (and over again where that is too
    short, as under stride 0).

    Raises:
        UsageError: if ``op`` has no such operand, writes to it, or draws random numbers.
    """

    def __init__(
        self,
        op: torch._ops.OpOverload,
        when: Callable[[tuple[int, ...], tuple[int, ...]], bool] = is_transposed,
        *,
        operand: str = "self",
        device: str = "CPU",
    ) -> None:
        super().__init__(op, operand, device)
        self.when = when

    def __repr__(self) -> str:
        return f"WrongLayout({self.op}, operand={self.operand!r})"

    def _applies(self, call: BoundCall) -> bool:
        tensor = operand_of(call, self.operand)
        return tensor is not None and self.when(tuple(tensor.shape), tuple(tensor.stride()))

    def _misread(self, tensor: Tensor) -> Tensor:
        host = bits.on_host(tensor)
        image = torch.empty(tuple(tensor.shape), dtype=tensor.dtype, device="cpu")
        bits.raw(image).reshape(-1)[:] = np.resize(_memory(host), tensor.numel())
        return image if tensor.device.type == "cpu" else image.to(tensor.device)


class WrongAtOffset(Fault):
    """The kernel stores a wrong number at one output offset, each time ``when(call)`` holds.

    With ``bit`` that bit of element ``flat_index`` (C order) comes out inverted; without it the
    element gets its left neighbour's number, as after an index that is off by one.  Results that
    have no such element come out right.  ``when`` (default: always) sees the operands as they are
    before the call; ``predicates.is_offset`` and ``is_misaligned`` ask for their place in memory.

    Raises:
        UsageError: at construction if ``flat_index`` is negative, or is 0 without a ``bit``.
    """

    def __init__(
        self,
        op: torch._ops.OpOverload,
        flat_index: int,
        *,
        when: Condition | None = None,
        bit: int | None = None,
        output: int = 0,
        device: str = "CPU",
    ) -> None:
        least = 0 if bit is not None else 1
        if flat_index < least:
            raise UsageError(f"flat_index is {flat_index}, must be at least {least}: "
                             "without a bit the element takes its left neighbour's number")
        super().__init__(op, device)
        self.flat_index = flat_index
        self.when = when
        self.bit = bit
        self.output = output

    def _prepare(self, info: CallInfo) -> None:
        info.note = self.when is None or self.when(info.call)

    def _strike(self, info: CallInfo, results: Results) -> None:
        target = self._target(info, results, self.output)
        if not info.note or target is None or self.flat_index >= target.numel():
            return
        if self.bit is not None:
            before, after = flip_bit(target, self.flat_index, self.bit)
        else:
            index = position(target, self.flat_index)
            before = read_element(target, index)
            after = read_element(target, position(target, self.flat_index - 1))
            write_element(target, index, after)
        if before == after:
            self._mask()
            return
        self._record_one(info, target, self.output, self.flat_index, self.bit, before, after)
