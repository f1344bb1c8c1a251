"""An op's kernel checks as the guard would run them, beside its host reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
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


def made(
    sample: Sample, *, transposed: bool = False
) -> tuple[OpSpec, BoundCall, tuple[Tensor, ...]]:
    """A sample's spec, its call, and the results that ATen gives; ``transposed``: with their last
    dimension outermost in memory."""
    op, args, kwargs = sample
    form = form_of(op)
    call = BoundCall(form, form.bind(args, kwargs))
    spec = lookup(form.packet)
    assert spec is not None
    held = tuple(t if t is None else t.clone() for t in call.run())
    if transposed:
        held = tuple(t if t is None else t.t().contiguous().t() if t.dim() == 2 else t
                     for t in held)
    return spec, call, held


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


def unwritten(result: Tensor) -> Tensor:
    """A result of the same layout that nobody wrote: all NaN."""
    return bits.empty_image(result).fill_(torch.nan)


def worst_share(result: Tensor, reference: Reference) -> float:
    """Largest error over the host's contract, over the elements that it judges."""
    judged = judged_by_host(result, reference)
    with np.errstate(all="ignore"):
        error = np.abs(bits.values(result) - reference.expected)
        share = np.where(judged & (error > 0), error / reference.contract, 0.0)
    return float(share.max(initial=0.0))


def complaints(sample: Sample, *, faults: bool = True, transposed: bool = False) -> list[str]:
    """What is wrong with an op's kernel checks on a call that is right.

    A right result is within its limits, by about the share of them that the host's reference finds.
    With ``faults``, a flip of the top bit of an element's exponent is found, and its place; and a
    result that nobody wrote is over the limit in every element that the host judges.
    """
    spec, call, held = made(sample, transposed=transposed)
    found = verdicts(spec, call, held)
    if found is None:
        return ["no kernel takes the call"]
    references_of = references(spec, call, held)
    generator = np.random.default_rng(1)
    texts: list[str] = []
    wrong, places = held, {}
    for check, verdict in found:
        result, reference = held[check.output], references_of[check.output]
        assert reference is not None
        share = worst_share(result, reference)
        least = 0.8 if result.dtype is not torch.float64 else 0.02
        if verdict.num_over:
            texts.append(f"{verdict} of a right result {check.output}")
        if not least * share - 1e-3 <= verdict.worst_share <= max(share * 1.02, 0.3) + 1e-3:
            texts.append(f"{verdict} where the host finds a share of {share}")
        place, value = _flip(result, reference, generator)
        if place is not None:
            places[check.output] = place
            wrong = with_value(wrong, check.output, place, value)
    if not faults:
        return texts
    texts += [f"{verdict} of a flip at {places[check.output]} of result {check.output}"
              for check, verdict in _ignoring_warnings(spec, call, wrong)
              if check.output in places
              and (verdict.num_over, verdict.place) != (1, places[check.output])]
    empty = tuple(t if t is None else unwritten(t) for t in held)
    for check, verdict in _ignoring_warnings(spec, call, empty):
        reference = references_of[check.output]
        assert reference is not None
        num = int(judged_by_host(held[check.output], reference).sum())
        if verdict.num_over != num:
            texts.append(f"{verdict} of {num} elements that nobody wrote")
    return texts


def _ignoring_warnings(
    spec: OpSpec, call: BoundCall, held: tuple[Tensor, ...]
) -> list[tuple[KernelCheck, Verdict]]:
    """The interpreter computes with NumPy, which warns where a wrong number overflows."""
    with np.errstate(all="ignore"):
        found = verdicts(spec, call, held)
    assert found is not None
    return found


def _flip(
    result: Tensor, reference: Reference, generator: np.random.Generator
) -> tuple[int | None, Tensor]:
    """A judged element, and its value with a bit flipped, out of the host's contract; or none."""
    judged = np.flatnonzero(judged_by_host(result, reference))
    expected, limit = np.broadcast_arrays(reference.expected, reference.contract)
    for place in generator.permutation(judged)[:20]:
        index = tuple(int(k) for k in np.unravel_index(int(place), tuple(result.shape)))
        value = flipped(result[index].clone())
        if not abs(value.item() - float(expected[index])) <= 1.1 * float(limit[index]):
            return int(place), value
    return None, result


def on_device(sample: Sample) -> Sample:
    """The same call with its tensors on the GPU."""
    op, args, kwargs = sample

    def moved(value: Any) -> Any:
        return value.cuda() if isinstance(value, Tensor) else value

    return op, tuple(moved(a) for a in args), {name: moved(a) for name, a in kwargs.items()}


def row_signature(module: ModuleType, kernel: str, pointer: str) -> dict[str, str]:
    """Types of a row kernel's arguments, by their names."""
    assert module.__file__ is not None
    _, _, rest = Path(module.__file__).read_text(encoding="utf-8").partition(f"def {kernel}(")
    names = [part.strip() for part in rest.partition("):")[0].split("\n", 1)[1].split(",")]
    kinds = {"coefficient_ptr": "*fp64", "record_ptr": "*i64", "target_ptr": "*i64",
             "sums_ptr": "*fp64"}
    return {name: kinds.get(name, "*i64" if name.endswith("record_ptr") else
                            pointer if name.endswith("_ptr") else "i32")
            for name in names if name and "constexpr" not in name}
