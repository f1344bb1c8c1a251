"""A user's own dispatch modes see what they see without the guard, in any order of entry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack
from torch.utils.flop_counter import FlopCounterMode

import sdc_guard
from tests.guard.training import BACKWARD, Run, flip, hit, wrapped


class Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def counted(arrange: Callable[[Run, Counting], None]) -> Counter[str]:
    run, mode = Run(), Counting()
    for i in range(2):
        run.step(i)
    arrange(run, mode)
    assert _get_current_dispatch_mode_stack() == []
    return mode.counts


def plainly(run: Run, mode: Counting) -> None:
    with mode:
        run.step(2)
        run.step(3)


def wrap_inside(run: Run, mode: Counting) -> None:
    with mode:
        wrapped(run)
        run.step(2)
        run.step(3)
    sdc_guard.unwrap(run.model)


def wrap_and_unwrap_inside(run: Run, mode: Counting) -> None:
    with mode:
        wrapped(run)
        run.step(2)
        run.step(3)
        sdc_guard.unwrap(run.model)


def wrap_before(run: Run, mode: Counting) -> None:
    wrapped(run)
    with mode:
        run.step(2)
        run.step(3)
    sdc_guard.unwrap(run.model)


def unwrap_inside(run: Run, mode: Counting) -> None:
    wrapped(run)
    with mode:
        run.step(2)
        run.step(3)
        sdc_guard.unwrap(run.model)


def guard_around(run: Run, mode: Counting) -> None:
    with sdc_guard.Guard(budget="all", on_finding="skip"), mode:
        run.step(2)
        run.step(3)


def guard_within(run: Run, mode: Counting) -> None:
    with mode, sdc_guard.Guard(budget="all", on_finding="skip"):
        run.step(2)
        run.step(3)


def left_crosswise(run: Run, mode: Counting) -> None:
    guard = sdc_guard.Guard(budget=0.02, on_finding="skip", model=run.model)
    guard.__enter__()
    mode.__enter__()
    run.step(2)
    guard.__exit__(None, None, None)
    run.step(3)
    mode.__exit__(None, None, None)


@pytest.mark.parametrize("arrange", [wrap_inside, wrap_and_unwrap_inside, wrap_before,
                                     unwrap_inside, guard_around, guard_within, left_crosswise])
def test_a_users_mode_sees_what_it_sees_without_the_guard(arrange: Any) -> None:
    expected = counted(plainly)
    assert sum(expected.values()) > 100
    assert counted(arrange) == expected


def test_flops_are_counted_as_without_the_guard() -> None:
    def total(guarded: bool) -> int:
        run = Run()
        if guarded:
            wrapped(run)
        with FlopCounterMode(display=False) as counter:
            run.step(0)
        if guarded:
            assert run.model.sdc_guard.coverage.calls_checked > 20
            sdc_guard.unwrap(run.model)
        return counter.get_total_flops()

    assert total(True) == total(False) > 0


def test_a_fault_below_a_users_mode_is_found() -> None:
    run = Run()
    guard = wrapped(run)
    with Counting(), hit(flip(*BACKWARD)):
        run.step(0)
    assert len(guard.findings) == 1
