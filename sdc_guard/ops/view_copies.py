"""Copies of views and of parts: ``*_copy``, splits, ``rot90``, ``block_diag``, ``_chunk_cat``, and
operands with a part replaced (``*_scatter``); ``masked_scatter_backward``.

Every result element has the bits of one operand element, or is 0: an invariant that fixes every
bit, from NumPy views of the operands' memory.  ``as_strided_copy`` and ``as_strided_scatter`` see
all of the operand's storage, also what lies outside of the operand; they are not repeated, because
an image of the operand has no more than its own span.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.calls import BoundCall
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._casts import cast_reference
from sdc_guard.ops._places import odd_in
from sdc_guard.ops._registry import HostCall, Reference, SamplesFn, checked
from sdc_guard.ops._samples import SampleList, draw_values
from sdc_guard.ops._symmetry import RERUN, Symmetry

aten = torch.ops.aten
Array = NDArray[Any]
Read = Callable[[Tensor], Array]
"""A tensor's bits or its values as an array of its shape."""
Moved = Callable[[BoundCall, tuple[Tensor, ...], Read], Sequence[Array]]
Broken = tuple[int, NDArray[np.bool_], str] | None


def _operands(call: BoundCall) -> list[Tensor]:
    """What is read: not the targets of ``out=``, not a mask."""
    written = set(call.form.overwrites) if call.form.is_out else set()
    return [t for path, t in call.tensors()
            if path[0] not in written and call.form.argument_names[path[0]] != "mask"]


def _is_retyped(call: BoundCall) -> bool:
    """``view_copy`` that reads the bits as those of another dtype."""
    return "dtype" in call.form.argument_names


def _keeps_bits(call: BoundCall, held: tuple[Tensor, ...]) -> bool:
    if _is_retyped(call):
        return held[0].device.type == "cpu"
    return all(t.dtype is r.dtype and t.device.type == r.device.type == "cpu"
               for t in _operands(call) for r in held)


def _axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    return Axes({path: (FIXED,) * t.dim() for path, t in call.tensors()},
                tuple((FIXED,) * t.dim() for t in held))


def _symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    names = [n for n in ("self", "src", "tensors", "grad_output") if call.get(n) is not None]
    return (*odd_in(call, *names), RERUN)


def _register(packet: Any, moved: Moved, samples: SamplesFn, text: str,
              *, replayable: bool = True) -> None:
    def same_bits(call: BoundCall, held: tuple[Tensor, ...]) -> Broken:
        if not _keeps_bits(call, held):
            return None
        for i, (got, expected) in enumerate(zip(held, moved(call, held, bits.raw), strict=True)):
            wrong = np.asarray(bits.raw(got) != expected)
            if wrong.any():
                return i, wrong, "result elements are operand elements, bit for bit, or 0"
        return None

    def reference(call: HostCall) -> tuple[Reference | None, ...]:
        held = tuple(call.held)
        tensors = (*_operands(call.call), *held)
        if _is_retyped(call.call) or not all(bits.has_values(t.dtype) for t in tensors):
            return (None,) * len(held)
        return tuple(cast_reference(np.asarray(x), r)
                     for x, r in zip(moved(call.call, held, bits.values), held, strict=True))

    reference.__doc__ = text
    reference.__module__ = __name__
    checked(packet, family="copy", axes=_axes, symmetries=_symmetries, invariant=same_bits,
            proves=_keeps_bits, samples=samples, replayable=replayable)(reference)


def _view(change: Callable[[Array, BoundCall, tuple[int, ...]], Array]) -> Moved:
    """A result that is a view of ``self``, given the result's shape."""
    return lambda call, held, read: [change(read(call["self"]), call, tuple(held[0].shape))]


def _same_order(x: Array, call: BoundCall, shape: tuple[int, ...]) -> Array:
    return x.reshape(shape)


