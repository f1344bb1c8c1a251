"""What reductions over any dimensions share: axes, symmetries, and a sum with its bounds.

Any order of summation errs within ``(n-1) u sum|x|``, ATen's cascade far less.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds import sums
from sdc_guard.calls import BoundCall
from sdc_guard.formats import FLOAT64, accumulator_of, format_of, is_covered_float
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._registry import F64, HostCall
from sdc_guard.ops._symmetry import RERUN, Move, Symmetry, negate, roll, split

Call = tuple[Any, tuple[Any, ...], dict[str, Any]]

COLUMN_BLOCK = 64
"""Four vectors of 16 fp32 lanes; a multiple of four vectors of any narrower kind."""


def reduced_dims(call: BoundCall) -> tuple[int, ...]:
    """The reduced dimensions, normalised; all of them for ``None`` and ``()``."""
    rank = call["self"].dim()
    dims = call.get("dim")
    if isinstance(dims, int):
        dims = (dims,)
    if not rank:
        return ()
    return tuple(sorted({d % rank for d in dims})) if dims else tuple(range(rank))


def reduction_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    """Kept dimensions are movable; with ``keepdim`` the reduced ones stay as fixed size 1."""
    rank = call["self"].dim()
    reduced = reduced_dims(call)
    operand = tuple(FIXED if d in reduced else f"d{d}" for d in range(rank))
    kept = tuple(x for d, x in enumerate(operand) if d not in reduced)
    output = operand if held[0].dim() == rank else kept
    return Axes({(0,): operand}, (output,))


def _threads(call: BoundCall) -> int:
    """Threads among which ATen divides the reduction."""
    return torch.get_num_threads() if call["self"].numel() >= sums.PARALLEL_FROM else 1


def _column_shift(call: BoundCall, size: int) -> int | None:
    """A shift of ``size`` columns that lie side by side in memory after which each is summed in the
    same order: 0 for any shift, None where there is none.

    Blocks of 4 vectors of columns are summed row by row, the columns left over in another order
    (``vectorized_outer_sum``).  Each thread has its own leftovers; shares are ``ceil(size /
    threads)`` columns, rounded down to 128 bytes.
    """
    threads = _threads(call)
    share = -(-size // threads)
    if share * threads != size:
        return None
    if share % COLUMN_BLOCK == 0:
        return 0
    return share if threads > 1 and share * call["self"].element_size() % 128 == 0 else None


def _rolled(tensor: Tensor, dim: int, shift: int) -> Tensor:
    image = bits.empty_image(tensor)
    rest = tensor.shape[dim] - shift
    image.narrow(dim, 0, rest).copy_(tensor.narrow(dim, shift, rest))
    image.narrow(dim, rest, shift).copy_(tensor.narrow(dim, 0, shift))
    return image


def _shares_swapped(dim: int, out_dim: int, shift: int) -> Symmetry:
    """Columns rolled by whole shares of a thread: each has another core and another address."""

    def function(call: BoundCall, visit: int) -> tuple[Tensor | None, ...]:
        moved = call.replaced(self=_rolled(call["self"], dim, shift)).run()
        return tuple(_rolled(t, out_dim, t.shape[out_dim] - shift) for t in moved)

    return Symmetry(f"swap shares of d{dim}", (Move("custom", function=function),),
                    frozenset({"address", "core", "tile"}), True)


def reduction_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Roll the longest kept axis that lies outside the reduced ones in memory; else roll columns,
    by a shift that keeps the order in which each is summed.  Negation moves the bit pattern.

    Seen bit-exact on CPU in all four formats, 1 and 2 threads, contiguous, transposed and sliced.
    A split changes how the work is divided among threads: learned, not promised.
    """
    x = call["self"]
    labels = reduction_axes(call, held).outputs[0]
    signed = (negate("self"),) if x.is_floating_point() and held[0].is_floating_point() else ()
    kept = {int(label[1:]): i for i, label in enumerate(labels)
            if label != FIXED and held[0].shape[i] > 1}
    if not kept or 0 in x.stride():
        return (RERUN, *signed)
    outermost = max((x.stride(d) for d in reduced_dims(call) if x.shape[d] > 1), default=0)
    outside = [d for d in kept if x.stride(d) > outermost]
    if outside:
        axis = max(outside, key=lambda d: x.shape[d])
        return (roll(f"d{axis}"), split(f"d{axis}", known=False), *signed)
    axis = max(kept, key=lambda d: x.shape[d])
    columns = len(kept) == 1 and x.stride(axis) == 1
    shift = _column_shift(call, int(x.shape[axis])) if columns else None
    if shift:
        return (_shares_swapped(axis, kept[axis], shift), *signed)
    return (roll(f"d{axis}", lane=True, known=shift == 0), *signed)


def num_terms(call: BoundCall) -> int:
    """Terms of each sum."""
    return math.prod(int(call["self"].shape[d]) for d in reduced_dims(call))


def input_flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """One addition per element read."""
    return int(call["self"].numel())


