"""The order in which two strided tensors of one shape are walked together, from metadata alone.

Dimensions of size 1 are dropped.  The one along which ``held`` has the smallest stride comes last
(innermost), the others before it, the fastest of ``got`` last.  Neighbours that continue each other
in ``got``, in ``held`` and in the C-order numbering of the elements are merged, a rolled dimension
with those inside it too: n rows of m elements rolled by s rows are n m elements rolled by s m.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple


class Dim(NamedTuple):
    """A dimension of the walk: strides in elements, ``place_stride`` in the C-order numbering, and
    the roll of ``held`` along it, 0 <= shift < size."""

    size: int
    got_stride: int
    held_stride: int
    place_stride: int
    shift: int = 0


ABSENT = Dim(1, 0, 0, 0)


@lru_cache(maxsize=4096)
def walk(
    shape: tuple[int, ...], got_strides: tuple[int, ...], held_strides: tuple[int, ...],
    roll: tuple[int, int] | None,
) -> tuple[Dim, ...]:
    """The dimensions in the order of the walk, outermost first; at least one.

    Args:
        shape: of both tensors, no size 0.
        roll: (dimension, shift) as in ``bit_compare.Undo``, or None.
    """
    found: list[Dim] = []
    place_stride = 1
    for dim in reversed(range(len(shape))):
        size = shape[dim]
        shift = roll[1] % size if roll is not None and roll[0] == dim else 0
        if size > 1:
            found.insert(0, Dim(size, got_strides[dim], held_strides[dim], place_stride, shift))
        place_stride *= size
    if not found:
        return (ABSENT,)
    # Expanded dimensions go outwards: nothing is fast along them.  Of equals the last is taken.
    fastest = min(reversed(found), key=lambda d: d.held_stride or d.got_stride or 2**63)
    found.remove(fastest)
    found.sort(key=lambda d: d.got_stride or d.held_stride or 2**63, reverse=True)
    dims = [fastest]
    for outer in reversed(found):
        inner = dims[0]
        continues = all(
            a == b * inner.size for a, b in zip(outer[1:4], inner[1:4], strict=True))
        if continues and not inner.shift:
            dims[0] = Dim(outer.size * inner.size, inner.got_stride, inner.held_stride,
                          inner.place_stride, outer.shift * inner.size)
        else:
            dims.insert(0, outer)
    return tuple(dims)
