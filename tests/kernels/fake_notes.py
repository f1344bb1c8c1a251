"""What a launch gets from the guard, reduced to what tests need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

from sdc_guard.ops._kernels import KernelCheck

T = TypeVar("T")


class FakeNotes:
    """Keeps the records that a launch asked for, and remembers by address and layout."""

    def __init__(self, device: Any, seed: int = 2**62 + 7) -> None:
        self.device = device
        self.seed = seed
        self.checks: list[KernelCheck] = []
        self.records: list[Tensor] = []
        self.memory: dict[Any, Any] = {}

    def record(self, check: KernelCheck) -> Tensor:
        from sdc_guard_kernels.verdict import new_records

        self.checks.append(check)
        self.records.append(new_records(1, self.device)[0])
        return self.records[-1]

    def remembered(self, operand: Tensor, name: str, compute: Callable[[], T]) -> T:
        key = (operand.data_ptr(), operand.shape, operand.stride(), operand.dtype, name)
        if key not in self.memory:
            self.memory[key] = compute()
        found: T = self.memory[key]
        return found

    def verdicts(self) -> dict[str, Any]:
        """The verdict of each witness; each was asked for once."""
        from sdc_guard_kernels.verdict import read

        assert len({c.witness for c in self.checks}) == len(self.checks)
        return {c.witness: read(r[None])[0] for c, r in zip(self.checks, self.records, strict=True)}
