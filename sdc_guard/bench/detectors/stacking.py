"""Where a detector's dispatch mode lies on the thread's stack, and how its own work is hidden.

A fault that counts the calls of the user's code does so with a mode of its own
(:class:`sdc_guard.inject.trigger.UserCalls`).  It must stay above every detector's mode, and must
not see a detector's own calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from torch.utils import _python_dispatch as dispatch
from torch.utils._python_dispatch import TorchDispatchMode

T = TypeVar("T")


@contextmanager
def at_bottom(watching: AbstractContextManager[T]) -> Iterator[T]:
    """Enter a context manager whose dispatch modes go to the bottom of this thread's stack."""
    others = _take_all()
    try:
        with watching as value:
            own = _take_all()
            _put_all(own + others)
            try:
                yield value
            finally:
                _take_all()
                _put_all(own)
    finally:
        _put_all(others)


@contextmanager
def unseen(*, dispatching: bool = False) -> Iterator[None]:
    """Let no dispatch mode see what runs inside.

    With ``dispatching`` there are as many that do nothing in their place: while modes are on,
    autograd takes other formulas for a few operators and detaches more, and a repeat must make the
    same calls.
    """
    others = _take_all()
    if dispatching:
        _put_all([_Nothing() for _ in others])  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        _take_all()
        _put_all(others)


class _Nothing(TorchDispatchMode):
    """Lets every call through."""

    supports_higher_order_operators = True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


def _take_all() -> list[Any]:
    """Empty the stack; the bottom mode comes first."""
    num_modes = len(dispatch._get_current_dispatch_mode_stack())
    return [dispatch._pop_mode() for _ in range(num_modes)][::-1]


def _put_all(modes: list[Any]) -> None:
    for mode in modes:
        dispatch._push_mode(mode)
