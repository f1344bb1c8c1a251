"""gpu-burn and DCGM's ``diagnostic``: many copies of one product, compared with the first copy."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sdc_guard.bench.sweep.faults import Fault
from sdc_guard.bench.sweep.rivals.base import Rival, Work, uniform, work

NUM_COPIES = 10
ROWS = COLUMNS = 32
LENGTHS = {torch.float64: 8192, torch.float32: 8192, torch.float16: 2048}
"""Sums of 8192 products of numbers up to 10; in float16 as long as they stay finite."""
LIMITS = {torch.float64: 1e-7, torch.float32: 1e-3, torch.float16: 1e-3}
"""The programs' own: an element is wrong where the difference is larger."""


class SelfCompare(Rival):
    """Copies 1 to N - 1 against copy 0 of the same unit, element by element."""

    dtypes: ClassVar[tuple[torch.dtype, ...]]
    counts_nan: ClassVar[bool]

    def __init__(self, seed: int) -> None:
        self.works = tuple(_product(seed, dtype) for dtype in self.dtypes)

    def finds(self, fault: Fault) -> bool:
        num_runs = 0
        while True:
            for each in self.works:
                copies = [each.on(fault) for _ in range(NUM_COPIES)]
                num_runs += NUM_COPIES
                if any(self._differs(copies[0], copy) for copy in copies[1:]):
                    return True
                if self.counts_nan and any(bool(copy.isnan().any()) for copy in copies):
                    return True
            if fault.is_through(num_runs):
                return False

    @staticmethod
    def _differs(first: Tensor, copy: Tensor) -> bool:
        # As in the originals: a NaN is not greater than anything, and is not seen.
        return bool(((first - copy).abs() > LIMITS[first.dtype]).any())


class GpuBurn(SelfCompare):
    """float32, which is its default."""

    name = "gpu-burn"
    compares = "copies of one product with the first copy, from the same unit; |a - b| > 1e-3"
    reduced = "32 x 8192 x 32 and 10 copies, not 8192 x 8192 x 8192 and memory full of copies"
    dtypes = (torch.float32,)
    counts_nan = False


class Dcgm(SelfCompare):
    """float64, float32 and float16 in turn, and a count of NaN."""

    name = "DCGM diagnostic"
    compares = ("as gpu-burn, in float64 (1e-7), float32 and float16 (1e-3) in turn; NaN is "
                "counted apart")
    reduced = "as gpu-burn; sums of 2048 in float16, which stay finite"
    dtypes = (torch.float64, torch.float32, torch.float16)
    counts_nan = True


def _product(seed: int, dtype: torch.dtype) -> Work:
    length = LENGTHS[dtype]
    a_MK = uniform(seed, (ROWS, length), dtype, 10.0)
    b_KN = uniform(seed + 1, (length, COLUMNS), dtype, 10.0)
    return work(f"product {dtype}", "aten.mm", (a_MK, b_KN), torch.mm)
