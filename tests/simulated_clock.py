"""A clock that a test turns: what is measured with it does not depend on this machine."""

from __future__ import annotations

import time
from types import ModuleType

import pytest


class SimulatedClock:
    """In place of the module ``time`` in a module that reads ``time.perf_counter``."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s

    def sleep(self, spent_s: float) -> None:
        self.now_s += spent_s


class TickingClock:
    """In place of the module ``time`` where a search ends by it: each reading is later by a fixed
    step, so that it ends after so many calls.  It is days ahead of this machine's clock, by which a
    search that it is handed on to would end."""

    def __init__(self, step_s: float) -> None:
        self._now_s = 1e6 + time.monotonic()
        self._step_s = step_s

    def monotonic(self) -> float:
        self._now_s += self._step_s
        return self._now_s

    process_time = monotonic


def simulated(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> SimulatedClock:
    """The clock that ``module`` reads until the end of the test."""
    clock = SimulatedClock()
    monkeypatch.setattr(module, "time", clock)
    return clock
