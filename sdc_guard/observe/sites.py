"""Call sites: everything that may change which kernel runs, as a hashable key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_DEVICES = frozenset({"cpu", "cuda"})


def conditions() -> tuple[Any, ...]:
    """What besides the operands selects a kernel or its order: threads and numeric flags."""
    return (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        _flag(torch.get_float32_matmul_precision),
        torch.backends.mkldnn.enabled,
        _flag(lambda: getattr(torch.backends.cuda.matmul, "fp32_precision", None)),
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
        if value.layout is not torch.strided:
            return (value.shape, value.layout, value.dtype, value.device)
        return (value.shape, value.stride(), value.dtype, value.data_ptr() & 63, value.device)
    if value is None or value is True or value is False:
        return value
    if isinstance(value, float):
        return value if value in (0.0, 1.0) else "float"
    if isinstance(value, (list, tuple)):
        return tuple([_part(item) for item in value])
    return value if value.__hash__ is not None else repr(value)


def uncovered(tensor: Tensor) -> str:
    """Why a tensor cannot be looked at, or an empty string."""
    if tensor.layout is not torch.strided:
        return f"layout {tensor.layout}".replace("torch.", "")
    if tensor.device.type not in _DEVICES:
        return f"device {tensor.device.type}"
    if tensor.is_quantized or tensor.dtype.is_complex:
        return f"dtype {tensor.dtype}".replace("torch.", "")
    if tensor.is_neg() or tensor.is_conj():
        return "lazily negated or conjugated operand"
    if (
        type(tensor) is not Tensor
        and hasattr(type(tensor), "__torch_dispatch__")
        and type(tensor).__torch_dispatch__ is not torch._C._disabled_torch_dispatch_impl
    ):
        return f"tensor subclass {type(tensor).__name__}"
    return ""
