"""Imbue's stress test: a product of matrices of ones, copied to the neighbour and compared there
with its own."""

from __future__ import annotations

import torch

from sdc_guard.bench.sweep.faults import Fault
from sdc_guard.bench.sweep.rivals.base import Rival, work

SIZE = 256


class Imbue(Rival):
    """``==`` against a neighbour that is sound."""

    name = "Imbue"
    compares = "the product of two matrices of ones in bfloat16 with a sound neighbour's, by =="
    reduced = "256 x 256 x 256"

    def __init__(self, seed: int) -> None:
        ones = torch.ones(SIZE, SIZE, dtype=torch.bfloat16)
        self._work = work("product of ones", "aten.mm", (ones, ones), torch.mm)
        self.works = (self._work,)

    def finds(self, fault: Fault) -> bool:
        num_runs = 0
        while not fault.is_through(num_runs):
            if not bool((self._work.on(fault) == self._work.clean).all()):
                return True
            num_runs += 1
        return False
