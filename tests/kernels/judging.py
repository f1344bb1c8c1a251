"""An op's kernel checks as the guard would run them, beside its host reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall, form_of
from sdc_guard.formats import format_of
from sdc_guard.ops._kernels import KernelCheck
from sdc_guard.ops._registry import HostCall, OpSpec, Reference, lookup
from sdc_guard_kernels.verdict import Verdict, new_records, read

T = TypeVar("T")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class OneCall:
    """The guard's side of a launch: records, and nothing remembered."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seed = 12345
        self.found: list[tuple[KernelCheck, Tensor]] = []

    def record(self, check: KernelCheck) -> Tensor:
        self.found.append((check, new_records(1, self.device)[0]))
        return self.found[-1][1]

    def remembered(self, operand: Tensor, name: str, compute: Callable[[], T]) -> T:
        return compute()


Sample = tuple[Any, tuple[Any, ...], dict[str, Any]]


def made(sample: Sample) -> tuple[OpSpec, BoundCall, tuple[Tensor, ...]]:
    """A sample's spec, its call, and the results that ATen gives."""
    op, args, kwargs = sample
    form = form_of(op)
    call = BoundCall(form, form.bind(args, kwargs))
    spec = lookup(form.packet)
    assert spec is not None
    return spec, call, tuple(t.clone() if t is not None else t for t in call.run())


def verdicts(
    spec: OpSpec, call: BoundCall, held: tuple[Tensor, ...]
) -> list[tuple[KernelCheck, Verdict]] | None:
    """What the kernels say of the held results; None where none takes the call."""
    assert spec.kernel is not None
    run = spec.kernel(call, held)
    if run is None:
        return None
    notes = OneCall(next(t.device for t in held if t is not None))
    run(call, held, notes)
    return [(check, read(record[None])[0]) for check, record in notes.found]


def references(spec: OpSpec, call: BoundCall, held: tuple[Tensor, ...]
               ) -> tuple[Reference | None, ...]:
    """The host's."""
    assert spec.reference is not None
    with np.errstate(all="ignore"):
        return spec.reference(HostCall(call, held))


def judged_by_host(result: Tensor, reference: Reference) -> NDArray[np.bool_]:
    """Elements of which the contract says something, see ``check/reference.py``."""
    largest = format_of(result.dtype).max
    expected, limit, size = np.broadcast_arrays(
        reference.expected, reference.contract, reference.magnitude)
    with np.errstate(all="ignore"):
        return np.asarray(np.isfinite(expected) & np.isfinite(limit)
                          & (np.abs(expected) + limit < largest) & (size < largest))


def with_value(held: tuple[Tensor, ...], output: int, place: int, value: Tensor
               ) -> tuple[Tensor, ...]:
    """The results with one element, counted in C order, replaced; the layout stays."""
    image = bits.empty_image(held[output]).copy_(held[output])
    image[tuple(int(i) for i in np.unravel_index(place, tuple(image.shape)))] = value
    return tuple(image if i == output else t for i, t in enumerate(held))


def flipped(value: Tensor) -> Tensor:
    """The number with the top bit of its exponent flipped."""
    integer = {8: torch.int64, 4: torch.int32, 2: torch.int16}[value.element_size()]
    top = 2 ** (value.element_size() * 8 - 2)
    return (value.view(integer) ^ torch.tensor(top, dtype=integer)).view(value.dtype)
