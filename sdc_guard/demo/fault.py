"""A ``torch.sum`` that goes wrong now and then, without any error.

The kernel of ``aten::sum.dim_IntList`` on the CPU is replaced through ``torch.library``, as a
vendor's or a team's own kernel would replace it.  Nearly always it is the kernel that it replaced.
Where the data leads it onto a rare path, it loses the offset of every tile but the first along the
summed dimension: it reads the first :data:`TILE` elements again and again, inside the input's own
memory.  ``sum()`` of a whole tensor, ``mean`` and ``out=`` forms stay right.
"""

from __future__ import annotations

import ctypes
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from sdc_guard.bits import span

FAULTY_OP = "aten.sum.dim_IntList"
FAULTY_PACKET = "aten.sum"
TILE = 8
"""Elements along the summed dimension that the rare path reads, again and again: as many floats as
a 256-bit register holds."""
RARITY = 120
"""One sum of contiguous rows in so many, on average, has data that leads onto the rare path; that
is about one call in several hundred of those that the demo's training makes."""
_BYTES_LOOKED_AT = 4096
_RECOMPUTING_MODULES = ("sdc_guard.check", "sdc_guard.attribute", "sdc_guard.evidence")


@dataclass(frozen=True, slots=True)
class Firing:
    """One wrong sum of the training itself: ``call`` counts its calls of the op from 0."""

    call: int
    shape: tuple[int, ...]


@dataclass
class FaultySum:
    """What the broken kernel did: the ground truth that no user has.

    ``calls`` and ``firings`` count the training's own calls; what a guard recomputes is in
    ``recomputations`` and ``recomputations_fired``.
    """

    calls: int = 0
    firings: list[Firing] = field(default_factory=list)
    recomputations: int = 0
    recomputations_fired: int = 0


@contextmanager
def faulty_sum(rarity: int = RARITY, *, rows_only: bool = False) -> Iterator[FaultySum]:
    """Replace the CPU kernel of ``aten::sum.dim_IntList`` by the broken one, for the duration.

    With ``rows_only`` the rare path exists only in the kernel for contiguous rows.  The kernel is
    global: every thread of the process gets it.
    """
    right = torch.library.get_kernel("aten::sum.dim_IntList", "CPU")
    record = FaultySum()

    def kernel(
        keyset: Any,
        x: Tensor,
        dim: list[int] | None,
        keepdim: bool = False,
        *,
        dtype: torch.dtype | None = None,
    ) -> Any:
        fires = dim is not None and len(dim) == 1 and _is_on_rare_path(x, dim[0], rarity, rows_only)
        if _asked_by_the_guard():
            record.recomputations += 1
            record.recomputations_fired += fires
        else:
            if fires:
                record.firings.append(Firing(record.calls, tuple(x.shape)))
            record.calls += 1
        if not fires:
            return right.call_boxed(keyset, x, dim, keepdim, dtype=dtype)
        assert dim is not None
        d = dim[0] % x.dim()
        wrong = right.call_boxed(keyset, _first_tile_repeated(x, d), [d, d + 1], True, dtype=dtype)
        kept = (1,) if keepdim else ()
        return wrong.view(*x.shape[:d], *kept, *x.shape[d + 1 :])

    library = torch.library.Library("aten", "IMPL")
    try:
        with warnings.catch_warnings():
            # torch says once per process that a kernel is overridden; here that is the purpose.
            warnings.filterwarnings("ignore", message="Warning only once for all operators")
            library.impl("sum.dim_IntList", kernel, "CPU", with_keyset=True)
        yield record
    finally:
        library._destroy()


def _is_on_rare_path(x: Tensor, dim: int, rarity: int, rows_only: bool) -> bool:
    """Decided by the data alone: a checksum of the first bytes in memory."""
    if not x.is_floating_point() or not x.dim() or x.numel() == 0:
        return False
    n = x.shape[dim]
    if n <= TILE or n % TILE or (rows_only and x.stride(dim) != 1):
        return False
    num_bytes = min(span(x) * x.element_size(), _BYTES_LOOKED_AT)
    return zlib.crc32(ctypes.string_at(x.data_ptr(), num_bytes)) % rarity == 0


def _first_tile_repeated(x: Tensor, d: int) -> Tensor:
    """``x`` with dimension ``d`` of size n split into [n / TILE, TILE], all tiles being the first:
    the tile's stride is lost."""
    shape, stride = tuple(x.shape), x.stride()
    return x.as_strided(
        (*shape[:d], shape[d] // TILE, TILE, *shape[d + 1 :]),
        (*stride[:d], 0, stride[d], *stride[d + 1 :]),
        x.storage_offset(),
    )


def _asked_by_the_guard() -> bool:
    """True if a guard's recomputation is on the Python stack, and not only its observer."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(_RECOMPUTING_MODULES):
            return True
        frame = frame.f_back
    return False
