"""Live progress on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import shlex
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

SECONDS_BETWEEN_LINES = 5.0


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def command_line() -> str:
    """What the user typed, as a report quotes it: without the folder of the program."""
    return shlex.join(["sdc-guard", *sys.argv[1:]])


def is_interactive(console: Console) -> bool:
    """True on a terminal that is not a CI log."""
    return console.is_terminal and not os.environ.get("CI")


class TrainingProgress:
    """Step, loss and remaining time of several trainings, one after the other.

    A bar where :func:`is_interactive`; else a line now and then, without colour or control
    characters.  Colour follows NO_COLOR, which rich reads.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._quiet = quiet
        self._bar: Progress | None = None
        if is_interactive(self.console) and not quiet:
            self._bar = Progress(
                TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[loss]}"), TimeRemainingColumn(), console=self.console,
            )
        self._task = TaskID(0)
        self._num_steps = 0
        self._started_s = 0.0
        self._line_s = 0.0

    def __enter__(self) -> TrainingProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def started(self, run: str, num_steps: int) -> None:
        self._num_steps = num_steps
        self._started_s = self._line_s = time.monotonic()
        if self._bar is not None:
            self._task = self._bar.add_task(run, total=num_steps, loss="")
        else:
            self._line(f"{run}: {num_steps} steps")

    def stepped(self, run: str, step: int, loss: float) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=step + 1, loss=f"loss {loss:.3f}")
            return
        now_s = time.monotonic()
        if now_s - self._line_s >= SECONDS_BETWEEN_LINES:
            self._line_s = now_s
            left_s = (now_s - self._started_s) / (step + 1) * (self._num_steps - step - 1)
            self._line(f"{run}: step {step + 1} of {self._num_steps}, loss {loss:.3f}, "
                       f"{left_s:.0f} s left")

    def caught(self, run: str, text: str) -> None:
        self._line(text)

    def finished(self, run: str, perplexity: float) -> None:
        self._line(f"{run}: held-out perplexity {perplexity:.3f}")

    def _line(self, text: str) -> None:
        if not self._quiet:
            self.console.print(text, markup=False, soft_wrap=True)
