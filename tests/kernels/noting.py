"""The smallest kernel that leaves a verdict."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sdc_guard_kernels.verdict import note


@triton.jit  # type: ignore[untyped-decorator]
def note_kernel(  # type: ignore[no-untyped-def]
    defect_ptr, limit_ptr, record_ptr, num, base, BLOCK: tl.constexpr
):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK).to(tl.int64)
    exists = place < num
    # What the mask leaves out would be over its limit.
    defect = tl.load(defect_ptr + place, mask=exists, other=2.0)
    limit = tl.load(limit_ptr + place, mask=exists, other=1.0)
    note(record_ptr, defect, limit, base + place, exists)


def launch(
    kernels: Any, defects: list[float], limits: list[float], record: Tensor, *, block: int,
    base: int,
) -> None:
    num = len(defects)
    kernels.note_kernel[(triton.cdiv(num, block),)](
        torch.tensor(defects, dtype=torch.float64, device=record.device),
        torch.tensor(limits, dtype=torch.float64, device=record.device),
        record, num, base, BLOCK=block)
