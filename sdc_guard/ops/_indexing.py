"""Positions that an index names, as NumPy reads them, and the axes of ops that take an index.

Nothing here goes through an aten kernel: an index becomes an array of positions in the operand
taken as a vector in C order, or a NumPy indexing expression. """

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.bounds.casts import nearest, through_float32
from sdc_guard.calls import BoundCall, Path
from sdc_guard.formats import FLOAT32, format_of, is_covered_float
from sdc_guard.ops._axes import FIXED, Axes, Labels

Array = NDArray[Any]
Broken = tuple[int, NDArray[np.bool_], str] | None


def readable(*tensors: Tensor) -> bool:
    """True if NumPy can read the tensors' bits in place, and these are their values."""
    return all(t.device.type == "cpu" and t.layout is torch.strided and t.element_size() <= 8
               and not t.is_neg() and not t.is_conj() for t in tensors)


def all_readable(call: BoundCall, held: tuple[Tensor, ...]) -> bool:
    """:func:`readable` of all operands and results."""
    return readable(*(t for _, t in call.tensors()), *held)


def index_values(index: Tensor) -> Array:
    """An index as NumPy indexes with it; bytes are a mask, as in torch."""
    found = bits.values(index)
    return found != 0 if index.dtype is torch.uint8 else found


def numpy_index(indices: Any) -> tuple[Any, ...]:
    """A list of optional index tensors as a NumPy indexing expression."""
    return tuple(slice(None) if i is None else index_values(i) for i in indices)


def positions_along(shape: tuple[int, ...], index: Array, dim: int) -> Array:
    """Position in a C-ordered operand of ``shape`` of what ``gather`` reads and ``scatter`` writes,
    one per element of the index; an empty index may have another rank than the operand."""
    if not shape or not index.size:
        return np.zeros(index.shape, dtype=np.int64)
    dim %= len(shape)
    steps = [math.prod(shape[d + 1:]) for d in range(len(shape))]
    where = np.zeros(index.shape, dtype=np.int64)
    for d, size in enumerate(index.shape):
        if d != dim:
            line = np.arange(size, dtype=np.int64) * steps[d]
            where += line.reshape([-1 if k == d else 1 for k in range(index.ndim)])
    return np.asarray(where + index * steps[dim])


def positions_of_rows(shape: tuple[int, ...], index: Array, dim: int) -> Array:
    """The same for ops whose index names slices across ``dim``; shaped as the slices together."""
    if not shape:
        return np.zeros(index.size, dtype=np.int64)
    every = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    return np.take(every, index.ravel(), axis=dim)


def positions_at(shape: tuple[int, ...], indices: Any) -> Array:
    """The same for a list of optional index tensors, in the shape of ``x[indices]``."""
    every = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    return np.asarray(every[numpy_index(indices)])


def scalar_bits(value: Any, dtype: torch.dtype) -> Array | None:
    """The bits that a Python number may have in ``dtype``: one pattern, or two where a half format
    may be reached through fp32 or not; None for dtypes that we do not know."""
    if is_covered_float(dtype):
        fmt = format_of(dtype)
        direct = nearest(value, fmt)
        ways = [direct] if fmt.precision >= FLOAT32.precision else [
            direct, through_float32(np.asarray(value, dtype=np.float64), fmt)]
        return np.unique(np.concatenate([_patterns(np.atleast_1d(w), dtype) for w in ways]))
    if not bits.has_values(dtype):
        return None
    kind = bits.values(torch.empty((), dtype=dtype)).dtype
    exact = np.asarray([value]).astype(kind)
    return np.asarray(exact.view(f"u{exact.itemsize}"))


def _patterns(exact: Array, dtype: torch.dtype) -> Array:
    """Bits of numbers that ``dtype`` holds."""
    if dtype is torch.bfloat16:
        return (exact.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    size = {torch.float16: 2, torch.float32: 4, torch.float64: 8}[dtype]
    return np.asarray(exact.astype(f"f{size}").view(f"u{size}"))


def fixed(call: BoundCall) -> dict[Path, Labels]:
    """Every operand with no axis that may be moved."""
    return {path: (FIXED,) * t.dim() for path, t in call.tensors()}


def moved_axes(call: BoundCall, held: tuple[Tensor, ...], operand: Labels, output: Labels,
               **others: Labels) -> Axes:
    """Axes of ``self``, of the result (and of ``out``), and of further operands by name."""
    named = fixed(call)
    others["self"] = operand
    for name in ("out",):
        if call.get(name) is not None and call[name].dim() == len(output):
            others[name] = output
    for name, labels in others.items():
        if isinstance(call.get(name), Tensor) and call[name].dim() == len(labels):
            named[call.form.position(name),] = labels
    return Axes(named, (output,))


def longest(labels: Labels, held: Tensor) -> str:
    """The movable axis with the most elements; empty where none has two."""
    sizes = {x: int(n) for x, n in zip(labels, held.shape, strict=True) if x != FIXED and n > 1}
    return max(sizes, key=lambda x: sizes[x], default="")


def held_elements(held: Tensor, expected: Array) -> NDArray[np.bool_] | None:
    """Elements of the result that have other bits than expected; None if all agree."""
    got = bits.raw(held)
    if got.shape == expected.shape:
        wrong = got != expected
        return wrong if wrong.any() else None
    return np.ones(got.shape, dtype=bool)