def _viewed(call: BoundCall, held: tuple[Tensor, ...], read: Read) -> list[Array]:
    """The elements in another shape, or their bits as another dtype's."""
    x = read(call["self"])
    if _is_retyped(call):
        x = np.ascontiguousarray(x).view(bits.raw(held[0]).dtype)
    return [x.reshape(tuple(held[0].shape))]


def _cut(x: Array, call: BoundCall, shape: tuple[int, ...]) -> Array:
    """``narrow_copy``, ``slice_copy`` and ``select_copy``."""
    return np.asarray(x[_place(x, call, call.get("length"))])


def _place(x: Array, call: BoundCall, length: int | None = None) -> Any:
    """The index of a slice, or of one entry, of a dimension."""
    dim = call["dim"] % max(x.ndim, 1)
    place: list[Any] = [slice(None)] * x.ndim
    if "index" in call.form.argument_names:
        place[dim] = call["index"]
    elif length is not None:
        start = int(call["start"])
        start += x.shape[dim] if start < 0 else 0
        place[dim] = slice(start, start + length)
    else:
        place[dim] = slice(call["start"], call["end"], call["step"])
    return tuple(place)


def _swapped(x: Array, call: BoundCall, shape: tuple[int, ...]) -> Array:
    return x if x.ndim == 0 else x.swapaxes(call["dim0"], call["dim1"])


def _windows(x: Array, call: BoundCall, shape: tuple[int, ...]) -> Array:
    if x.ndim == 0:
        return x.reshape(1)[: call["size"]]
    dim = call["dimension"] % x.ndim
    windows = np.lib.stride_tricks.sliding_window_view(x, call["size"], dim)
    return np.asarray(windows[(slice(None),) * dim + (slice(None, None, call["step"]),)])


def _pieces(call: BoundCall, held: tuple[Tensor, ...], read: Read) -> list[Array]:
    """A tensor in pieces along a dimension, in order."""
    x, dim = read(call["self"]), call["dim"]
    sizes = [int(t.shape[dim]) if t.dim() == x.ndim else 1 for t in held]
    ends = np.cumsum([0, *sizes])
    places = [np.take(x, np.arange(a, b), dim) for a, b in pairwise(ends)]
    return [p.reshape(tuple(t.shape)) for p, t in zip(places, held, strict=True)]


def _blocks(call: BoundCall, held: tuple[Tensor, ...], read: Read) -> list[Array]:
    """Matrices along the diagonal; vectors and numbers are matrices of one row."""
    parts = [np.atleast_2d(read(t)) for t in call["tensors"]]
    whole = np.zeros(tuple(held[0].shape), dtype=parts[0].dtype)
    row = column = 0
    for part in parts:
        whole[row : row + part.shape[0], column : column + part.shape[1]] = part
        row, column = row + part.shape[0], column + part.shape[1]
    return [whole]


