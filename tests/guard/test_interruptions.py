"""What a signal handler raises reaches the program, also where it strikes the guard's own work."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch

import sdc_guard
from sdc_guard.interruptions import raise_if_users
from sdc_guard.pipeline import Pipeline


class TimeIsUp(Exception):
    pass


def up(number: int, frame: FrameType | None) -> None:
    raise TimeIsUp


class Caller:
    def method(self, number: int, frame: FrameType | None) -> None:
        raise TimeIsUp

    def __call__(self, number: int, frame: FrameType | None) -> None:
        raise TimeIsUp


@pytest.mark.parametrize(
    "handler", [up, Caller().method, Caller(), functools.partial(up)],
    ids=["function", "method", "object", "partial"])
def test_an_exception_of_a_handler_is_told_from_others(handler: Callable[..., Any]) -> None:
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        signal.raise_signal(signal.SIGUSR1)
    except TimeIsUp as caught:
        with pytest.raises(TimeIsUp):
            raise_if_users(caught)
    finally:
        signal.signal(signal.SIGUSR1, before)
    try:
        raise TimeIsUp
    except TimeIsUp as caught:
        raise_if_users(caught)  # nobody's handler: the guard's own failure


def test_a_time_limit_ends_a_loop_though_it_strikes_inside_a_check(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    check = Pipeline.check

    def struck(self: Pipeline, *args: Any) -> None:
        signal.raise_signal(signal.SIGUSR1)
        check(self, *args)

    before = signal.signal(signal.SIGUSR1, up)
    try:
        monkeypatch.setattr(Pipeline, "check", struck)
        with sdc_guard.Guard(budget="all") as guard, pytest.raises(TimeIsUp):
            torch.ones(8).sum()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert guard.coverage.guard_errors == 0
