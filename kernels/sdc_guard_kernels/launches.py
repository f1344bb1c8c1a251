"""Triton's launches as they happen: who listens hears the name of every kernel.

On a device this is Triton's own launch hook (``knobs.runtime.launch_enter_hook``).  The interpreter
has none, so there the executor of a grid is wrapped while somebody listens.  With the last listener
gone, Triton is as it was.  No numbers are involved.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

from triton import knobs

Listener = Callable[[str], None]
"""Called with the kernel's name before each launch, on the launching thread; must not raise."""

_INTERPRETER = "triton.runtime.interpreter"
_lock = threading.Lock()
_listeners: list[Listener] = []
_wrapped: list[tuple[Any, Any]] = []


def listen(listener: Listener) -> None:
    """Tell ``listener`` of every launch from now on; adding it twice changes nothing."""
    with _lock:
        if listener not in _listeners:
            _listeners.append(listener)
        knobs.runtime.launch_enter_hook.add(_on_device)
        module = sys.modules.get(_INTERPRETER)
        if module is not None and not _wrapped:
            _wrap(module.GridExecutor)


def forget(listener: Listener) -> None:
    """Tell it no more."""
    with _lock:
        if listener in _listeners:
            _listeners.remove(listener)
        if _listeners:
            return
        knobs.runtime.launch_enter_hook.remove(_on_device)
        for owner, original in _wrapped:
            owner.__call__ = original
        _wrapped.clear()


def _wrap(executor: Any) -> None:
    original = executor.__call__

    def heard(self: Any, *args: Any, **kwargs: Any) -> Any:
        _tell(str(getattr(self.fn, "__name__", "kernel")))
        return original(self, *args, **kwargs)

    executor.__call__ = heard
    _wrapped.append((executor, original))


def _on_device(metadata: Any) -> None:
    data = getattr(metadata, "data", None)  # a LazyDict; what it computes is not asked for
    _tell(str(data.get("name", "kernel")) if isinstance(data, dict) else "kernel")


def _tell(name: str) -> None:
    for listener in tuple(_listeners):
        listener(name)
