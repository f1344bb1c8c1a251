"""SuperBench ``cublas-function --correctness``: a product against one computed on the host."""

from __future__ import annotations

import torch

from sdc_guard.bench.sweep.faults import Fault
from sdc_guard.bench.sweep.rivals.base import Rival, uniform, work

ROWS = COLUMNS = 32
LENGTH = 4096
LIMIT = 1e-6
"""For ``|d| / |ref| / K``."""


class SuperBench(Rival):
    """Relative difference over the length of the sums."""

    name = "SuperBench"
    compares = "a product with one computed on the host; |d| / |ref| / K > 1e-6"
    reduced = "32 x 4096 x 32 in float32, numbers of 0 to 1"

    def __init__(self, seed: int) -> None:
        a_MK = uniform(seed, (ROWS, LENGTH), torch.float32)
        b_KN = uniform(seed + 1, (LENGTH, COLUMNS), torch.float32)
        self._work = work("product", "aten.mm", (a_MK, b_KN), torch.mm)
        self.works = (self._work,)
        self._reference = a_MK.double() @ b_KN.double()

    def finds(self, fault: Fault) -> bool:
        num_runs = 0
        while not fault.is_through(num_runs):
            difference = (self._work.on(fault).double() - self._reference).abs()
            # As in the original: a NaN is not greater than anything, and is not seen.
            if bool((difference / self._reference.abs() / LENGTH > LIMIT).any()):
                return True
            num_runs += 1
        return False
