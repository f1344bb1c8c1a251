"""What the wrong elements of a result have in common: bits, sizes, places and lanes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.formats import format_of, is_covered_float
from sdc_guard.records import Spread

MAX_WRONG = 1 << 18
"""So many wrong elements are looked at, the first ones."""
MAX_ROWS, MAX_COLUMNS = 24, 32
NUM_MASKS = 8
LANES = (2, 4, 8, 16, 32, 64, 128)


def spread_of(
    held: Tensor, wrong: NDArray[np.bool_], expected: Tensor | NDArray[Any] | None
) -> Spread | None:
    """The spread of the elements that ``wrong`` marks; ``expected`` is a tensor of the same dtype,
    or an array of numbers, which are rounded to it for their bits.  None if none is wrong."""
    flat = np.flatnonzero(wrong)[:MAX_WRONG]
    if not len(flat):
        return None
    shape = wrong.shape
    got = bits.on_host(held)
    where = np.unravel_index(flat, shape) if shape else ()
    masks = _masks(bits.raw(got), where, got, expected)
    ulps, num_not_finite = _ulps(got, where, expected)
    map_shape, cells = _map(flat, shape)
    return Spread(
        bit_flips=_flips(masks, 8 * held.element_size()) if masks is not None else (),
        masks=_commonest(masks, held.element_size()) if masks is not None else (),
        ulps_log2=ulps,
        num_not_finite=num_not_finite,
        map_shape=map_shape,
        map=cells,
        lanes=_lanes(held, where),
    )


def _masks(
    got: NDArray[Any], where: tuple[Any, ...], tensor: Tensor,
    expected: Tensor | NDArray[Any] | None,
) -> NDArray[Any] | None:
    """The xor masks of the wrong elements; None where no bits are expected."""
    if got.dtype.kind != "u":  # elements of 16 bytes
        return None
    if isinstance(expected, Tensor):
        return np.asarray(got[where] ^ bits.raw(bits.on_host(expected))[where]).reshape(-1)
    if expected is None or np.iscomplexobj(expected):
        return None
    want = _rounded(np.broadcast_to(expected, got.shape)[where], tensor)
    return None if want is None else np.asarray(got[where]).reshape(-1) ^ want.reshape(-1)


def _rounded(numbers: NDArray[Any], tensor: Tensor) -> NDArray[Any] | None:
    """Numbers in the bits of the tensor's dtype, rounded to nearest."""
    name = str(tensor.dtype).removeprefix("torch.")
    with np.errstate(all="ignore"):
        if name == "bfloat16":
            raw = np.asarray(numbers, dtype=np.float32).reshape(-1).view(np.uint32)
            even = (raw >> np.uint32(16)) & np.uint32(1)
            rounded = ((raw + np.uint32(0x7FFF) + even) >> np.uint32(16)).astype(np.uint16)
            quiet = (raw >> np.uint32(16)).astype(np.uint16) | np.uint16(0x40)
            return np.where(np.isnan(raw.view(np.float32)), quiet, rounded)
        if name in ("float16", "float32", "float64"):
            typed = np.asarray(numbers, dtype=np.float64).reshape(-1).astype(name)
        elif name in ("bool", "uint8", "int8", "int16", "int32", "int64") and (
                numbers.dtype.kind in "iub"):
            typed = np.asarray(numbers).reshape(-1).astype(name)
        else:
            return None
    return typed.view(f"u{typed.itemsize}")


def _flips(masks: NDArray[Any], num_bits: int) -> tuple[int, ...]:
    wide = masks.astype(np.uint64)
    return tuple(int(np.count_nonzero(wide >> np.uint64(bit) & np.uint64(1)))
                 for bit in range(num_bits))


def _commonest(masks: NDArray[Any], num_bytes: int) -> tuple[tuple[str, int], ...]:
    values, counts = np.unique(masks, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:NUM_MASKS]
    return tuple((f"0x{int(values[i]):0{2 * num_bytes}x}", int(counts[i])) for i in order)


def _ulps(
    got: Tensor, where: tuple[Any, ...], expected: Tensor | NDArray[Any] | None
) -> tuple[tuple[tuple[int, int], ...], int]:
    """Errors counted by ``floor(log2(ulps))``, and how many are no number."""
    if expected is None or not is_covered_float(got.dtype):
        return (), 0
    want = bits.numbers(bits.on_host(expected)) if isinstance(expected, Tensor) else expected
    if want is None or np.iscomplexobj(want):
        return (), 0
    here = np.asarray(bits.values(got)[where], dtype=np.float64).reshape(-1)
    there = np.asarray(np.broadcast_to(want, got.shape)[where], dtype=np.float64).reshape(-1)
    with np.errstate(all="ignore"):
        error = np.abs(here - there) / format_of(got.dtype).ulp(np.abs(there))
        is_number = np.isfinite(error) & (error > 0)
        sizes, counts = np.unique(np.floor(np.log2(error[is_number])).astype(int),
                                  return_counts=True)
    pairs = tuple((int(s), int(c)) for s, c in zip(sizes, counts, strict=True))
    return pairs, int(np.count_nonzero(~np.isfinite(error)))


def _map(
    flat: NDArray[Any], shape: tuple[int, ...]
) -> tuple[tuple[int, int], tuple[tuple[int, int, int], ...]]:
    """Wrong elements counted in a grid over the result, the last dimension across."""
    num_columns = shape[-1] if shape else 1
    num_rows = max(1, int(np.prod(shape[:-1], dtype=np.int64)))
    grid = min(num_rows, MAX_ROWS), min(num_columns, MAX_COLUMNS)
    rows = flat // num_columns * grid[0] // num_rows
    columns = flat % num_columns * grid[1] // num_columns
    cells, counts = np.unique(rows * grid[1] + columns, return_counts=True)
    return grid, tuple((int(c) // grid[1], int(c) % grid[1], int(n))
                       for c, n in zip(cells, counts, strict=True))


def _lanes(held: Tensor, where: tuple[Any, ...]) -> dict[str, tuple[int, ...]]:
    """Wrong elements counted by their place in memory modulo the usual vector widths."""
    place = np.full(len(where[0]) if where else 1, held.storage_offset(), dtype=np.int64)
    for index, stride in zip(where, held.stride(), strict=True):
        place = place + index * stride
    return {str(width): tuple(int(n) for n in np.bincount(place % width, minlength=width))
            for width in LANES if len(place) > 1}
