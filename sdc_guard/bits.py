"""The bits of tensors: raw copies, bit-exact comparison, NumPy views.

Nothing here goes through the aten copy or comparison kernels on a CPU: those are under test.
CPU memory is moved with ``memmove``, compared with ``memcmp`` (6 times faster than
``torch.equal`` on 3 MB, and blind to no bit) and walked by NumPy with strides that come from the
tensor's metadata.  Device memory is moved as raw bytes, and compared by our own kernel
(:mod:`sdc_guard.device_bits`) where it works.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import device_bits

ALIGNMENT_BYTES = 64

_libc = ctypes.CDLL(None)
_memcmp = _libc.memcmp
_memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_memcmp.restype = ctypes.c_int
_memmove = ctypes.memmove

_UINT_BY_SIZE: dict[int, Any] = {
    1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64, 16: np.dtype("V16"),
}
_TYPESTR_BY_SIZE = {size: np.dtype(kind).str for size, kind in _UINT_BY_SIZE.items()}
_INT_VIEW = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_NUMPY_DTYPE: dict[torch.dtype, Any] = {
    torch.float64: np.float64,
    torch.float32: np.float32,
    torch.float16: np.float16,
    torch.int64: np.int64,
    torch.int32: np.int32,
    torch.int16: np.int16,
    torch.int8: np.int8,
    torch.uint8: np.uint8,
    torch.uint16: np.uint16,
    torch.uint32: np.uint32,
    torch.uint64: np.uint64,
    torch.bool: np.bool_,
}
_NUMPY_COMPLEX: dict[torch.dtype, Any] = {
    torch.complex64: np.complex64,
    torch.complex128: np.complex128,
}


def span(tensor: Tensor) -> int:
    """Number of elements from the first to the last that the tensor can reach in its storage."""
    num_elements: int = tensor.numel()
    if num_elements == 0 or tensor.is_contiguous():
        return num_elements
    return 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))


def is_dense(tensor: Tensor) -> bool:
    """True if the tensor reaches each element of its span exactly once."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


def is_injective(tensor: Tensor) -> bool:
    """True if no two elements share memory, expanded dimensions aside.  Sufficient: each stride
    reaches over all that the smaller ones span."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride:
            if stride <= reach:
                return False
            reach += (size - 1) * stride
    return True


def distinct(tensor: Tensor) -> Tensor:
    """The tensor with each expanded dimension cut to one element, so that it can be written to."""
    for dim, stride in enumerate(tensor.stride()):
        if stride == 0 and tensor.shape[dim] > 1:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


def address(tensor: Tensor) -> int:
    """Address of the first element; 0 for a tensor without memory: the zeros that autograd never
    writes out, and one whose storage was freed or ends before its last element.  ``data_ptr`` of a
    view of those is its offset, which is no address."""
    start: int = tensor.data_ptr()
    offset, itemsize = tensor.storage_offset(), tensor.element_size()
    if start == offset * itemsize:
        return 0
    reach = tensor.numel() if tensor.is_contiguous() else _reach(tensor.shape, tensor.stride())
    return start if (offset + reach) * itemsize <= tensor.untyped_storage().nbytes() else 0


@lru_cache(maxsize=4096)
def _reach(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """The span of a tensor, remembered: a guard asks it of each view in each call."""
    if 0 in shape:
        return 0
    return 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))


def alignment_bytes(tensor: Tensor) -> int:
    """Address of the first element modulo 64 bytes."""
    return tensor.data_ptr() % ALIGNMENT_BYTES


def empty_image(tensor: Tensor) -> Tensor:
    """Uninitialised memory with the tensor's shape, strides, dtype, device and alignment."""
    itemsize = tensor.element_size()
    lead = tensor.data_ptr() % ALIGNMENT_BYTES // itemsize
    if not lead and tensor.is_contiguous():
        return torch.empty_strided(
            tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device
        )
    memory = torch.empty(span(tensor) + lead, dtype=tensor.dtype, device=tensor.device)
    return memory.as_strided(tensor.shape, tensor.stride(), lead)


def snapshot(tensor: Tensor) -> Tensor:
    """A private image of the tensor: same bits, shape, strides and alignment, other memory.

    The whole span is copied, gaps and overlaps included, so that a view with stride 0 or with
    overlapping elements keeps its layout.
    """
    image = empty_image(tensor)
    num_bytes = span(tensor) * tensor.element_size()
    start = address(tensor)
    if not start:
        return image.zero_()  # nothing to copy, or the zeros of a tensor without memory
    if tensor.device.type == "cpu":
        _memmove(image.data_ptr(), start, num_bytes)
    elif num_bytes:
        flat = (span(tensor),)
        source = tensor.detach().as_strided(flat, (1,), tensor.storage_offset())
        image.as_strided(flat, (1,), image.storage_offset()).copy_(source)
    return image


