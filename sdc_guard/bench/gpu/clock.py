"""Times of work on a device, by its own events; on a CPU by the host's clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

HEAD_START_BYTES = 1 << 29
HEAD_START_COPIES = 12

Piece = Callable[[], object]


class Clock:
    """Times pieces of work that follow each other on the current stream.

    On a CUDA device the queue is filled first with about 3 ms of copies, so that the host is ahead
    when the pieces begin and their times are the device's alone, as in a training step whose host
    runs ahead.  The copies also leave nothing of the operands in the L2 cache.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self._from: torch.Tensor | None = None
        if device == "cuda":
            self._from = torch.zeros(HEAD_START_BYTES, dtype=torch.uint8, device=device)
            self._to = torch.empty_like(self._from)

    def times_ms(self, pieces: Sequence[Piece]) -> tuple[list[float], list[float]]:
        """Run the pieces one after the other; returns the milliseconds that each took on the
        device, and on the host.  Both are one on a CPU."""
        if self._from is None:
            spent_ms = []
            for piece in pieces:
                started_s = time.perf_counter()
                piece()
                spent_ms.append(1e3 * (time.perf_counter() - started_s))
            return spent_ms, spent_ms
        events = [torch.cuda.Event(enable_timing=True) for _ in range(len(pieces) + 1)]
        torch.cuda.synchronize()
        for _ in range(HEAD_START_COPIES):
            self._to.copy_(self._from)
        events[0].record()
        host_ms = []
        for piece, event in zip(pieces, events[1:], strict=True):
            started_s = time.perf_counter()
            piece()
            host_ms.append(1e3 * (time.perf_counter() - started_s))
            event.record()
        events[-1].synchronize()
        return [a.elapsed_time(b) for a, b in pairwise(events)], host_ms

    def turn_ms(self, turn: Piece) -> float:
        """Milliseconds from an idle device to the end of the turn on host and device: the host's
        work counts in full."""
        if self.device != "cuda":
            return self.times_ms([turn])[0][0]
        torch.cuda.synchronize()
        started_s = time.perf_counter()
        turn()
        torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - started_s)
