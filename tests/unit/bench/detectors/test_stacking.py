"""A detector's mode lies below the others, and its own work is not seen by them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils import _python_dispatch as dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from sdc_guard.bench.detectors.stacking import at_bottom, unseen


class Noting(TorchDispatchMode):
    def __init__(self, name: str, seen: list[str]) -> None:
        super().__init__()
        self.name, self.seen = name, seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(self.name)
        return func(*args, **(kwargs or {}))


def modes() -> list[Any]:
    return dispatch._get_current_dispatch_mode_stack()


def test_a_mode_at_the_bottom_sees_a_call_last() -> None:
    seen: list[str] = []
    with Noting("user 1", seen), Noting("user 2", seen), at_bottom(Noting("detector", seen)) as own:
        torch.ones(2).neg()
        assert modes()[0] is own
    assert seen[-3:] == ["user 2", "user 1", "detector"]
    assert modes() == []


def test_what_a_context_manager_does_on_leaving_is_not_seen() -> None:
    seen: list[str] = []
    with Noting("user", seen) as user:

        @contextmanager
        def watching() -> Iterator[None]:
            torch.ones(2)
            with Noting("detector", seen):
                yield
            torch.ones(2)

        with at_bottom(watching()):
            pass
        assert modes() == [user]
    assert seen == []


def test_an_error_reaches_the_context_manager_and_leaves_the_stack_in_order() -> None:
    told = []

    @contextmanager
    def watching() -> Iterator[None]:
        try:
            yield
        except ZeroDivisionError as error:
            told.append(error)
            raise

    with Noting("user", []) as user:
        with pytest.raises(ZeroDivisionError), at_bottom(watching()):
            _ = 1 / 0
        with pytest.raises(ZeroDivisionError), unseen():
            _ = 1 / 0
        assert modes() == [user]
    assert len(told) == 1


@pytest.mark.parametrize(("dispatching", "num_modes"), [(False, 0), (True, 2)])
def test_what_is_hidden_is_seen_by_no_mode(dispatching: bool, num_modes: int) -> None:
    seen: list[str] = []
    with Noting("one", seen) as one, Noting("two", seen) as two:
        with unseen(dispatching=dispatching):
            assert len(modes()) == num_modes
            assert torch.equal(torch.ones(2).neg(), torch.full((2,), -1.0))
        assert modes() == [one, two]
    assert seen == []


def test_where_no_mode_is_on_none_is_put_there() -> None:
    with unseen(dispatching=True):
        assert modes() == []
