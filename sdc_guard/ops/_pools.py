"""What the pools share: planes that move, samples, and the count of operations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sdc_guard.calls import BoundCall
from sdc_guard.ops._axes import FIXED, Axes
from sdc_guard.ops._registry import HostCall, SamplesFn
from sdc_guard.ops._samples import SampleList, draw_values
from sdc_guard.ops._shifts import per_dim
from sdc_guard.ops._symmetry import RERUN, Symmetry, roll

Pool = tuple[tuple[int, ...], tuple[Any, ...]]
"""The shape of an image and the arguments after it."""


def rank_of(call: BoundCall | HostCall) -> int:
    """Number of spatial dimensions, by the packet's name."""
    form = call.form if isinstance(call, BoundCall) else call.call.form
    return 3 if "3d" in form.packet else 2


def plane_axes(call: BoundCall, held: tuple[Tensor, ...]) -> Axes:
    """Images and channels; the spatial dimensions, which are the last, are fixed."""
    rank = rank_of(call)

    def labels(tensor: Tensor) -> tuple[str, ...]:
        lead = tensor.dim() - rank
        return tuple(("n", "c")[2 - lead + d] if d < lead else FIXED for d in range(tensor.dim()))

    return Axes({p: labels(t) for p, t in call.tensors()}, tuple(labels(t) for t in held))


def plane_symmetries(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[Symmetry, ...]:
    """Rolled images and channels."""
    labels = plane_axes(call, held).outputs[0]
    return (*(roll(x, lane=x == "c") for x in labels if x != FIXED), RERUN)


def pool_flops(call: BoundCall, held: tuple[Tensor, ...]) -> int:
    """One addition or comparison per element read or written."""
    kernel = call.get("kernel_size")
    if kernel is None:
        return int(call["self"].numel())
    return int(held[0].numel()) * math.prod(per_dim(kernel, rank_of(call)))


def pool_samples(packet: Any, pools: Sequence[Pool], domain: str,
                 dtypes: tuple[torch.dtype, ...]) -> SamplesFn:
    """Calls of a pool for some images; the first one in channels-last too."""

    def samples(generator: torch.Generator, dtype: torch.dtype) -> SampleList:
        if dtype not in dtypes:
            return []
        draw = draw_values(generator, dtype, domain)
        calls: SampleList = [(packet.default, (draw(*shape), *rest), {}) for shape, rest in pools]
        x, *rest = calls[0][1]
        if x.dim() == 4:
            calls.append((packet.default,
                          (x.contiguous(memory_format=torch.channels_last), *rest), {}))
        return calls

    return samples
