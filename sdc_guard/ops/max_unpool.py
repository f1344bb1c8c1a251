"""Max unpooling: every value goes to the place that its index names, all other places are 0.

Exact.  Where several indices of a plane name one place, the last writer's value stays, which order
is the kernel's own: any of them is right.  Rolled images and channels keep every bit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from sdc_guard import bits
from sdc_guard.ops._pools import plane_axes, plane_symmetries, rank_of
from sdc_guard.ops._registry import HostCall, Reference, checked
from sdc_guard.ops._samples import FLOATS, SampleList, draw_values

aten = torch.ops.aten


def max_unpool(call: HostCall) -> tuple[Reference | None, ...]:
    """The values at their places; 0 elsewhere."""
    held = call.held[0]
    if not bits.has_values(held.dtype):
        return (None,)
    rank = rank_of(call)
    size = math.prod(held.shape[-rank:])
    planes = held.numel() // size if size else 0
    x = call.array("self").ravel()
    places = (call.array("indices").reshape(planes, -1)
              + size * np.arange(planes)[:, None]).ravel()
    got = bits.values(held).ravel()
    expected = np.zeros_like(got)
    expected[places] = x
    there = got[places]
    named = places[(x == there) | ((x != x) & (there != there))]
    expected[named] = got[named]
    return (Reference(expected.reshape(tuple(held.shape)), 0.0, 0.0, "exact"),)


_CALLS: dict[int, tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]] = {
    2: (((2, 3, 4, 5), (9, 11)), ((5, 3, 3), (6, 7)), ((1, 1, 1, 1), (3, 2))),
    3: (((2, 3, 2, 3, 4), (4, 6, 9)), ((3, 2, 2, 2), (5, 4, 4))),
}


def _samples(packet: Any, rank: int) -> Any:
    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in FLOATS:
            return []
        calls: SampleList = []
        for shape, outs in _CALLS[rank]:
            planes, num, size = (math.prod(s) for s in (shape[:-rank], shape[-rank:], outs))
            index = torch.stack([torch.randperm(size, generator=generator)[:num]
                                 for _ in range(planes)]).reshape(shape)
            x = draw_values(generator, dtype, "mixed")(*shape)
            rest = (list(outs),) if rank == 2 else (list(outs), [2] * 3, [0] * 3)
            calls.append((packet.default, (x, index, *rest), {}))
            if len(shape) == 4 and rank == 2:
                last = torch.channels_last
                calls.append((packet.default, (x.contiguous(memory_format=last),
                                               index.contiguous(memory_format=last), *rest), {}))
        return calls

    return samples


for _packet, _rank in ((aten.max_unpool2d, 2), (aten.max_unpool3d, 3)):
    checked(_packet, family="pooling", axes=plane_axes, symmetries=plane_symmetries,
            window=("n", "c"), deterministic=False, samples=_samples(_packet, _rank))(max_unpool)