def address_range(tensor: Tensor) -> tuple[int, int]:
    """First address of the tensor's span and the first one behind it; 0 and 0 for a tensor without
    memory."""
    start = address(tensor)
    return (start, start + span(tensor) * tensor.element_size()) if start else (0, 0)


def snapshot_together(tensors: list[Tensor]) -> list[Tensor]:
    """Images of several tensors that share memory exactly where the originals do."""
    if len(tensors) < 2:
        return [snapshot(t) for t in tensors]
    ranges = [address_range(t) for t in tensors]
    order = sorted(range(len(tensors)), key=lambda i: ranges[i])
    groups: list[list[int]] = []
    reach = -1
    for i in order:
        low, high = ranges[i]
        if not groups or low >= reach:
            groups.append([])
        groups[-1].append(i)
        reach = max(reach, high) if len(groups[-1]) > 1 else high
    images: list[Tensor] = list(tensors)
    for group in groups:
        if len(group) == 1:
            images[group[0]] = snapshot(tensors[group[0]])
            continue
        low, high = min(ranges[i][0] for i in group), max(ranges[i][1] for i in group)
        lead = low % ALIGNMENT_BYTES
        block = torch.empty(
            lead + high - low + 16, dtype=torch.uint8, device=tensors[group[0]].device
        )
        for i in group:
            size = tensors[i].element_size()
            start = lead + ranges[i][0] - low
            stop = start + span(tensors[i]) * size
            images[i] = (
                block[start:stop]
                .view(tensors[i].dtype)
                .as_strided(tensors[i].shape, tensors[i].stride(), start // size)
            )
        for i in group:
            restore(images[i], tensors[i])
    return images


def restore(tensor: Tensor, image: Tensor) -> None:
    """Write ``image`` (made by :func:`snapshot` of the same tensor) back, bit for bit; nothing
    where the tensor has no memory."""
    start = address(tensor)
    if not start:
        return
    num_bytes = span(tensor) * tensor.element_size()
    if tensor.device.type == "cpu":
        _memmove(start, image.data_ptr(), num_bytes)
    elif num_bytes:
        flat = (span(tensor),)
        target = tensor.detach().as_strided(flat, (1,), tensor.storage_offset())
        target.copy_(image.as_strided(flat, (1,), image.storage_offset()))


def copy_rolled(source: Tensor, image: Tensor, shift: int) -> None:
    """Copy contiguous host memory rolled towards the front by ``shift`` rows."""
    # Of an empty row the stride is still 1.
    row_bytes = source.numel() // source.shape[0] * source.element_size()
    front_bytes = shift * row_bytes
    rest_bytes = source.shape[0] * row_bytes - front_bytes
    start, target = source.data_ptr(), image.data_ptr()
    _memmove(target, start + front_bytes, rest_bytes)
    _memmove(target + rest_bytes, start, front_bytes)


def raw(tensor: Tensor) -> NDArray[Any]:
    """NumPy view of a CPU tensor's bits as unsigned integers, with the tensor's own strides;
    elements of 16 bytes, which have no such integer, are opaque.

    The caller keeps the tensor alive as long as the view.  A tensor without memory, see
    :func:`address`, gives zeros.
    """
    itemsize = tensor.element_size()
    start = address(tensor) if tensor.numel() else 0
    if not start:
        return np.zeros(tuple(tensor.shape), dtype=_UINT_BY_SIZE[itemsize])
    return np.asarray(_Memory(tensor, start, itemsize))


class _Memory:
    """A tensor's memory in NumPy's array protocol: 6 times faster to make than a ctypes buffer."""

    __slots__ = ("__array_interface__",)

    def __init__(self, tensor: Tensor, start: int, itemsize: int) -> None:
        self.__array_interface__ = {
            "version": 3,
            "typestr": _TYPESTR_BY_SIZE[itemsize],
            "data": (start, False),
            "shape": tuple(tensor.shape),
            "strides": tuple([s * itemsize for s in tensor.stride()]),
        }


def on_host(tensor: Tensor) -> Tensor:
    """The tensor itself on a CPU; a raw image with the same layout in host memory otherwise."""
    if tensor.device.type == "cpu":
        return tensor
    flat = tensor.detach().as_strided((span(tensor),), (1,), tensor.storage_offset())
    return flat.cpu().as_strided(tuple(tensor.shape), tensor.stride(), 0)


def values(tensor: Tensor) -> NDArray[Any]:
    """The tensor's values as a fresh C-ordered NumPy array, widened without rounding.

    Floating formats become float64 (bf16 by shifting its bits into float32), complex ones
    complex128, integers and booleans keep their dtype.
    """
    host = on_host(tensor)
    bits = raw(host)
    if tensor.dtype in _NUMPY_COMPLEX:
        with np.errstate(invalid="ignore"):
            return np.asarray(bits.view(_NUMPY_COMPLEX[tensor.dtype]).astype(
                np.complex128, order="C"))
    if tensor.dtype is torch.bfloat16:
        wide = np.left_shift(bits.astype(np.uint32, order="C"), np.uint32(16))
        typed = wide.view(np.float32)
    else:
        typed = bits.view(_NUMPY_DTYPE[tensor.dtype])
    if typed.dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # widening a signalling NaN
            return np.asarray(typed.astype(np.float64, order="C"))
    return np.array(typed, order="C")


def has_values(dtype: torch.dtype) -> bool:
    """True for the real dtypes that :func:`values` can widen."""
    return dtype is torch.bfloat16 or dtype in _NUMPY_DTYPE


def has_numbers(dtype: torch.dtype) -> bool:
    """True for the dtypes that :func:`values` can widen, complex ones included."""
    return has_values(dtype) or dtype in _NUMPY_COMPLEX


def numbers(tensor: Tensor) -> NDArray[Any] | None:
    """The values of any dtype that has some, as float64 or complex128; None for the others."""
    if tensor.dtype in _NUMPY_COMPLEX:
        return values(tensor)
    return values(tensor).astype(np.float64) if has_values(tensor.dtype) else None


def is_lazy(tensor: Tensor) -> bool:
    """True for a lazy negative or conjugate, whose memory holds another number."""
    return tensor.is_conj() or tensor.is_neg()


def resolved(tensor: Tensor) -> Tensor:
    """A private image of a lazy negative or conjugate that holds its numbers, strides and all; any
    other tensor itself.  Signs are changed by NumPy, on a CPU; a device resolves its own."""
    if not is_lazy(tensor):
        return tensor
    if tensor.device.type != "cpu":
        return tensor.resolve_conj().resolve_neg()
    image = snapshot(tensor)
    memory = image.as_strided((span(image),), (1,), image.storage_offset())
    if not tensor.is_complex():
        found = raw(memory)
        found ^= found.dtype.type(1) << found.dtype.type(8 * tensor.element_size() - 1)
        return image
    numbers = raw(memory).view(_NUMPY_COMPLEX[tensor.dtype])
    if tensor.is_neg():
        np.negative(numbers, out=numbers)
    if tensor.is_conj():
        np.conjugate(numbers, out=numbers)
    return image


def bits_equal(a: Tensor, b: Tensor) -> bool:
    """True if two tensors of one shape and dtype hold the same bits, element by element.

    Zero signs and NaN payloads count.  On a device this waits for the result.

    Raises:
        ValueError: if the shapes or dtypes differ.
    """
    if a.shape != b.shape or a.dtype is not b.dtype:
        raise ValueError(f"bits of {a.dtype}{list(a.shape)} and {b.dtype}{list(b.shape)} cannot be "
                         "compared: give tensors of one shape and dtype")
    if device_bits.has_kernels(a):
        return device_bits.bits_equal(a, b)
    if a.device.type != "cpu":
        view = _INT_VIEW.get(a.element_size())
        if a.is_complex() or view is None:
            a, b = torch.view_as_real(a), torch.view_as_real(b)
            view = _INT_VIEW[a.element_size()]
        return torch.equal(a.view(view), b.view(view))
    places = address(a), address(b)
    if all(places) and ((a.is_contiguous() and b.is_contiguous())
                        or (a.stride() == b.stride() and is_dense(a))):
        return not _memcmp(*places, a.numel() * a.element_size())
    return bool(np.array_equal(raw(a), raw(b)))


def rows_equal(part: Tensor, whole: Tensor, start: int, *, flat: bool) -> bool:
    """True if ``part`` has the bits of ``whole`` from row ``start`` on, both contiguous in host
    memory (``flat``: from element ``start`` of its span on, which it covers densely); False says
    nothing."""
    if not address(part) or not address(whole):
        return False
    if whole.device.type != "cpu" or not part.is_contiguous():
        return False
    itemsize = whole.element_size()
    if flat:
        offset = start * itemsize
    elif whole.is_contiguous():
        offset = start * whole.stride(0) * itemsize
    else:
        return False
    size = part.numel() * itemsize
    return not _memcmp(part.data_ptr(), whole.data_ptr() + offset, size)


def wrong_mask(a: Tensor, b: Tensor) -> NDArray[np.bool_]:
    """Boolean array, True where the bits of ``a`` and ``b`` differ."""
    alike = (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
    if alike and device_bits.has_kernels(a):
        return device_bits.wrong_mask(a, b)
    host_a, host_b = on_host(a), on_host(b)  # a view by `raw` keeps no memory alive
    return np.asarray(raw(host_a) != raw(host_b))
