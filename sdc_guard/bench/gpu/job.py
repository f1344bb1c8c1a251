"""A measurement as a job: what it is told, and how it tells what it finds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from sdc_guard.bench.gpu.figures import Figure
from sdc_guard.bench.gpu.sizes import SIZES, Sizes

TIME = "time: the limit, or this part's share of it, was reached before"


@dataclass(frozen=True)
class Setting:
    """``form``: the sizes, a name of :data:`SIZES`.  ``skip``: figures that are done, or have ended
    a process."""

    device: str
    form: str
    seed: int
    skip: frozenset[str] = frozenset()

    @property
    def sizes(self) -> Sizes:
        """The sizes of this form."""
        return SIZES[self.form]

    def synchronize(self) -> None:
        """Wait for the device; raises if a kernel has broken it."""
        if self.device == "cuda":
            torch.cuda.synchronize()


@dataclass(frozen=True)
class Expected:
    """Figures that a job is going to measure."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Started:
    """Work on a figure begins; whatever happens until the next message happens there."""

    name: str


@dataclass(frozen=True)
class Measured:
    """A figure; one of the same name before it is replaced."""

    name: str
    figure: Figure


@dataclass(frozen=True)
class Failed:
    """A figure that there will not be."""

    name: str
    reason: str


Message = Expected | Started | Measured | Failed


class Telling:
    """How a job tells its messages, and asks how much time it has left.

    ``deadline_s`` is a value of ``time.monotonic()``.
    """

    def __init__(
        self, setting: Setting, send: Callable[[Message], None], deadline_s: float
    ) -> None:
        self.setting = setting
        self.send = send
        self.deadline_s = deadline_s

    @property
    def is_late(self) -> bool:
        """True once no new round should begin."""
        return time.monotonic() >= self.deadline_s

    def begins(self, name: str) -> bool:
        """Tell that work on a figure begins; False if there is none to do, or no time."""
        if name in self.setting.skip:
            return False
        if self.is_late:
            self.send(Failed(name, TIME))
            return False
        self.send(Started(name))
        return True

    def fails(self, name: str, error: BaseException) -> None:
        """Tell of an error; goes on unless the device is broken.

        Raises:
            RuntimeError: what the device says, if it cannot be used any more.
        """
        self.send(Failed(name, told(error)))
        self.setting.synchronize()

    def attempt(self, name: str, measure: Callable[[], Figure]) -> None:
        """Measure one figure; an error in it is told and costs no other figure."""
        if not self.begins(name):
            return
        try:
            figure = measure()
        except Exception as error:
            self.fails(name, error)
        else:
            self.send(Measured(name, figure))

    def rounds(self, most: int) -> Iterator[int]:
        """Numbers of rounds: at least one, at most ``most``, none that begins late."""
        for number in range(most):
            if number and self.is_late:
                return
            yield number


def told(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


@dataclass(frozen=True)
class Job:
    """``run`` is a function of a module, so that a new process finds it.  ``expects`` names the
    figures that are known beforehand.  ``until``: share of the time limit after which it begins no
    new round."""

    name: str
    run: Callable[[Telling], None]
    expects: Callable[[Setting], tuple[str, ...]]
    until: float
