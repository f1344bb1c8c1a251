"""Which guard is active on which thread, and what a fork does to it."""

from __future__ import annotations

import os
import threading
from typing import Protocol
from weakref import WeakSet


class Watcher(Protocol):
    """What this module needs of a guard."""

    def leave_to_parent(self) -> None:
        """Rest in a forked child."""

    def note_gap(self, gap: str) -> None:
        """Say what is not covered."""


_here = threading.local()
_running: WeakSet[Watcher] = WeakSet()


def watcher() -> Watcher | None:
    """The guard that is active on this thread, or None."""
    found = getattr(_here, "watcher", None)
    return found if found in _running else None


def is_running(guard: Watcher) -> bool:
    """True if the guard is active on any thread."""
    return guard in _running


def enter(guard: Watcher) -> None:
    """Make the guard the one of this thread, once more."""
    _here.depth = _here.depth + 1 if watcher() is guard else 1
    _here.watcher = guard
    _running.add(guard)


def leave() -> bool:
    """Undo one :func:`enter` on this thread; True if it was the first one."""
    _here.depth -= 1
    if not _here.depth:
        _here.watcher = None
    return not _here.depth


def stop(guard: Watcher) -> None:
    """The guard is active on no thread any more."""
    _running.discard(guard)


def _in_child() -> None:
    """A forked process (a DataLoader worker) inherits the mode but not the job: the guard lets
    every call through there and writes nothing to the parent's log."""
    for guard in list(_running):
        guard.leave_to_parent()


def _in_parent() -> None:
    for guard in list(_running):
        guard.note_gap("what forked processes (DataLoader workers) compute is not watched")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child, after_in_parent=_in_parent)
