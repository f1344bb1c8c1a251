"""What a check leaves behind: its verdict in two words of device memory, without synchronisation.

Every checking kernel ends in :func:`note`.  For a tile of judged quantities with defect d and limit
l it keeps the worst share ``d / l``, where that is, and how many were over the limit:

    word 0 = max over all tiles of (bits32(d / l) << 32 | 0xFFFFFFFF - min(index, 0xFFFFFFFF))
    word 1 = number of judged quantities with not (d <= l)

A share is never negative, and the bits of non-negative floats order like the floats, so one 64-bit
maximum finds the worst share and, of equal ones, the smallest index.  Maximum and addition of
integers give one result in any order: the record does not depend on the schedule.

A quantity whose limit is infinite or NaN is not judged.  A defect that is NaN is over any limit,
and is recorded as an infinite share; so is one over a limit of 0.  The share is rounded to float32,
and of float32 tiles it is divided with an error of 2 ulp, or lost for a limit above 2^126 (PTX ISA,
div.full): it may then be 1 or less for a defect over its limit.  The count decides, the share only
tells.

A record is zero before a check and is read by :func:`read` once for many checks: that copy is the
one point where the host waits.  Traffic: two atomic operations per program, the second one only
where something is wrong.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

WORDS = 2
NO_INDEX = 0xFFFFFFFF
"""An index as large as this, or larger, is kept as this."""


class Verdict(NamedTuple):
    """``worst_share``: largest share of a limit that was reached (float32).  ``place``: where, in
    the check's own numbering, :data:`NO_INDEX` if beyond 32 bits.  ``num_over``: quantities over
    their limit."""

    worst_share: float
    place: int
    num_over: int


@triton.jit
def note(record_ptr, defect, limit, index, judged):  # type: ignore[no-untyped-def]
    """Add a tile to a record: ``defect`` and ``limit``, both float64 or both float32, int64
    ``index``, bool ``judged``, all of one shape, of any rank."""
    # Comparisons with NaN are false: `defect <= limit` holds for no NaN.
    seen = judged & (limit < float("inf"))
    wrong = seen & ((defect <= limit) == 0)
    share = tl.where(seen, defect, 0.0) / tl.where(seen & (limit > 0.0), limit, 1.0)
    # Over a limit of 0 by anything, or by a NaN.
    share = tl.where(wrong & ((limit > 0.0) == 0), float("inf"), share)
    share = tl.where(wrong & ((share >= 0.0) == 0), float("inf"), share)
    bits = share.to(tl.float32).to(tl.int32, bitcast=True).to(tl.int64)
    place = 0xFFFFFFFF - tl.minimum(index, 0xFFFFFFFF)
    packed = tl.where(seen, (bits << 32) | place, 0)
    tl.atomic_max(record_ptr, tl.max(tl.ravel(packed)), sem="relaxed")
    num_wrong = tl.sum(tl.ravel(wrong.to(tl.int64)))
    tl.atomic_add(record_ptr + 1, num_wrong, mask=num_wrong > 0, sem="relaxed")


def new_records(num_records: int, device: torch.device) -> Tensor:
    """Zeroed records, int64 [num_records, WORDS]."""
    return torch.zeros(num_records, WORDS, dtype=torch.int64, device=device)


def read(records: Tensor) -> list[Verdict]:
    """The verdicts of records [num_records, WORDS]; waits for the device once."""
    return [_unpacked(worst, count) for worst, count in records.cpu().tolist()]


def _unpacked(worst: int, count: int) -> Verdict:
    (share,) = struct.unpack("<f", struct.pack("<I", worst >> 32))
    return Verdict(share, NO_INDEX - (worst & 0xFFFFFFFF) if worst else 0, count)
