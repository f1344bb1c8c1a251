"""Tensors with given bits in drawn memory layouts, and the undo of a symmetry by definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard.bits import raw

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)
OTHERS = (torch.bool, torch.uint8, torch.int16, torch.int64, torch.float8_e4m3fn)
DTYPES = (*FLOATS, *COMPLEX, *OTHERS)
# Zeros, subnormals, ones, infinities, NaNs with payloads: their upper bits, in 16, and lower ones.
SPECIAL_BITS = {
    2: (0, 0x8000, 1, 0x8001, 0x3C00, 0xBC00, 0x7C00, 0xFC00, 0x7E00, 0xFE01, 0x7C01, 0x7F80,
        0xFF80, 0x7FC0, 0xFFC1, 0x7F81),
    4: (0, 0x80000000, 1, 0x80000001, 0x3F800000, 0xBF800000, 0x7F800000, 0xFF800000, 0x7FC00000,
        0xFFC00001, 0x7F800001),
    8: (0, 1 << 63, 1, 1 << 63 | 1, 0x3FF << 52, 0xBFF << 52, 0x7FF << 52, 0xFFF << 52,
        0x7FF8 << 48, 0xFFF8 << 48 | 1, 0x7FF << 52 | 1, 1 << 32),
}
_WORD = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def word_size(dtype: torch.dtype) -> int:
    """Bytes of an element, or of a part of a complex one."""
    size = torch.empty(0, dtype=dtype).element_size()
    return size // 2 if dtype.is_complex else size


def drawn_words(dtype: torch.dtype, num: int, seed: int) -> NDArray[Any]:
    """[num, words of an element]: half of them special, the others any bits."""
    size, rng = word_size(dtype), np.random.default_rng(seed)
    words = rng.integers(0, 256, (num, 2 if dtype.is_complex else 1, size), dtype=np.uint8)
    if dtype is torch.bool:
        words &= 1
    words = words.view(_WORD[size])[..., 0]
    if size in SPECIAL_BITS:
        special = rng.choice(np.array(SPECIAL_BITS[size], dtype=_WORD[size]), words.shape)
        words = np.where(rng.random(words.shape) < 0.7, special, words)
    return words


def laid_out(
    words: NDArray[Any], dtype: torch.dtype, shape: tuple[int, ...], *, order: tuple[int, ...],
    gap: int = 0, offset: int = 0, expanded: int | None = None, fill: int = 0xA5, behind: int = 1,
) -> Tensor:
    """A tensor whose elements in C order have these words; ``order`` lists the dimensions from the
    slowest in memory to the fastest, with ``gap`` elements between lines; along ``expanded`` the
    words of index 0 stand everywhere, with stride 0.  Before the first element lie
    ``offset`` others, and some ``behind`` the last."""
    strides, reach = [0] * len(shape), 1
    for dim in reversed(order):
        if dim != expanded:
            strides[dim] = reach
            reach = reach * shape[dim] + gap
    size = torch.empty(0, dtype=dtype).element_size()
    memory = torch.full(((reach + offset + behind) * size,), fill, dtype=torch.uint8).view(dtype)
    tensor = memory.as_strided(shape, strides, offset)
    if tensor.numel():
        bits_of = np.ascontiguousarray(words).view(raw(memory).dtype).reshape(shape)
        at = tuple(slice(0, 1) if d == expanded else slice(None) for d in range(len(shape)))
        raw(tensor)[at] = bits_of[at]
    return tensor


def words_of(tensor: Tensor) -> NDArray[Any]:
    """[elements in C order, words of an element]."""
    flat = np.ascontiguousarray(raw(tensor)).reshape(-1)
    return flat.view(_WORD[word_size(tensor.dtype)]).reshape(tensor.numel(), -1)


def floats(words: NDArray[Any], dtype: torch.dtype) -> NDArray[Any]:
    """The words as numbers of NumPy."""
    if dtype is torch.bfloat16:
        return (words.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return words.view({2: np.float16, 4: np.float32, 8: np.float64}[words.itemsize])


def wrong_by_definition(
    got: Tensor, held: Tensor, *, where: tuple[int, int, int] | None = None,
    roll: tuple[int, int] | None = None, negated: bool = False, nans_alike: bool = False,
    zeros_alike: bool = False,
) -> NDArray[np.bool_]:
    """Where ``got`` differs, by indexing, sign changes and float comparisons in NumPy."""
    place = np.arange(held.numel()).reshape(held.shape)
    if where is not None:
        place = np.take(place, range(where[1], where[1] + where[2]), axis=where[0])
    if roll is not None:
        place = np.roll(place, -roll[1], axis=roll[0])
    undone, right = words_of(got).copy(), words_of(held)[place.reshape(-1)]
    if negated:
        undone ^= undone.dtype.type(1 << (8 * undone.itemsize - 1))
    wrong = undone != right
    if nans_alike:
        wrong &= ~(np.isnan(floats(undone, got.dtype)) & np.isnan(floats(right, got.dtype)))
    if zeros_alike:
        wrong &= ~((floats(undone, got.dtype) == 0) & (floats(right, got.dtype) == 0))
    return np.asarray(wrong.any(axis=1).reshape(got.shape))


@st.composite
def layouts(draw: st.DrawFn, num_dims: int) -> dict[str, Any]:
    """Arguments of :func:`laid_out`."""
    return {
        "order": tuple(draw(st.permutations(range(num_dims)))),
        "gap": draw(st.integers(0, 2)),
        "offset": draw(st.integers(0, 3)),
        "expanded": draw(st.none() | st.integers(0, num_dims - 1)) if num_dims else None,
    }
