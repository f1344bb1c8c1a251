"""The guard's side of a kernel check, reduced to a list of records: for tests of what ops offer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from sdc_guard.calls import BoundCall, form_of
from sdc_guard.ops import lookup
from sdc_guard.ops._kernels import KernelCheck
from sdc_guard_kernels.verdict import Verdict, new_records, read

T = TypeVar("T")


@dataclass
class ListedNotes:
    """Keeps what was asked for; nothing is remembered."""

    device: torch.device
    seed: int = 5
    asked: list[tuple[KernelCheck, Tensor]] = field(default_factory=list)

    def record(self, check: KernelCheck) -> Tensor:
        self.asked.append((check, new_records(1, self.device)[0]))
        return self.asked[-1][1]

    def remembered(self, operand: Tensor, name: str, compute: Callable[[], T]) -> T:
        return compute()


def bound(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> BoundCall:
    form = form_of(op)
    return BoundCall(form, form.bind(args, kwargs))


def checked(
    call: BoundCall, held: tuple[Tensor, ...], site: tuple[Tensor, ...] | None = None
) -> list[tuple[KernelCheck, Verdict]] | None:
    """Verdicts of the kernels that the op's file offers for a call; None where it offers none.
    The site is looked at with ``site``, or with the held results themselves."""
    spec = lookup(call.form.packet)
    assert spec is not None
    assert spec.kernel is not None, call.form.packet
    run = spec.kernel(call, held if site is None else site)
    if run is None:
        return None
    notes = ListedNotes(held[0].device)
    run(call, held, notes)
    return [(check, read(record[None])[0]) for check, record in notes.asked]
