"""Call sites: everything that may change which kernel runs, as a hashable key."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdc_guard import bits

_DEVICES = frozenset({"cpu", "cuda"})


class Conditions(NamedTuple):
    """What besides the operands selects a kernel, its order or its rounding."""

    num_threads: int
    deterministic: bool
    matmul_precision: Any
    mkldnn: Any
    cuda_precision: Any
    flushes_subnormals: bool


def conditions() -> Conditions:
    """The conditions of this thread now."""
    return Conditions(
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        _flag(torch.get_float32_matmul_precision),
        torch.backends.mkldnn.enabled,
        _flag(lambda: getattr(torch.backends.cuda.matmul, "fp32_precision", None)),
        sys.float_info.min * 0.5 == 0.0,
    )


def _flag(read: Callable[[], Any]) -> Any:
    """A precision switch; torch refuses to read one that was set through its other interface."""
    try:
        return read()
    except RuntimeError:
        return "set elsewhere"


def site_key(op: Any, args: tuple[Any, ...], now: tuple[Any, ...]) -> tuple[Any, ...]:
    """Op, exact shapes, strides, alignment, dtypes and devices of the operands, and the other
    arguments; of Python floats only whether they are 0 or 1, since an optimizer's change each step
    and kernels do not depend on them otherwise."""
    return (id(op), now, *[_part(value) for value in args])


def _part(value: Any) -> Any:
    if isinstance(value, Tensor):
        if value.is_nested:  # of the old kind, without a shape
            return ("nested", value.dtype, value.device)
        if value.layout is not torch.strided:
            return (value.shape, value.layout, value.dtype, value.device)
        # Without an offset ``data_ptr`` is 0 for a tensor without memory, and costs less than half.
        address = bits.address(value) if value.storage_offset() else value.data_ptr()
        alignment = address & 63 if address else -1
        lazy = value.is_neg() or value.is_conj()
        return (value.shape, value.stride(), value.dtype, alignment, value.device, lazy)
    if value is None or value is True or value is False:
        return value
    if isinstance(value, float):
        return value if value in (0.0, 1.0) else "float"
    if isinstance(value, (list, tuple)):
        return tuple([_part(item) for item in value])
    return value if value.__hash__ is not None else repr(value)


def uncovered(tensor: Tensor) -> str:
    """Why a tensor cannot be looked at, or an empty string."""
    if tensor.is_nested:
        return "nested tensor"
    if tensor.layout is not torch.strided:
        return f"layout {tensor.layout}".replace("torch.", "")
    if tensor.device.type not in _DEVICES:
        return f"device {tensor.device.type}"
    if tensor.is_quantized or tensor.dtype is torch.complex32:
        return f"dtype {tensor.dtype}".replace("torch.", "")
    if (
        type(tensor) is not Tensor
        and hasattr(type(tensor), "__torch_dispatch__")
        and type(tensor).__torch_dispatch__ is not torch._C._disabled_torch_dispatch_impl
    ):
        return f"tensor subclass {type(tensor).__name__}"
    if tensor.numel() and not bits.address(tensor):
        return "tensor without memory"  # zeros that forward differentiation never writes out
    return ""
