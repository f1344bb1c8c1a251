"""What a rival is to the matrix: a program that gets results, compares them its way, and says
whether anything is wrong.

Sizes are small enough for one core; what decides a comparison (length of sums, range of operands,
tolerance) is as described.  A rival's clean results are computed once and handed out again as
copies: the same computation gives the same bits, and the fault comes after it.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from sdc_guard.bench.sweep.faults import Dwell, Fault
from sdc_guard.sweep.declared import Bits, Case, Made, Place
from sdc_guard.sweep.exact import bits_of

MEASURE_S = 0.2


@dataclass(frozen=True)
class Work:
    """One computation of a rival: its operands' bits, and what it gives on a sound unit."""

    case: Case
    inputs: tuple[Bits, ...]
    clean: Tensor
    compute: Callable[[], Tensor]

    @property
    def num_elements(self) -> int:
        return int(self.clean.numel())

    def on(self, fault: Fault) -> Tensor:
        """The result as a unit with this fault gives it."""
        result = self.clean.clone()
        made = Made(run=lambda: (result,), expected=None, inputs=self.inputs)
        fault(self.case, made, (result,))
        return result


def work(label: str, op: str, operands: tuple[Tensor, ...],
         compute: Callable[..., Tensor]) -> Work:
    """A computation on these operands."""
    clean = compute(*operands)

    def unused(random: np.random.Generator, place: Place) -> Made:
        raise NotImplementedError("a rival makes its operands itself")

    case = Case(label=label, op=op, dtype=str(clean.dtype).removeprefix("torch."),
                shape=tuple(clean.shape), make=unused)
    return Work(case, tuple(bits_of(x) for x in operands), clean,
                lambda: compute(*operands))


class Rival(abc.ABC):
    """``name`` as users call it; ``compares`` and ``reduced`` for the page: how it compares, and
    what is smaller here than in the original."""

    name: ClassVar[str]
    compares: ClassVar[str]
    reduced: ClassVar[str]
    works: tuple[Work, ...]

    @abc.abstractmethod
    def __init__(self, seed: int) -> None: ...

    @abc.abstractmethod
    def finds(self, fault: Fault) -> bool:
        """Whether it reports anything on a unit with this fault."""

    def dwell(self, dwell_s: float) -> Dwell:
        """Runs and elements that it gets through in this time on this machine."""
        started_s, num_rounds = time.monotonic(), 0
        while not num_rounds or time.monotonic() - started_s < MEASURE_S:
            for each in self.works:
                each.compute()
            num_rounds += 1
        rounds = max(1, int(dwell_s * num_rounds / (time.monotonic() - started_s)))
        return Dwell(rounds * len(self.works),
                     rounds * sum(each.num_elements for each in self.works))

    @property
    def left(self) -> dict[str, bytes]:
        """A buffer that is written again and again holds the result of the round before."""
        return {w.case.label: bits_of(w.clean).tobytes() for w in self.works}


def uniform(seed: int, shape: tuple[int, ...], dtype: torch.dtype, top: float = 1.0) -> Tensor:
    """Random numbers of 0 to ``top``, in steps of ``top / 10^6``."""
    drawn = np.random.default_rng(seed).integers(0, 10**6, shape)
    return torch.from_numpy(drawn * (top / 10**6)).to(dtype)
