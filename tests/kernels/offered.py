"""A guard's side of a kernel check, small: records that remember what they are about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from sdc_guard_kernels.verdict import Verdict, new_records, read
from torch import Tensor

from sdc_guard.calls import BoundCall, form_of
from sdc_guard.ops._kernels import KernelCheck
from sdc_guard.ops._registry import all_specs

T = TypeVar("T")


class Noted:
    """Notes that keep every record with its check."""

    def __init__(self, seed: int = 1, device: str = "cpu") -> None:
        self.seed = seed
        self.device = torch.device(device)
        self.kept: list[tuple[KernelCheck, Tensor]] = []

    def record(self, check: KernelCheck) -> Tensor:
        self.kept.append((check, new_records(1, self.device)[0]))
        return self.kept[-1][1]

    def remembered(self, operand: Tensor, name: str, compute: Callable[[], T]) -> T:
        return compute()

    def verdicts(self) -> list[tuple[KernelCheck, Verdict]]:
        return [(check, read(record[None])[0]) for check, record in self.kept]


def bound(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> BoundCall:
    form = form_of(op)
    return BoundCall(form, form.bind(args, kwargs))


def judged(
    call: BoundCall, held: tuple[Tensor, ...], *, seed: int = 1, device: str = "cpu"
) -> list[tuple[KernelCheck, Verdict]] | None:
    """The verdicts of the call's kernel check on these results; None where it has none."""
    spec = next(s for s in all_specs() if s.packet == call.form.packet)
    assert spec.kernel is not None
    run = spec.kernel(call, held)
    if run is None:
        return None
    notes = Noted(seed, device)
    run(call, held, notes)
    return notes.verdicts()


def on_device(call: BoundCall) -> BoundCall:
    """The call with every operand on the CUDA device, in its layout."""
    return call.mapped(lambda _, t: torch.empty_strided(
        t.shape, t.stride(), dtype=t.dtype, device="cuda").copy_(t))


def flipped(held: tuple[Tensor, ...], output: int, element: int, *, bit: int | None = None
            ) -> tuple[Tensor, ...]:
    """The results with one bit of one element (in C order) turned: its top exponent bit but one
    unless given."""
    changed = [None if t is None else t.clone() for t in held]
    target = changed[output]
    assert target is not None
    size = target.element_size() * 8
    whole = {16: torch.int16, 32: torch.int32, 64: torch.int64}[size]
    place = torch.tensor(element)
    index = tuple(int(i) for i in torch.unravel_index(place, tuple(target.shape)))
    value = target[index].reshape(1).clone()
    image = value.view(whole)
    image ^= torch.tensor(1 << (size - 3 if bit is None else bit), dtype=whole)
    target[index] = value[0]
    return tuple(changed)  # type: ignore[return-value]
