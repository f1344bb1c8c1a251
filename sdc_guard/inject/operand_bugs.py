"""Deterministic bugs of kernels that read an operand wrongly, whatever its shape: a block of the
reduction that is left out, rows that are exchanged."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard.calls import BoundCall, Path
from sdc_guard.inject.composed import OperandFault, damaged
from sdc_guard.inject.damage import SwapRows, Zero
from sdc_guard.inject.regions import All, num_filled, rows_and_columns
from sdc_guard.inject.timing import Always


def reduction_axis(call: BoundCall, tensor: Tensor) -> int:
    """The axis of an operand that the op adds up over: its ``dim`` (the first of several), the
    channels of a convolution, else the last one."""
    dim = call.get("dim")
    if isinstance(dim, (list, tuple)):
        dim = dim[0] if dim else None
    if isinstance(dim, int) and not isinstance(dim, bool) and -tensor.dim() <= dim < tensor.dim():
        return dim % tensor.dim()
    if "convolution" in call.form.packet and tensor.dim() > 1:
        return 1
    return tensor.dim() - 1


class DroppedBlock(OperandFault):
    """Every execution reads zeros for part ``number`` (modulo those that are not empty) of
    ``parts`` equal ones of the reduction axis of the operand at ``path``
    (:func:`reduction_axis`), as a kernel that skips a block."""

    def __init__(
        self, op: torch._ops.OpOverload, path: Path, number: int, parts: int, *,
        dtype: torch.dtype | None = None, device: str = "CPU",
    ) -> None:
        super().__init__(op, Always(), path, All(), Zero(), dtype=dtype, device=device)
        self.number = number
        self.parts = parts

    def __repr__(self) -> str:
        return f"DroppedBlock({self.op}, path={self.path}, {self.number} of {self.parts})"

    def _misread(
        self, call: BoundCall, tensor: Tensor
    ) -> tuple[NDArray[Any], NDArray[Any]] | None:
        def block(tensor: Tensor) -> NDArray[np.intp]:
            if not tensor.dim():
                return np.arange(0)
            axis = reduction_axis(call, tensor)
            length = -(-tensor.shape[axis] // self.parts)
            inside = np.zeros(tuple(tensor.shape), dtype=bool)
            start = self.number % num_filled(tensor.shape[axis], self.parts) * length
            np.moveaxis(inside, axis, 0)[start:start + length] = True
            return np.flatnonzero(inside)

        return damaged(tensor, block, self.damage)


class SwappedOperandRows(OperandFault):
    """Every execution reads rows ``first`` and ``second`` (modulo their number) of the operand at
    ``path`` in each other's place; elements of a vector are its rows."""

    def __init__(
        self, op: torch._ops.OpOverload, path: Path, first: int, second: int, *,
        dtype: torch.dtype | None = None, device: str = "CPU",
    ) -> None:
        super().__init__(op, Always(), path, All(), SwapRows(first, second, 1), dtype=dtype,
                         device=device)
        self.rows = first, second

    def __repr__(self) -> str:
        return f"SwappedOperandRows({self.op}, path={self.path}, rows={self.rows})"

    def _misread(
        self, call: BoundCall, tensor: Tensor
    ) -> tuple[NDArray[Any], NDArray[Any]] | None:
        length = 1 if tensor.dim() < 2 else rows_and_columns(tuple(tensor.shape))[1]
        return damaged(tensor, self.region, SwapRows(*self.rows, length))
