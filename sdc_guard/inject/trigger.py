"""Tell the calls that the user's code makes from those that a guard makes on its own."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


def is_left_to_a_subclass(types: Any) -> bool:
    """True if a dispatch mode must answer NotImplemented: a subclass such as DTensor makes its own
    calls on plain tensors, and those reach the mode again.  (Plain tensors and parameters are
    sometimes listed too, as by ``detach`` under attention.)"""
    return any(t is not torch.Tensor and t is not torch.nn.Parameter for t in types)


class UserCalls(TorchDispatchMode):
    """Dispatch mode that arms a fault for exactly one call of ``op``: the ``number``-th, from 0.

    Enter it after (above) the guard's mode: it then sees each operator call of the user's code, of
    the backward pass and of the optimizer once, and none of the calls that the guard makes while
    it handles one.  While the chosen call is being handled, :meth:`take` answers True once, to the
    first kernel of that op that runs on that thread, which is the call itself; a replay comes
    later.
    """

    supports_higher_order_operators = True

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        # Without this the mode would switch torch.compile off, and with it what is under test.
        return True

    def __init__(self, op: Any, number: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
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
