"""How a tensor may lie in memory: the same values behind other strides, offsets and addresses."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.errors import UsageError
from sdc_guard.hunt.trial import STRIDED, Layout


def _surroundings(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Memory around a tensor's elements: NaN, or a number that no recipe gives, so that a kernel
    that reads beside its operand cannot be right by luck."""
    dtype = values.dtype
    return values.new_full(
        shape, float("nan") if dtype.is_floating_point or dtype.is_complex else 77)


def _permuted(values: Tensor, detail: int) -> Tensor:
    """The dimensions stand in memory in another order: the reverse one for 0, else rotated."""
    dims = list(range(values.dim()))
    order = dims[::-1] if not detail else dims[detail % len(dims):] + dims[:detail % len(dims)]
    back = [order.index(d) for d in dims]
    return values.permute(order).contiguous().permute(back)


def _stepped(values: Tensor, detail: int) -> Tensor:
    """Every ``detail + 2``-th element along the last dimension."""
    step = detail % 3 + 2
    wide = _surroundings(values, (*values.shape[:-1], step * values.shape[-1]))
    image = wide[..., ::step]
    return image.copy_(values)


def _gapped(values: Tensor, detail: int) -> Tensor:
    """Rows in a wider matrix: dense along the last dimension, gaps between rows."""
    gap = detail % 7 + 1
    wide = _surroundings(values, (*values.shape[:-1], values.shape[-1] + gap))
    image = wide[..., : values.shape[-1]]
    return image.copy_(values)


def _offset(values: Tensor, detail: int) -> Tensor:
    """The storage begins ``detail + 1`` elements before the tensor: an address that vector loads
    do not like."""
    by = detail % 31 + 1
    image = _surroundings(values, (values.numel() + by,))[by:].view(values.shape)
    return image.copy_(values)


def _expanded(values: Tensor, detail: int) -> Tensor:
    """One dimension repeats its first slice with stride 0, the last one for -1: other *values*,
    too."""
    dim = detail % values.dim()
    return values.narrow(dim, 0, min(1, values.shape[dim])).expand(values.shape)


def _channels_last(values: Tensor, detail: int) -> Tensor:
    """Channels (dimension 1) lie innermost, as in NHWC."""
    if values.dim() < 3:
        return values
    order = [0, *range(2, values.dim()), 1]
    back = [order.index(d) for d in range(values.dim())]
    return values.permute(order).contiguous().permute(back)


def _overlapping(values: Tensor, detail: int) -> Tensor:
    """Windows of one vector that share elements (``unfold`` with step 1): other values, too."""
    if values.dim() < 2 or not values.numel():
        return values
    rows, columns = values.numel() // values.shape[-1], values.shape[-1]
    line = values.reshape(-1)[: rows + columns - 1]
    if rows > 1 and values.dim() > 2:
        return values
    return line.as_strided((rows, columns), (1, 1))


LAYOUTS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "contiguous": lambda values, detail: values,
    "permuted": _permuted,
    "stepped": _stepped,
    "gapped": _gapped,
    "offset": _offset,
    "channels_last": _channels_last,
    "expanded": _expanded,
    "overlapping": _overlapping,
}

CHANGES_VALUES = frozenset({"expanded", "overlapping"})
"""Layouts in which elements share memory, so that not every element keeps its own value."""


MAX_GAP = 64
"""A strided tensor of a trial reaches over this many times its elements, and a page, at most."""


def strided(values: Tensor, strides: tuple[int, ...], offset: int) -> Tensor:
    """The values behind these strides; where elements share memory, the last one's value.

    Raises:
        UsageError: if the strides do not fit the shape, or reach too far.
    """
    if len(strides) != values.dim() or offset < 0 or min(strides, default=0) < 0:
        raise UsageError(f"strides {strides} and offset {offset} for shape {tuple(values.shape)}: "
                         "give one stride, 0 or more, for each dimension")
    reach = 1 + sum((n - 1) * s for n, s in zip(values.shape, strides, strict=True))
    if reach + offset > MAX_GAP * values.numel() + 4096:
        raise UsageError(f"strides {strides} and offset {offset} for shape {tuple(values.shape)} "
                         f"reach over {reach + offset} elements, limit {MAX_GAP} for each element")
    image = values.new_zeros(reach + offset).as_strided(values.shape, strides, offset)
    target = bits.distinct(image)
    for dim, size in enumerate(target.shape):
        values = values.narrow(dim, 0, size)
    target.copy_(values)
    return image


def laid_out(values: Tensor, layout: Layout) -> Tensor:
    """The values (contiguous) in that layout; empty tensors stay as they are, and so do tensors
    without dimensions but for an offset.

    Raises:
        UsageError: for an unknown layout, or one that does not fit the shape.
    """
    if layout.kind == STRIDED:
        with torch.no_grad():
            return strided(values, layout.strides, layout.detail) if values.numel() else values
    make = LAYOUTS.get(layout.kind)
    if make is None:
        raise UsageError(f"layout {layout.kind!r} is unknown; there are {', '.join(LAYOUTS)}")
    if not values.numel() or (not values.dim() and layout.kind != "offset"):
        return values
    with torch.no_grad():
        return make(values, layout.detail)
