"""A kernel with a bug, in place of the right one for as long as a ``with`` lasts."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from sdc_guard import bits
from sdc_guard.hunt.targets import resolve
from sdc_guard.inject.override import CallInfo, KernelOverride, Results

Spoil = Callable[[Results], None]
Bug = Callable[[CallInfo], Spoil | None]
"""Looks at a call before the kernel runs: None where it comes out right, else what is done to its
results afterwards."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One bug.

    ``kernels``: the overloads that share the broken code.  ``ops``: what the hunt is pointed at.
    ``like``: the real bug that it is made after.  ``wrong`` makes calls on which it shows,
    ``right`` calls on which it does not.  ``catalogue``: name of the entries in torch's catalogue
    that reach it; ``draws``: the random calls that do (``rivals/draws.py``); ``survey``: the
    function of ``ulpwise survey``.  ``is_pointwise``: that survey is a rival.
    """

    name: str
    kind: str
    like: str
    kernels: tuple[str, ...]
    ops: str
    bug: Bug
    wrong: Callable[[], Any]
    right: Callable[[], Any]
    catalogue: str
    draws: str
    survey: str = ""
    is_pointwise: bool = False


def _bits(results: Results) -> list[bytes | None]:
    return [None if r is None else bits.raw(r.detach()).tobytes() for r in results]


@dataclass(slots=True)
class Planted:
    """A mutant that is in place.  Switched off, the right kernel runs on the same path.
    ``num_wrong``: executions whose results the bug changed."""

    mutant: Mutant
    is_on: bool = True
    num_calls: int = 0
    num_wrong: int = 0
    _own: threading.local = field(default_factory=threading.local)

    def before(self, info: CallInfo) -> None:
        info.note = None
        if not self.is_on or getattr(self._own, "busy", False):
            return
        self.num_calls += 1
        with self._busy():
            info.note = self.mutant.bug(info)

    def after(self, info: CallInfo, results: Results) -> None:
        if info.note is not None:
            right = _bits(results)
            with self._busy():
                info.note(results)
            self.num_wrong += _bits(results) != right

    @contextlib.contextmanager
    def _busy(self) -> Iterator[None]:
        """What the bug itself calls is computed by right kernels."""
        self._own.busy = True
        try:
            with torch.no_grad():
                yield
        finally:
            self._own.busy = False

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """The right kernel for as long as the block lasts."""
        self.is_on = False
        try:
            yield
        finally:
            self.is_on = True


@contextlib.contextmanager
def planted(mutant: Mutant) -> Iterator[Planted]:
    """The mutant in place of the right kernel."""
    state = Planted(mutant)
    with contextlib.ExitStack() as stack:
        for name in mutant.kernels:
            stack.enter_context(KernelOverride(
                resolve(name), state.after, before=state.before))  # type: ignore[arg-type]
        yield state
