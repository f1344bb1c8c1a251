"""From wrong elements to words: the worst element by its bits, the pattern of indices."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.formats import format_of, is_covered_complex, is_covered_float
from sdc_guard.records import Bound, Pattern, TensorMeta, Value, Worst

NUM_FIRST = 8


def tensor_meta(name: str, tensor: Tensor) -> TensorMeta:
    """Metadata of a tensor, no data."""
    return TensorMeta(
        name=name,
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=tuple(tensor.shape),
        stride=tuple(tensor.stride()),
        storage_offset=int(tensor.storage_offset()),
        device=str(tensor.device),
        alignment_bytes=bits.alignment_bytes(tensor),
    )


def value_at(tensor: Tensor, index: tuple[int, ...]) -> Value:
    """One element by its bits."""
    element = bits.on_host(tensor[index] if index else tensor)
    raw = int.from_bytes(bits.raw(element).tobytes(), "little")
    digits = 2 * element.element_size()
    numbers = bits.values(element) if bits.has_numbers(element.dtype) else None
    return Value(
        dtype=str(tensor.dtype).removeprefix("torch."),
        bits=f"0x{raw:0{digits}x}",
        repr="" if numbers is None else repr(numbers.item()),
    )


def number(value: complex) -> Value:
    """A number of ours by its bits, of a complex one those of its size."""
    if isinstance(value, complex):
        value = abs(value)
    raw = int(np.float64(value).view(np.uint64))
    return Value(dtype="float64", bits=f"0x{raw:016x}", repr=repr(float(value)))


def whole_number(value: np.integer[Any] | np.bool_) -> Value:
    """An exact result by its bits: a float64 would round what is beyond 2^53."""
    raw = int.from_bytes(value.tobytes(), "little")
    return Value(dtype=value.dtype.name, bits=f"0x{raw:0{2 * value.itemsize}x}",
                 repr=repr(value.item()))


def worst_element(
    held: Tensor,
    output: int,
    wrong: NDArray[np.bool_],
    expected: Tensor | NDArray[Any] | None,
    limit: NDArray[Any] | None,
    formula: str,
    exceeds: str,
) -> Worst | None:
    """The wrong element that is furthest from what was expected; non-finite ones first."""
    if not wrong.any():
        return None
    got = bits.numbers(held)
    if got is None:  # a format without values: all wrong elements are alike
        got = wrong.astype(np.float64)
    if isinstance(expected, Tensor):
        known = bits.numbers(expected)
        want = np.zeros(got.shape) if known is None else known
    elif expected is not None:
        kind = np.complex128 if np.iscomplexobj(expected) else np.float64
        want = np.broadcast_to(np.asarray(expected, dtype=kind), got.shape)
    else:
        want = np.full(got.shape, np.nan)
    with np.errstate(all="ignore"):
        error = np.where(wrong, np.nan_to_num(np.abs(got - want), nan=np.inf), -1.0)
    flat = int(np.argmax(error))
    index = tuple(int(i) for i in np.unravel_index(flat, error.shape))
    got_value, mask = value_at(held, index), ""
    if isinstance(expected, Tensor):
        want_value = value_at(expected, index)
    elif expected is not None and expected.dtype.kind in "iub":
        want_value = whole_number(np.broadcast_to(expected, got.shape)[index])
    else:
        want_value = number(want[index].item())
    if want_value.dtype == got_value.dtype or isinstance(expected, Tensor):
        xor = int(got_value.bits, 16) ^ int(want_value.bits, 16)
        mask = f"0x{xor:0{len(got_value.bits) - 2}x}"
    return Worst(
        output=output,
        index=index,
        got=got_value,
        expected=want_value,
        xor=mask,
        error=number(float(error[index])),
        error_ulps=_in_ulps(float(error[index]), want[index].item(), held),
        bound=None
        if limit is None
        else Bound(
            kind=exceeds, formula=formula, limit=float(np.broadcast_to(limit, error.shape)[index])
        ),
    )


def _in_ulps(error: float, expected: complex, held: Tensor) -> float:
    """Error in ulps of the result's format at the size of the expected value; -1 where that means
    nothing."""
    covered = is_covered_float(held.dtype) or is_covered_complex(held.dtype)
    if not covered or not np.isfinite(error) or not np.isfinite(expected):
        return -1.0
    with np.errstate(over="ignore"):  # infinitely many where the number is none
        return float(error / format_of(held.dtype).ulp(np.asarray(abs(expected))))


def pattern_of(wrong: NDArray[np.bool_]) -> Pattern | None:
    """Count, bounding box, first indices and the common flat stride of the wrong elements."""
    if not wrong.any():
        return None
    where = np.argwhere(np.atleast_1d(wrong))
    flat = np.flatnonzero(wrong)
    steps = np.unique(np.diff(flat))
    return Pattern(
        num_wrong=len(where),
        num_elements=int(wrong.size),
        first=tuple(tuple(int(i) for i in row) for row in where[:NUM_FIRST]),
        box_low=tuple(int(i) for i in where.min(axis=0)),
        box_high=tuple(int(i) for i in where.max(axis=0)),
        flat_stride=int(steps[0]) if len(steps) == 1 else None,
    )


def in_full(
    worst: Worst | None, pattern: Pattern | None, offset: tuple[int, ...], num_elements: int
) -> tuple[Worst | None, Pattern | None]:
    """What was seen in a part of a result, with its indices in the full one, of ``num_elements``
    elements; ``offset`` is the index of the part's first element."""

    def moved(index: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(i + o for i, o in zip(index, offset, strict=True)) if offset else index

    if worst is not None:
        worst = msgspec.structs.replace(worst, index=moved(worst.index))
    if pattern is not None:
        pattern = msgspec.structs.replace(
            pattern, num_elements=num_elements, first=tuple(moved(i) for i in pattern.first),
            box_low=moved(pattern.box_low), box_high=moved(pattern.box_high), flat_stride=None)
    return worst, pattern
