"""What a kernel check gets from the guard (:class:`sdc_guard.ops._kernels.Notes`), for a benchmark
that launches the checks itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from sdc_guard.bench.gpu.figures import Verdicts
from sdc_guard.calls import BoundCall
from sdc_guard.ops._kernels import KernelCheck, KernelRun

T = TypeVar("T")
MAX_RECORDS = 64


class BenchNotes:
    """Records of one check that is launched again and again: they keep the worst of all launches.

    ``remembers``: what a launch computed from an operand is there at the next one.
    """

    def __init__(self, like: Tensor, *, seed: int, remembers: bool) -> None:
        from sdc_guard_kernels.verdict import new_records

        self.checks: list[KernelCheck] = []
        self._records = new_records(MAX_RECORDS, like.device)
        self._num_used = 0
        self._remembers = remembers
        self._known: dict[tuple[Any, ...], Any] = {}
        self._generator = np.random.default_rng(seed)

    @property
    def seed(self) -> int:
        return int(self._generator.integers(0, 2**63 - 1))

    def record(self, check: KernelCheck) -> Tensor:
        if self._num_used == len(self.checks):
            if self._num_used == MAX_RECORDS:
                raise RuntimeError(f"a launch asks for more than {MAX_RECORDS} records")
            self.checks.append(check)
        self._num_used += 1
        return self._records[self._num_used - 1]

    def remembered(self, operand: Tensor, name: str, compute: Callable[[], T]) -> T:
        if not self._remembers:
            return compute()
        key = (operand.data_ptr(), operand.shape, operand.stride(), operand.dtype, name)
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]  # type: ignore[no-any-return]

    def launch(self, run: KernelRun, call: BoundCall, held: tuple[Tensor, ...]) -> None:
        """Launch the check on the next seed."""
        self._num_used = 0
        with np.errstate(all="ignore"):  # the interpreter computes with NumPy, which warns
            run(call, held, self)

    def verdicts(self) -> Verdicts:
        """What all launches said; waits for the device."""
        from sdc_guard_kernels.verdict import read

        found = read(self._records[: len(self.checks)]) if self.checks else []
        return Verdicts(
            witnesses=tuple(dict.fromkeys(check.witness for check in self.checks)),
            worst_share=max((v.worst_share for v in found), default=0.0),
            num_over=sum(v.num_over for v in found))