@dataclass(frozen=True, slots=True)
class Sum:
    """A sum before its last rounding: value, ``sum|x|``, and limits on the error."""

    value: F64
    abs_sum: F64
    proof: F64
    contract: F64


def num_runs(call: BoundCall) -> int:
    """Runs in memory that ATen sums one by one: reduced dimensions come first, in the order of
    their strides, and merge where one continues the other (``TensorIterator``)."""
    x = call["self"]
    dims = sorted((x.stride(d), x.shape[d]) for d in reduced_dims(call) if x.shape[d] > 1)
    total = math.prod(size for _, size in dims)
    if not dims or not total:
        return 1
    first_stride, run = dims[0]
    for stride, size in dims[1:]:
        if stride != first_stride * run:
            break
        run *= size
    return int(total // run)


PART_ELEMENTS = 2**22
"""Elements of a sum to one number that a reference widens at a time."""


def parts_of(x: Tensor) -> Iterator[NDArray[Any]]:
    """The values of a tensor, part by part along its longest dimension."""
    if x.numel() <= PART_ELEMENTS:
        yield bits.values(x)
        return
    dim = max(range(x.dim()), key=lambda d: x.shape[d])
    size = int(x.shape[dim])
    length = max(1, size * PART_ELEMENTS // x.numel())
    for start in range(0, size, length):
        part = x.narrow(dim, start, min(length, size - start))
        yield from parts_of(part) if length == 1 else (bits.values(part),)


def _sums(call: HostCall, wide: type[np.floating[Any]]) -> tuple[F64, F64]:
    """``sum x`` and ``sum |x|``, the first in the wider format."""
    held = call.held[0]
    if held.numel() == 1:
        value, abs_sum = wide(0.0), 0.0
        for part in parts_of(call["self"]):
            x = part.astype(np.float64, copy=False)
            value += x.sum(dtype=wide)
            abs_sum += float(np.abs(x, out=x).sum())
        shape = tuple(held.shape)
        return np.full(shape, np.float64(value)), np.full(shape, abs_sum)
    x = call.array("self")
    dims = reduced_dims(call.call)
    keepdim = held.dim() == x.ndim and bool(x.ndim)
    x = x.astype(np.float64, copy=False)
    value = x.sum(axis=dims, keepdims=keepdim, dtype=wide).astype(np.float64)
    return value, np.abs(x, out=x).sum(axis=dims, keepdims=keepdim)


@dataclass(frozen=True, slots=True)
class SumLimits:
    """Limits on the error of a sum, as multiples of ``sum|x|`` and a constant: ``proof`` and
    ``contract`` are the accumulation's, ``common`` and ``fixed`` belong to both."""

    proof: float
    contract: float
    common: float
    fixed: float


def sum_limits(call: BoundCall, held: Tensor) -> SumLimits:
    """The limits of a floating sum before its last rounding; see :mod:`sdc_guard.bounds.sums`.

    Common to both limits are a cast of the terms to the result's dtype, and the parts of a
    parallel sum, which are kept in that dtype.
    """
    n = num_terms(call)
    acc, out = accumulator_of(held.dtype), format_of(held.dtype)
    single = held.numel() == 1 and n >= sums.PARALLEL_FROM
    parts = torch.get_num_threads() if single else 0
    common, fixed = 0.0, 0.0
    given = call["self"].dtype
    if not is_covered_float(given) or format_of(given).precision > out.precision:
        common, fixed = out.u, n * out.eta
    if single and out.precision < acc.precision:
        common, fixed = common + out.u, fixed + parts * out.eta
    proof = contract = float(sums.any_order(n, 1.0, acc))
    strides = call["self"].stride()
    if all(strides[d] for d in reduced_dims(call)):  # an expanded operand is summed in other runs
        contract = float(sums.cascade(n, 1.0, acc, num_runs(call), parts))
    return SumLimits(proof, contract, common, fixed)


def floating_sum(call: HostCall) -> Sum:
    """The sum of a floating result, and its limits, our own rounding included."""
    held = call.held[0]
    # A float64 sum is judged by a longer one where the machine has it.
    wide = np.longdouble if format_of(held.dtype) is FLOAT64 else np.float64
    value, abs_sum = _sums(call, wide)
    found = sum_limits(call.call, held)
    own = sums.reference_error(num_terms(call.call), abs_sum, float(np.finfo(wide).eps) / 2)
    common = own + found.common * abs_sum + found.fixed
    return Sum(value, abs_sum, found.proof * abs_sum + common, found.contract * abs_sum + common)


def drawn(generator: torch.Generator, dtype: torch.dtype, *shape: int) -> Tensor:
    """Random values of any dtype."""
    if not dtype.is_floating_point:
        low, high = (0, 2) if dtype is torch.bool else (-9, 10)
        return torch.randint(low, high, shape, generator=generator).to(dtype)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


REDUCTION: dict[str, Any] = {
    "family": "reduction", "axes": reduction_axes, "symmetries": reduction_symmetries,
    "flops": input_flops, "reduction": True, "window": ("d0", "d1", "d2", "d3"),
}
"""What every reduction registers whose result loses its reduced dimensions."""
