"""What bugs are made of: operands read wrongly, results stored wrongly, numbers rounded early."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.inject.override import CallInfo, Results
from tests.hunt_power.mutant import Spoil


def write(target: Tensor, wrong: Tensor) -> None:
    """The bits of ``wrong`` (same shape and dtype) into ``target``."""
    np.copyto(bits.raw(target), bits.raw(wrong.detach()))


def write_numbers(target: Tensor, numbers: NDArray[Any]) -> None:
    """Numbers, rounded to its dtype, into ``target``."""
    made = torch.from_numpy(np.array(np.broadcast_to(numbers, tuple(target.shape)), order="C"))
    write(target, made.to(target.dtype))


def reread(info: CallInfo, **operands: Any) -> Spoil:
    """The results of the kernel on other operands, in the place of the right ones."""
    wrong = info.rerun(info.call.with_private_images().replaced(**operands))

    def spoil(results: Results) -> None:
        for result, other in zip(results, wrong, strict=True):
            if result is not None and other is not None and result.shape == other.shape:
                write(result, other)

    return spoil


def stored(output: int, change: Any) -> Spoil:
    """``change(tensor)`` of one result."""
    def spoil(results: Results) -> None:
        result = results[output]
        if result is not None:
            change(result)

    return spoil


def image(tensor: Tensor) -> Tensor:
    """A contiguous copy."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def as_if_contiguous(tensor: Tensor) -> Tensor:
    """What a kernel reads that ignores strides: the tensor's memory in order, and over again where
    that is too short."""
    memory = np.lib.stride_tricks.as_strided(
        raw := bits.raw(tensor.detach()), (bits.span(tensor),), (raw.itemsize,))
    made = torch.empty(tuple(tensor.shape), dtype=tensor.dtype)
    bits.raw(made).reshape(-1)[:] = np.resize(memory, tensor.numel())
    return made


def stored_as_if_contiguous(target: Tensor) -> None:
    """What a kernel leaves that ignores the strides of its output: the numbers lie one after the
    other from the first address on, and are read with the strides; what lies between is old."""
    raw = bits.raw(target)
    flat = np.array(raw, order="C").reshape(-1)
    memory = np.lib.stride_tricks.as_strided(raw, (bits.span(target),), (raw.itemsize,))
    memory[:len(flat)] = flat


def is_dense(tensor: Tensor) -> bool:
    return bool(tensor.is_contiguous())


def is_expanded(tensor: Tensor, dim: int) -> bool:
    """True if a dimension of more than one element has stride 0."""
    return (tensor.dim() > 0 and -tensor.dim() <= dim < tensor.dim() and tensor.shape[dim] > 1
            and tensor.stride(dim) == 0)


def reduced(call: BoundCall) -> tuple[int, ...]:
    """The dimensions that a reduction reduces, all of them for none."""
    tensor, dim = call["self"], call.get("dim")
    if dim is None or dim == []:
        return tuple(range(tensor.dim()))
    dims = dim if isinstance(dim, (list, tuple)) else [dim]
    return tuple(sorted(d % max(tensor.dim(), 1) for d in dims))


def is_float(tensor: Tensor) -> bool:
    return bool(tensor.is_floating_point())


def to_bfloat16(numbers: NDArray[Any]) -> NDArray[Any]:
    """float32 numbers rounded to bfloat16, to nearest even."""
    words = np.ascontiguousarray(numbers, dtype=np.float32).view(np.uint32)
    rounded = (words + 0x7FFF + ((words >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.astype(np.uint32).view(np.float32)


def accumulated_in_half(tensor: Tensor, axis: int) -> NDArray[Any]:
    """The sum along an axis, one term after the other, each rounded to the tensor's own format."""
    numbers = np.moveaxis(bits.values(tensor).astype(np.float32), axis, 0)
    if tensor.dtype is torch.float16:
        return np.add.accumulate(numbers.astype(np.float16), axis=0, dtype=np.float16)[-1]
    total = np.zeros(numbers.shape[1:], dtype=np.float32)
    for term in numbers:
        total = to_bfloat16(total + term)
    return total


def is_half(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.float16, torch.bfloat16)
