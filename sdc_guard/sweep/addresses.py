"""Where in memory an element lies, for reports."""

from __future__ import annotations

import os
from math import prod
from pathlib import Path

from torch import Tensor

from sdc_guard.sweep.declared import Index

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
GPU_PAGE_BYTES = 2 << 20
_PAGEMAP = Path("/proc/self/pagemap")
_FRAME_BITS = 55


def place_of(tensor: Tensor, index: Index) -> str:
    """Offset in the tensor's memory, virtual page, and the physical one where the system tells it
    (Linux, with CAP_SYS_ADMIN).  Virtual addresses mean nothing in another process."""
    offset = sum(i * s for i, s in zip(index, tensor.stride(), strict=True)) * tensor.itemsize
    address = tensor.data_ptr() + offset
    size = PAGE_BYTES if tensor.device.type == "cpu" else GPU_PAGE_BYTES
    text = f"byte {offset:#x} of {prod(tensor.shape) * tensor.itemsize:#x}, virtual page " \
           f"{address // size:#x}"
    frame = physical_page(address) if tensor.device.type == "cpu" else 0
    return f"{text}, physical page {frame:#x}" if frame else text


def physical_page(address: int) -> int:
    """Number of the physical page behind a virtual address of this process; 0 if the system does
    not tell."""
    try:
        with _PAGEMAP.open("rb") as pages:
            pages.seek(address // PAGE_BYTES * 8)
            entry = int.from_bytes(pages.read(8), "little")
    except OSError:
        return 0
    is_present = entry >> 63
    return entry & ((1 << _FRAME_BITS) - 1) if is_present else 0
