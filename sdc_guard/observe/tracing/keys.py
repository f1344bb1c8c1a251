"""Which calls a trace holds as one, and what it writes of their arguments."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sdc_guard import bits, device_bits
from sdc_guard.calls import OpForm, flatten
from sdc_guard.observe.sites import uncovered
from sdc_guard.observe.tracing.records import (
    Argument,
    Listed,
    Named,
    Opaque,
    Plain,
    Real,
    Statistics,
    TracedTensor,
)
from sdc_guard.observe.tracing.statistics import statistics_of

MAX_TEXT = 200
MAX_ITEMS = 64
"""Of a longer list, as the steps of optimizers have them, the first items stand for all."""


def shortened(live: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments with every list cut to :data:`MAX_ITEMS`."""
    return tuple([v[:MAX_ITEMS] if isinstance(v, (list, tuple)) else v for v in live])


def key_of(live: tuple[Any, ...]) -> tuple[Any, ...]:
    """Shapes, strides, alignment, dtypes, devices and gradients of the operands, which of them are
    one, and the other arguments.  Of an offset into a storage only whether there is one, of a float
    only whether it is 0 or 1: batches walk through a data set, an optimizer's numbers change each
    step."""
    parts = tuple([_part(value) for value in live])
    return parts, tuple(same_as(tensors_in(live)))


def _part(value: Any) -> Any:
    if isinstance(value, Tensor):
        if uncovered(value):
            return (type(value), str(value.layout), value.dtype)
        return (value.shape, value.stride(), value.dtype, value.device, value.requires_grad,
                value.data_ptr() % bits.ALIGNMENT_BYTES, bool(value.storage_offset()),
                bits.is_lazy(value))
    if value is None or isinstance(value, (bool, int, str)):
        return type(value), value
    if isinstance(value, float):
        return value if value in (0.0, 1.0) else float
    if isinstance(value, (list, tuple)):
        return tuple([_part(item) for item in value])
    if isinstance(value, torch.Generator):
        return torch.Generator
    return str(value)


def tensors_in(live: tuple[Any, ...]) -> list[Tensor]:
    """Every tensor among the arguments, in order."""
    return [t for value in live for t in flatten(value) if t is not None]


def same_as(tensors: list[Tensor]) -> Iterator[int]:
    """For each tensor the position of an earlier one that is the very same memory, or -1."""
    known: dict[tuple[Any, ...], int] = {}
    for position, tensor in enumerate(tensors):
        if len(tensors) < 2 or uncovered(tensor) or not tensor.numel():
            yield -1
            continue
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        yield known.get(place, -1)
        known.setdefault(place, position)


def looked_at(form: OpForm, live: tuple[Any, ...]) -> list[Statistics | None]:
    """Figures of each tensor; None for what has none, or is only written to (``out=``)."""
    if device_bits.is_capturing():  # reading would end the capture
        return [None for _ in tensors_in(live)]
    found: list[Statistics | None] = []
    for place, value in enumerate(live):
        is_out = form.is_out and place in form.overwrites
        found += [None if is_out or uncovered(t) else statistics_of(t)
                  for t in flatten(value) if t is not None]
    return found


def reals_in(live: tuple[Any, ...]) -> list[float]:
    """Every float among the arguments, in order."""
    return [v for value in live
            for v in (value if isinstance(value, (list, tuple)) else (value,))
            if isinstance(v, float)]


def described(
    live: tuple[Any, ...], seen: list[Statistics | None], max_data_bytes: int
) -> tuple[Argument, ...]:
    """The arguments as a trace writes them."""
    places = iter(zip(same_as(tensors_in(live)), seen, strict=True))

    def one(value: Any) -> TracedTensor | Plain | Real | Named | Opaque:
        if isinstance(value, Tensor):
            same, figures = next(places)
            return _tensor(value, same, figures, max_data_bytes)
        return _other(value)

    return tuple(
        Listed(items=tuple(one(v) for v in value)) if isinstance(value, (list, tuple))
        else one(value) for value in live)


def _tensor(
    tensor: Tensor, same: int, seen: Statistics | None, max_data_bytes: int
) -> TracedTensor | Opaque:
    if reason := uncovered(tensor):
        return Opaque(what=reason)
    size = tensor.numel() * tensor.element_size()
    data = None
    if 0 < size <= max_data_bytes and not bits.is_lazy(tensor) and not device_bits.is_capturing():
        dense = bits.raw(bits.on_host(tensor.detach()))
        data = base64.b64encode(dense.tobytes()).decode("ascii")
    return TracedTensor(
        dtype=str(tensor.dtype).removeprefix("torch."), shape=tuple(tensor.shape),
        strides=tuple(tensor.stride()), offset=int(tensor.storage_offset()),
        alignment=tensor.data_ptr() % bits.ALIGNMENT_BYTES, device=tensor.device.type,
        requires_grad=tensor.requires_grad, same_as=same, seen=seen, data=data)


def _other(value: Any) -> Plain | Real | Named | Opaque:
    if value is None or isinstance(value, bool):
        return Plain(value=value)
    if isinstance(value, int):
        return Plain(value=int(value)) if abs(value) < 1 << 63 else Opaque(what="a large integer")
    if isinstance(value, str):
        return Plain(value=value) if len(value) <= MAX_TEXT else Opaque(what="a long text")
    if isinstance(value, float):
        edge = "" if value != value else value.hex()
        return Real(value=value.hex(), low=edge, high=edge)
    if isinstance(value, complex):
        return Named(of="complex", name=f"{value.real.hex()} {value.imag.hex()}")
    if isinstance(value, torch.device):
        return Named(of="device", name=value.type)
    for name, its_type in (("dtype", torch.dtype), ("layout", torch.layout),
                           ("memory_format", torch.memory_format)):
        if isinstance(value, its_type):
            return Named(of=name, name=str(value).removeprefix("torch."))
    return Opaque(what=type(value).__name__)
