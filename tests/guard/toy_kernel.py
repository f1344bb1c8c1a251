"""A kernel check whose answers a test decides, in the place of the one of ``aten.mm``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.ops import _registry, lookup
from sdc_guard.ops._kernels import KernelCheck, KernelRun, Notes
from tests.kernels import noting

CHECK = KernelCheck("checksum", "toy: |C - AB| <= 1e-3", unit="row")


@dataclass
class Toy:
    """``launched`` counts; ``lies`` are the next answers, in the place of the true ones."""

    launched: int = 0
    lies: list[float] = field(default_factory=list)
    remembered: list[object] = field(default_factory=list)
    fails: bool = False

    def kernel(self, call: BoundCall, held: tuple[Tensor, ...]) -> KernelRun | None:
        return self.run if held[0].dtype is torch.float32 else None

    def run(self, call: BoundCall, held: tuple[Tensor, ...], notes: Notes) -> None:
        self.launched += 1
        if self.fails:
            raise RuntimeError("no such device")
        right = notes.remembered(call["mat2"], "values", lambda: bits.values(call["mat2"]))
        self.remembered.append(right)
        product = bits.values(call["self"]) @ right
        defects = abs(product - bits.values(held[0])).max(-1).tolist()
        if self.lies:
            defects = [self.lies.pop(0)] * len(defects)
        noting.launch(noting, defects, [1e-3] * len(defects), notes.record(CHECK), block=8, base=0)


@contextmanager
def installed() -> Iterator[Toy]:
    """``aten.mm`` is checked by a toy."""
    toy = Toy()
    spec = lookup("aten.mm")
    assert spec is not None
    _registry._SPECS["aten.mm"] = dataclasses.replace(spec, kernel=toy.kernel)
    try:
        yield toy
    finally:
        _registry._SPECS["aten.mm"] = spec

