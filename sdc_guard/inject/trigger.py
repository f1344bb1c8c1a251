"""Tell the calls that the user's code makes from those that a guard makes on its own."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sdc_guard.calls import form_of


def is_left_to_a_subclass(types: Any) -> bool:
    """True if a dispatch mode must answer NotImplemented: a subclass such as DTensor makes its own
    calls on plain tensors, and those reach the mode again.  (Plain tensors and parameters are
    sometimes listed too, as by ``detach`` under attention.)"""
    return any(t is not torch.Tensor and t is not torch.nn.Parameter for t in types)


class Inert(TorchDispatchMode):
    """Does nothing, but makes autograd take the paths that it takes under any dispatch mode."""

    supports_higher_order_operators = True

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        # Without this the mode would switch torch.compile off, and with it what is under test.
        return True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if types and is_left_to_a_subclass(types):
            return NotImplemented
        return func(*args, **(kwargs or {}))


class UserCalls(Inert):
    """Dispatch mode that arms a fault for exactly one call of ``op``: the ``number``-th, from 0.

    Enter it after (above) the guard's mode: it then sees each operator call of the user's code, of
    the backward pass and of the optimizer once, and none of the calls that the guard makes while
    it handles one.  While the chosen call is being handled, :meth:`take` answers True once, to the
    first kernel of that op that runs on that thread, which is the call itself; a replay comes
    later.
    """

    def __init__(self, op: Any, number: int) -> None:
        super().__init__()
        self.op = op
        self.number = number
        self.num_calls = 0
        self._lock = threading.Lock()
        self._thread = threading.local()

    def take(self) -> bool:
        """True for the one kernel execution that the fault belongs to."""
        if not getattr(self._thread, "armed", False):
            return False
        self._thread.armed = False
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if types and is_left_to_a_subclass(types):
            return NotImplemented
        if func is not self.op:
            return func(*args, **(kwargs or {}))
        with self._lock:
            number = self.num_calls
            self.num_calls += 1
        self._thread.armed = number == self.number
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self._thread.armed = False


INNER = -1
"""The kernel ran inside a call of the user's of another operator."""
CHECKER = -2
"""The kernel ran for somebody else than the user: a replay, a reference, a recomputation."""


class _Flight:
    """A call of the user's that is being handled."""

    __slots__ = ("func", "number", "taken")

    def __init__(self, func: Any, number: int) -> None:
        self.func = func
        self.number = number
        self.taken = False


class Watch(Inert):
    """Dispatch mode that tells for each execution of ``op``'s kernel whose it is; enter it after
    (above) the detector.

    Calls of ``counted`` (default ``op``) that come in are the user's and are numbered from 0.
    While one is being handled, the first execution on that thread is the call itself, all others
    are a checker's, as are those that run while no call of the user's is being handled there.
    """

    def __init__(self, op: Any, counted: Any = None) -> None:
        super().__init__()
        self.op = op
        self.counted = op if counted is None else counted
        self.num_calls = 0
        self._lock = threading.Lock()
        self._thread = threading.local()

    @property
    def handled(self) -> str:
        """The user's call that is being handled on this thread, empty for none."""
        flight: _Flight | None = getattr(self._thread, "flight", None)
        return "" if flight is None else str(flight.func)

    def whose(self) -> int:
        """Number of the user's call that this execution is; :data:`INNER` or :data:`CHECKER`."""
        flight: _Flight | None = getattr(self._thread, "flight", None)
        if flight is None:
            return CHECKER
        func = flight.func
        if not isinstance(func, torch._ops.OpOverload):
            return INNER
        if func is not self.op:
            form = form_of(func)
            if form.functional is self.op:  # in place calls are repeated by it, never made of it
                return CHECKER
            if form.packet != form_of(self.op).packet:
                return INNER
        # An overload may be made of another one of its packet (sum, mul.Scalar): once in each call.
        if flight.taken:
            return CHECKER
        flight.taken = True
        return flight.number if func is self.op else INNER

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if types and is_left_to_a_subclass(types):
            return NotImplemented
        number = INNER
        if func is self.counted:
            with self._lock:
                number = self.num_calls
                self.num_calls += 1
        outer = getattr(self._thread, "flight", None)
        self._thread.flight = _Flight(func, number)
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self._thread.flight = outer
