"""When a fault strikes: in one call of the user's, in every execution, or in a checker's."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdc_guard.inject.trigger import CHECKER, Watch


@dataclass(frozen=True, slots=True)
class Once:
    """In call ``number`` (from 0, counted in each entry) of the user's, once in the fault's life,
    however often it is entered; never in a replay."""

    number: int


@dataclass(frozen=True, slots=True)
class Always:
    """In each execution, whoever makes it, with probability ``rate``."""

    rate: float = 1.0


@dataclass(frozen=True, slots=True)
class Checking:
    """In executions that are not the user's, from the user's call ``number`` of the watched
    operator on: the first that is possible (``once``), or all."""

    number: int
    once: bool


Timing = Once | Always | Checking


class Timer:
    """Says of each execution of a kernel whether the fault is due.

    ``counted`` is the overload whose calls the numbers count, ``op`` by default.  ``seed`` is that
    of the generator for rates below 1.
    """

    def __init__(self, timing: Timing, op: Any, counted: Any = None, seed: int = 0) -> None:
        self.timing = timing
        self.spent = False
        self._op = op
        self._counted = counted
        self._watch: Watch | None = None
        self._begun = False
        self._lock = threading.Lock()
        self._generator = np.random.default_rng(seed)

    def watch(self) -> Watch:
        """A fresh dispatch mode for one entry of the fault."""
        self._watch = Watch(self._op, self._counted)
        return self._watch

    def whose(self) -> int:
        """Whose this execution is, see :meth:`Watch.whose`; to be asked once for each."""
        return CHECKER if self._watch is None else self._watch.whose()

    def is_due(self, whose: int) -> bool:
        """True if the fault strikes in this execution, if its tensors fit."""
        with self._lock:
            match self.timing:
                case Once(number):
                    due = whose == number and not self.spent
                    self.spent |= due
                    return due
                case Always(rate):
                    return rate >= 1 or bool(self._generator.random() < rate)
                case Checking(number, once):
                    assert self._watch is not None
                    self._begun |= self._watch.num_calls > number
                    return self._begun and whose == CHECKER and not (once and self.spent)

    def struck(self) -> None:
        """The fault has changed something."""
        self.spent = True