def _chunks_joined(call: BoundCall, held: tuple[Tensor, ...], read: Read) -> list[Array]:
    """Each tensor filled up with 0 to whole chunks along a dimension, one chunk a row, joined."""
    count = int(call["num_chunks"])
    dim = int(call["dim"]) % call["tensors"][0].dim()
    rows = []
    for tensor in call["tensors"]:
        x = read(tensor)
        length = -(-x.shape[dim] // count) * count
        filled = np.zeros((*x.shape[:dim], length, *x.shape[dim + 1 :]), dtype=x.dtype)
        filled[(slice(None),) * dim + (slice(0, x.shape[dim]),)] = x
        rows.append(filled.reshape(*x.shape[:dim], count, -1))
    return [np.concatenate(rows, dim + 1)]


def _replaced_part(call: BoundCall, held: tuple[Tensor, ...], read: Read) -> list[Array]:
    x = np.array(read(call["self"]))
    x[_place(x, call)] = read(call["src"])
    return [x]


def _storage(tensor: Tensor) -> Tensor:
    """All elements of the tensor's storage, as a vector."""
    count = tensor.untyped_storage().nbytes() // tensor.element_size()
    return tensor.detach().as_strided((count,), (1,), 0)


def _placed(flat: Array, size: Sequence[int], stride: Sequence[int], offset: int) -> Array:
    """Elements of ``flat``.

    Raises:
        IndexError: for places outside of it, as those of a private image of a part of a storage.
    """
    reach = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if all(size) else 0
    if offset < 0 or reach >= max(flat.size, 1):
        raise IndexError(f"element {reach} of {flat.size}")
    return np.lib.stride_tricks.as_strided(
        flat[offset:], tuple(size), tuple(s * flat.itemsize for s in stride))


def _strided(call: BoundCall, held: tuple[Tensor, ...], read: Read) -> list[Array]:
    """``as_strided_copy`` and ``as_strided_scatter``."""
    own = call["self"]
    offset = call["storage_offset"]
    offset = own.storage_offset() if offset is None else int(offset)
    # The scatter makes elements that share memory distinct first (``as_strided_scatter`` in
    # ATen/native/TensorShape.cpp).
    expanded = call.form.packet == "aten.as_strided_scatter" and bits.distinct(own) is not own
    flat = np.array(read(own) if expanded else read(_storage(own))).reshape(-1)
    part = _placed(flat, call["size"], call["stride"], offset)
    if call.form.packet == "aten.as_strided_copy":
        return [part]
    part[...] = read(call["src"])
    if expanded:
        return [flat.reshape(tuple(own.shape))]
    return [_placed(flat, own.shape, own.stride(), own.storage_offset())]


def _unmasked(call: BoundCall, held: tuple[Tensor, ...], read: Read) -> list[Array]:
    """The gradients where the mask is set, one after the other, then 0."""
    gradient, shape = read(call["grad_output"]), tuple(held[0].shape)
    chosen = gradient[np.broadcast_to(bits.values(call["mask"]), gradient.shape)]
    flat = np.zeros(held[0].numel(), dtype=gradient.dtype)
    flat[: chosen.size] = chosen[: flat.size]
    return [flat.reshape(shape)]


def _samples(op: Any, *calls: tuple[Any, ...]) -> SamplesFn:
    """Calls of ``op`` with these arguments; a tuple of sizes stands for a tensor, and each matrix
    comes transposed too."""

    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        draw = draw_values(generator, dtype, "mixed")

        def made(value: Any, turned: bool) -> Any:
            if isinstance(value, list) and value and isinstance(value[0], tuple):
                return [made(v, turned) for v in value]
            if not isinstance(value, tuple):
                return value
            return draw(*value[::-1]).permute(*range(len(value))[::-1]) if turned else draw(*value)

        return [(op, tuple(made(v, turned) for v in args), {})
                for args in calls for turned in (False, True)]

    return samples


def _view_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    draw = draw_values(generator, dtype, "mixed")
    calls: SampleList = [(aten.view_copy.default, (draw(9, 14), [7, 18]), {})]
    if dtype.itemsize > 2:
        narrower = torch.int16 if dtype.itemsize == 4 else torch.int32
        calls.append((aten.view_copy.dtype, (draw(18, 7)[::2], narrower), {}))
    return calls


for _name, _rest in (("alias_copy", ()), ("detach_copy", ()), ("lift_fresh_copy", ()),
                     ("unsqueeze_copy", (1,)), ("squeeze_copy", ())):
    _op = getattr(aten, _name)
    _register(_op, _view(_same_order), _samples(_op.default, ((9, 14), *_rest)),
              "The elements in their order, in another shape.")
_register(aten.view_copy, _viewed, _view_samples, "The elements in another shape or dtype.")
_register(aten.expand_copy, _view(lambda x, call, shape: np.broadcast_to(x, shape)),
          _samples(aten.expand_copy.default, ((9, 1), [4, 9, 7])), "Repeated elements.")
_register(aten.permute_copy, _view(lambda x, call, shape: x.transpose(call["dims"])),
          _samples(aten.permute_copy.default, ((3, 5, 7), [2, 0, -2])), "Permuted dimensions.")
_register(aten.t_copy, _view(lambda x, call, shape: x.T),
          _samples(aten.t_copy.default, ((9, 7),), ((5,),)), "The transposed matrix.")
_register(aten.transpose_copy, _view(_swapped),
          _samples(aten.transpose_copy.int, ((3, 5, 7), 0, -1)), "Two dimensions swapped.")
_register(aten.narrow_copy, _view(_cut), _samples(aten.narrow_copy.default, ((9, 7), 0, -6, 4)),
          "A part of a dimension.")
_register(aten.slice_copy, _view(_cut), _samples(aten.slice_copy.Tensor, ((9, 7), 0, 1, 8, 3)),
          "A slice.")
_register(aten.select_copy, _view(_cut), _samples(aten.select_copy.int, ((9, 7), 1, -2)),
          "One entry of a dimension.")
_register(aten.unfold_copy, _view(_windows),
          _samples(aten.unfold_copy.default, ((9, 7), 0, 4, 2), ((33,), -1, 5, 3)),
          "Windows of a dimension.")
_register(aten.rot90, _view(lambda x, call, shape: np.rot90(x, call["k"], tuple(call["dims"]))),
          _samples(aten.rot90.default, ((9, 7), 1, [0, 1]), ((3, 5, 7), -2, [1, 2]),
                   ((3, 5, 7), 3, [-1, 0])), "Quarter turns.")
_PIECES: tuple[tuple[Any, ...], ...] = (
    (aten.unbind_copy.int, (1,)), (aten.split_copy.Tensor, (4, 1)),
    (aten.split_with_sizes_copy.default, ([3, 0, 4], 1)), (aten.unsafe_split.Tensor, (3, 1)),
    (aten.unsafe_split_with_sizes.default, ([3, 4], 1)),
)
for _op, _arguments in _PIECES:
    _register(_op.overloadpacket, _pieces, _samples(_op, ((9, 7), *_arguments)),
              "Pieces along a dimension.")
_register(aten.block_diag, _blocks, _samples(aten.block_diag.default, ([(3, 5), (7,), (2, 1)],)),
          "Matrices along the diagonal, 0 elsewhere.")
_register(aten._chunk_cat, _chunks_joined,
          _samples(aten._chunk_cat.default, ([(9, 7), (4, 7), (1, 3)], 0, 2),
                   ([(3, 5, 2), (3, 4, 2)], 1, 3)), "Chunks beside each other.")
_register(aten.select_scatter, _replaced_part,
          _samples(aten.select_scatter.default, ((9, 7), (9,), 1, -2)),
          "One entry of a dimension replaced.")
_register(aten.slice_scatter, _replaced_part,
          _samples(aten.slice_scatter.default, ((9, 7), (9, 2), 1, 1, 6, 3)), "A slice replaced.")
_register(aten.as_strided_copy, _strided,
          _samples(aten.as_strided_copy.default, ((9, 7), [4, 3], [2, 5], 3)),
          "Elements of the storage.", replayable=False)
_register(aten.as_strided_scatter, _strided,
          _samples(aten.as_strided_scatter.default, ((9, 7), (4, 3), [4, 3], [7, 2], 3)),
          "Elements of the storage replaced.", replayable=False)


def _masked_samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
    draw, mask = (draw_values(generator, d, "mixed") for d in (dtype, torch.bool))
    op = aten.masked_scatter_backward.default
    return [(op, (draw(9, 7), mask(9, 7), [70]), {}), (op, (draw(9, 7), mask(7), [8, 8]), {}),
            (op, (draw(7, 9).t(), mask(7, 9).t(), [63]), {})]


_register(aten.masked_scatter_backward, _unmasked, _masked_samples,
          "The gradients at a mask's places, then 0.")
