"""A clock that a test turns: what is measured with it does not depend on this machine."""

from __future__ import annotations

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


def simulated(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> SimulatedClock:
    """The clock that ``module`` reads until the end of the test."""
    clock = SimulatedClock()
    monkeypatch.setattr(module, "time", clock)
    return clock
