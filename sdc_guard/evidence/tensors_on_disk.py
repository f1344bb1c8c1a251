"""Tensors as raw bytes: one region per distinct stretch of memory, and how each tensor lies in it.

Operands whose address ranges overlap share one region, so that an operand that aliases another
still does when they are rebuilt.  CPU memory is read in place, by no aten kernel.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdc_guard.bits import ALIGNMENT_BYTES, on_host, raw, span

_PLAIN_TYPES = (Tensor, torch.nn.Parameter)


class NotStorableError(Exception):
    """An operand or result that has no raw bytes, or an argument that has no JSON form."""


def require_storable(tensor: Tensor) -> None:
    """Check that the tensor is plain strided memory that exists.

    Raises:
        NotStorableError: for subclasses, sparse, quantized, meta, conjugated, wrapped or freed
            tensors.
    """
    reason = ""
    if type(tensor) not in _PLAIN_TYPES:
        reason = f"it is a {type(tensor).__name__}"
    elif tensor.layout is not torch.strided or tensor.is_quantized:
        reason = f"its layout is {tensor.layout}, quantized: {tensor.is_quantized}"
    elif tensor.device.type == "meta":
        reason = "it is on the meta device"
    elif tensor.is_conj() or tensor.is_neg():
        reason = "it is a lazy conjugate or negative"
    else:
        try:
            end = (tensor.storage_offset() + span(tensor)) * tensor.element_size()
            size = tensor.untyped_storage().nbytes()
        except (RuntimeError, NotImplementedError) as error:
            reason = str(error)
        else:
            if tensor.numel() and end > size:
                reason = f"it ends at byte {end} of a storage of {size} bytes (freed?)"
    if reason:
        shape = tuple(tensor.shape)
        raise NotStorableError(f"a tensor of shape {shape} cannot be stored: {reason}")


def dtype_name(tensor: Tensor) -> str:
    """``float32`` for a ``torch.float32`` tensor."""
    return str(tensor.dtype).removeprefix("torch.")


@dataclass(frozen=True, slots=True)
class Region:
    """A stretch of memory at ``start``; ``pad_bytes`` before it make every tensor in it start
    at a multiple of its element size."""

    start: int
    num_bytes: int
    pad_bytes: int
    owner: Tensor

    def data(self) -> bytes | memoryview:
        """The bytes; on a CPU a view of live memory, valid while ``owner`` lives."""
        if self.owner.device.type == "cpu":
            return memoryview((ctypes.c_char * self.num_bytes).from_address(self.start)).cast("B")
        storage = self.owner.untyped_storage()
        offset = self.start - storage.data_ptr()
        flat = torch.empty(0, dtype=torch.uint8, device=self.owner.device)
        flat = flat.set_(storage, offset, (self.num_bytes,), (1,)).cpu()
        return ctypes.string_at(flat.data_ptr(), self.num_bytes)

    def entry(self, member: str) -> dict[str, Any]:
        return {"member": member, "num_bytes": self.num_bytes, "pad_bytes": self.pad_bytes,
                "alignment_bytes": self.start % ALIGNMENT_BYTES}


def _interval(tensor: Tensor) -> tuple[int, int]:
    start = tensor.data_ptr()
    return start, start + span(tensor) * tensor.element_size()


def _pad(start: int, tensors: list[Tensor]) -> int:
    for pad in range(ALIGNMENT_BYTES):
        if all((t.data_ptr() - start + pad) % t.element_size() == 0 for t in tensors):
            return pad
    raise NotStorableError("operands share memory at addresses that no common storage can hold")


def _grouped(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    groups: list[list[Tensor]] = []
    end, device = 0, ""
    full = (t for t in tensors if t.numel())
    for tensor in sorted(full, key=lambda t: (str(t.device), t.data_ptr())):
        start, last = _interval(tensor)
        if groups and start < end and str(tensor.device) == device:
            groups[-1].append(tensor)
            end = max(end, last)
        else:
            groups.append([tensor])
            end, device = last, str(tensor.device)
    return groups


@dataclass(frozen=True, slots=True)
class Layout:
    """Regions, and for each tensor its place in one of them (``entries``, ready for JSON)."""

    regions: tuple[Region, ...]
    entries: tuple[dict[str, Any], ...]

    @property
    def num_bytes(self) -> int:
        return sum(region.num_bytes for region in self.regions)


def lay_out(tensors: Sequence[Tensor]) -> Layout:
    """Where each tensor lies, without reading any.

    Raises:
        NotStorableError: see :func:`require_storable`.
    """
    for tensor in tensors:
        require_storable(tensor)
    regions: list[Region] = []
    region_of: dict[int, int] = {}
    for group in _grouped(tensors):
        start = group[0].data_ptr()
        end = max(_interval(t)[1] for t in group)
        region_of.update({id(t): len(regions) for t in group})
        regions.append(Region(start, end - start, _pad(start, group), group[0]))

    def entry(tensor: Tensor) -> dict[str, Any]:
        region = region_of.get(id(tensor))
        return {
            "region": region,
            "offset_bytes": 0 if region is None else tensor.data_ptr() - regions[region].start,
            "dtype": dtype_name(tensor),
            "shape": list(tensor.shape),
            "stride": list(tensor.stride()),
            "storage_offset": tensor.storage_offset(),
            "device": str(tensor.device),
        }

    return Layout(tuple(regions), tuple(entry(t) for t in tensors))


def c_order_bytes(tensor: Tensor) -> bytes:
    """The tensor's bits in C order, gathered by NumPy from the tensor's own strides."""
    host = on_host(tensor)
    itemsize = host.element_size()
    if itemsize > 8:
        if not host.numel():
            return b""
        memory = (ctypes.c_char * (span(host) * itemsize)).from_address(host.data_ptr())
        flat = np.frombuffer(memoryview(memory).cast("B"), dtype=f"V{itemsize}")
        strides = tuple(s * itemsize for s in host.stride())
        return np.lib.stride_tricks.as_strided(flat, tuple(host.shape), strides).tobytes()
    return raw(host).tobytes()
