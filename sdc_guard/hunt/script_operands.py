"""Live operands as Python source that makes them again with torch alone, bit for bit."""

from __future__ import annotations

import base64
import math
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.errors import SdcGuardError

MAX_LISTED = 96
"""Elements that are written out as a list; more are written as an expression, or packed."""
MAX_PACKED = 200_000
"""Characters of a packed literal."""


class NotWritableError(SdcGuardError):
    """An operand, or a form of the call, that a short script cannot hold."""


@dataclass(slots=True)
class Source:
    """Lines that make the operands, and the name of each tensor.  ``imports`` are modules of the
    standard library that the lines need."""

    lines: list[str] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    imports: set[str] = field(default_factory=set)
    kept: list[Tensor] = field(default_factory=list)

    def add(self, tensors: list[Tensor]) -> None:
        """Write the lines for tensors; those that share memory will share it.

        Raises:
            NotWritableError: for lazy, sparse or very large operands, or two dtypes in one memory.
        """
        groups: dict[int, list[Tensor]] = {}
        for tensor in {id(t): t for t in tensors}.values():
            if tensor.layout is not torch.strided or bits.is_lazy(tensor):
                raise NotWritableError(f"an operand in layout {tensor.layout}, or a lazy one")
            groups.setdefault(tensor.untyped_storage().data_ptr() or -id(tensor), []).append(tensor)
        for group in groups.values():
            self._add_group(group)

    def _add_group(self, group: list[Tensor]) -> None:
        first = group[0]
        if any(t.dtype is not first.dtype for t in group):
            raise NotWritableError("operands of two dtypes share memory")
        name = f"x{len(self.names)}"
        size = first.untyped_storage().nbytes() // first.element_size()
        storage = first.detach().as_strided((size,), (1,), 0)
        is_plain = len(group) == 1 and first.is_contiguous() and first.numel() == size
        where = "" if first.device.type == "cpu" else f', device="{first.device.type}"'
        expression = self._flat(storage, where)
        if is_plain:
            if tuple(first.shape) != (size,):
                expression += f".reshape({tuple(first.shape)})"
            self._named(name, expression, first)
            return
        if len(group) == 1:
            self._named(name, expression + _view(first), first)
            return
        self.lines.append(f"memory{len(self.names)} = {expression}")
        shared = f"memory{len(self.names)}"
        for tensor in group:
            self._named(f"x{len(self.names)}", shared + _view(tensor), tensor)

    def _named(self, name: str, expression: str, tensor: Tensor) -> None:
        grad = ".requires_grad_()" if tensor.requires_grad and tensor.is_leaf else ""
        self.lines.append(f"{name} = {expression}{grad}")
        self.names[id(tensor)] = name
        self.kept.append(tensor)

    def _flat(self, storage: Tensor, where: str) -> str:
        """An expression for a vector with these bits."""
        size = storage.numel()
        dtype = f"dtype={storage.dtype}{where}"
        if not size:
            return f"torch.empty((0,), {dtype})"
        host = bits.on_host(storage)
        raw = bits.raw(host).copy()
        if size <= MAX_LISTED and _is_literal(host, raw):
            return f"torch.tensor([{', '.join(map(_spelled, _items(host)))}], {dtype})"
        if np.all(raw == raw[0]) and _is_literal(host[:1], raw[:1]):
            return f"torch.full(({size},), {_spelled(_items(host[:1])[0])}, {dtype})"
        period = _period(raw)
        if period and _is_literal(host[:period], raw[:period]):
            listed = ", ".join(map(_spelled, _items(host[:period])))
            whole = f"torch.tensor([{listed}], {dtype}).repeat({-(-size // period)})"
            return whole if size % period == 0 else f"{whole}[:{size}].clone()"
        packed = base64.b85encode(zlib.compress(raw.tobytes(), 9)).decode()
        if len(packed) > MAX_PACKED:
            raise NotWritableError(f"an operand of {size} elements that no short expression gives")
        self.imports |= {"base64", "zlib"}
        to = f'.to("{storage.device.type}")' if where else ""
        return ("torch.frombuffer(bytearray(zlib.decompress(base64.b85decode(\n    "
                f'"{packed}"))), dtype={storage.dtype}).clone(){to}')


def _view(tensor: Tensor) -> str:
    shape, strides = tuple(tensor.shape), tuple(tensor.stride())
    return f".as_strided({shape}, {strides}, {tensor.storage_offset()})"


def _items(host: Tensor) -> list[Any]:
    """Python numbers of a vector, exact, shortest digits for narrow formats."""
    values = bits.numbers(host)
    if values is None:
        raise NotWritableError(f"a format without values: {host.dtype}")
    if host.dtype is torch.float32:
        return [float(str(np.float32(v))) for v in values]
    return list(values.tolist())


def _spelled(value: Any) -> str:
    if isinstance(value, float):
        if math.isnan(value):
            return "float('nan')"
        return repr(value) if math.isfinite(value) else f"float('{value}')"
    if isinstance(value, complex):
        return f"complex({_spelled(value.real)}, {_spelled(value.imag)})"
    return repr(value)


def _is_literal(host: Tensor, raw: Any) -> bool:
    """True if the spelled numbers come back as the same bits (a NaN with a payload does not)."""
    try:
        again = torch.tensor(_items(host), dtype=host.dtype)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False
    return bool(np.array_equal(bits.raw(again), raw))


def _period(raw: Any) -> int:
    """The smallest period of at most ``MAX_LISTED`` elements, 0 for none."""
    for period in range(2, min(MAX_LISTED, raw.size // 2) + 1):
        if np.array_equal(raw[period:], raw[:-period]):
            return period
    return 0


def spelled_argument(value: Any, names: dict[int, str]) -> str:
    """An argument of a call as source.

    Raises:
        NotWritableError: for a value that has no short source.
    """
    if isinstance(value, Tensor):
        return names[id(value)]
    if isinstance(value, (list, tuple)):
        inside = ", ".join(spelled_argument(v, names) for v in value)
        if isinstance(value, tuple):
            return f"({inside},)" if len(value) == 1 else f"({inside})"
        return f"[{inside}]"
    if isinstance(value, torch.device):
        return repr(str(value))
    if value is None or isinstance(value, (bool, int, float, complex, str)):
        return _spelled(value)
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
        return str(value)
    raise NotWritableError(f"an argument of type {type(value).__name__}")
