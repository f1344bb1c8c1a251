"""A guard's side of a kernel check, small: records that remember what they are about."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor

from sdc_guard.calls import BoundCall, form_of
from sdc_guard.ops._kernels import KernelCheck
from sdc_guard.ops._registry import HostCall, all_specs
from sdc_guard_kernels.verdict import Verdict, new_records, read

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


def flipped(held: tuple[Tensor, ...], output: int, element: int) -> tuple[Tensor, ...]:
    """The results with the top exponent bit of one element (in C order) turned."""
    changed = [None if t is None else t.clone() for t in held]
    target = changed[output]
    assert target is not None
    size = target.element_size() * 8
    whole = {16: torch.int16, 32: torch.int32, 64: torch.int64}[size]
    index = np.unravel_index(element, tuple(target.shape))
    value = target[index].reshape(1).clone()
    value.view(whole).bitwise_xor_(torch.tensor(1 << (size - 2), dtype=whole))
    target[index] = value[0]
    return tuple(changed)  # type: ignore[arg-type]


def drawn(seed: int, num_samples: int, num: int) -> list[int]:
    """The elements that ``sdc_guard_kernels.sampling.stratum`` takes, in Python's integers."""
    found = []
    for counter in range(min(num_samples, num)):
        first, last = (c * num // min(num_samples, num) for c in (counter, counter + 1))
        z = ((seed | 1 << 62) + (counter + 1) * 0x9E3779B97F4A7C15) % 2**64
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z = (z ^ z >> shift) * factor % 2**64
        found.append(first + ((z ^ z >> 31) >> 1) % (last - first))
    return found


def off_by(
    call: BoundCall, held: tuple[Tensor, ...], share: float
) -> list[tuple[KernelCheck, Verdict]]:
    """The verdicts on float64 results that miss the host's expected values by ``share`` of the
    host's contract, in the layout of the held ones."""
    spec = next(s for s in all_specs() if s.packet == call.form.packet)
    assert spec.kernel is not None
    assert spec.reference is not None
    run = spec.kernel(call, held)
    assert run is not None
    shifted = []
    for tensor, expected in zip(held, spec.reference(HostCall(call, held)), strict=True):
        if tensor is None or expected is None:
            shifted.append(tensor)
            continue
        limit = np.where(np.isfinite(expected.contract), expected.contract, 0.0)
        image = torch.empty_strided(tensor.shape, tensor.stride(), dtype=torch.float64)
        shifted.append(image.copy_(torch.from_numpy(
            np.broadcast_to(expected.expected + share * limit, tuple(tensor.shape)).copy())))
    notes = Noted()
    run(call, tuple(shifted), notes)
    return notes.verdicts()


def some_slow(names: Iterable[str], num_fast: int = 4) -> list[Any]:
    """Parameters of a test: the first ones, and the others marked as slow."""
    return [name if i < num_fast else pytest.param(name, marks=pytest.mark.slow)
            for i, name in enumerate(names)]
