"""The fingerprint as its docstring defines it, in Python's integers, one byte string at a time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sdc_guard.bits import raw

M = 2**64
G_1, G_2 = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03


def mix_1(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % M
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % M
    return x ^ (x >> 31)


def mix_2(x: int) -> int:
    x = (x ^ (x >> 33)) * 0xFF51AFD7ED558CCD % M
    x = (x ^ (x >> 33)) * 0xC4CEB9FE1A85EC53 % M
    return x ^ (x >> 33)


def words(data: bytes) -> list[int]:
    return [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data), 8)]


def data_sums(tensor: Tensor) -> tuple[int, int]:
    """S_1 and S_2 of the data alone."""
    found = words(np.ascontiguousarray(raw(tensor)).tobytes())
    return (sum(mix_1((w + (j + 1) * G_1) % M) for j, w in enumerate(found)) % M,
            sum(mix_2(w ^ (j + 1) * G_2 % M) for j, w in enumerate(found)) % M)


def fingerprint_by_definition(tensor: Tensor) -> int:
    sizes = ",".join(str(n) for n in tensor.shape)
    header = words(f"{tensor.dtype}[{sizes}]".replace("torch.", "").encode())
    s_1, s_2 = data_sums(tensor)
    s_1 += sum(mix_1((h - (j + 1) * G_1) % M) for j, h in enumerate(header))
    s_2 += sum(mix_2(h ^ -(j + 1) * G_2 % M) for j, h in enumerate(header))
    return mix_1(s_1 % M) * M + mix_2(s_2 % M)


def flipped(tensor: Tensor, *places: tuple[int, int]) -> Tensor:
    """A contiguous copy with bit ``b`` of element ``i`` changed, for each (i, b)."""
    image = tensor.clone(memory_format=torch.contiguous_format)
    flat = raw(image).reshape(-1)
    for i, b in places:
        flat[i] ^= flat.dtype.type(1 << b)
    return image
