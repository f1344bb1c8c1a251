"""A hunt's progress on stderr: one line that moves on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.text import Text

from sdc_guard.cli._progress import is_interactive

if TYPE_CHECKING:
    from sdc_guard.hunt.hunting import Hunt

SECONDS_BETWEEN_LINES = 10.0


class HuntProgress:
    """Operators met, calls a second, divergences by their words."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._quiet = quiet
        self._live: Live | None = None
        if is_interactive(self.console) and not quiet:
            self._live = Live(Text(""), console=self.console, refresh_per_second=4)
        self._line_s = time.monotonic()

    def __enter__(self) -> HuntProgress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        if not self._quiet:
            self.console.print(text, markup=False, soft_wrap=True)

    def show(self, hunt: Hunt) -> None:
        """Called a few times a second."""
        if self._live is not None:
            self._live.update(Text(progress_line(hunt)))
            return
        now_s = time.monotonic()
        if not self._quiet and now_s - self._line_s >= SECONDS_BETWEEN_LINES:
            self._line_s = now_s
            self.console.print(progress_line(hunt), markup=False, soft_wrap=True)


def progress_line(hunt: Hunt) -> str:
    """``212 of 480 operators, 41,022 calls (318/s), 2 divergences (1 corruption, 1 precision), 41 s
    left``."""
    from sdc_guard.document.text import counted
    from sdc_guard.hunt.document import severity_counts

    ledger = hunt.ledger
    made = hunt.crew.num_trials
    rate = made / max(hunt.elapsed_s, 1e-3)
    words = severity_counts(ledger)
    found = counted(sum(words.values()), "divergence")
    if words:
        found += f" ({', '.join(f'{n} {word}' for word, n in words.items())})"
    if hunt.num_to_reduce:
        found += f", {hunt.num_to_reduce} to reduce"
    left_s = hunt.left_s()
    left = "" if left_s == float("inf") else f", {max(left_s, 0):.0f} s left"
    return (f"{ledger.targets_tried} of {len(hunt.templates)} operators, {made:,} calls "
            f"({rate:.0f}/s), {found}{left}")
