"""A sweep's progress on stderr: a table that moves on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.text import Text

from sdc_guard.cli._progress import is_interactive

if TYPE_CHECKING:
    from sdc_guard.sweep.sweeping import Sweeping

SECONDS_BETWEEN_LINES = 10.0
MAX_UNITS = 16


class SweepProgress:
    """Unit, test, checks a second, temperature and clock, mismatches, time left."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._quiet = quiet
        self._live: Live | None = None
        if is_interactive(self.console) and not quiet:
            self._live = Live(Text(""), console=self.console, refresh_per_second=4)
        self._line_s = time.monotonic()

    def __enter__(self) -> SweepProgress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, sweeping: Sweeping) -> None:
        """Called a few times a second; nobody need be there to read it."""
        try:
            self._show(sweeping)
        except (OSError, SystemExit):  # rich ends the program where a pipe's reader has gone, by 1
            self._live, self._quiet = None, True

    def _show(self, sweeping: Sweeping) -> None:
        if self._live is not None:
            self._live.update(Text("\n".join((progress_line(sweeping), *unit_lines(sweeping)))))
            return
        now_s = time.monotonic()
        if not self._quiet and now_s - self._line_s >= SECONDS_BETWEEN_LINES:
            self._line_s = now_s
            self.console.print(progress_line(sweeping), markup=False, soft_wrap=True)


def progress_line(sweeping: Sweeping) -> str:
    """``12 s of 30 s, round 2, 12,345,678 checks (1,028,806/s), 0 mismatches``."""
    rate = sweeping.checks / max(sweeping.elapsed_s, 1e-3)
    return (f"{sweeping.elapsed_s:.0f} s of {sweeping.asked.budget_s:.0f} s, round "
            f"{sweeping.round_number + 1}, {sweeping.checks:,} checks ({rate:,.0f}/s), "
            f"{sweeping.mismatches} mismatches")


def unit_lines(sweeping: Sweeping) -> list[str]:
    """``core 3: exact_product, 61 C, 3100 MHz``, for the first units."""
    readings: dict[str, dict[str, float]] = {}
    for sample in sweeping.samples[-200:]:
        readings[sample.unit] = sample.readings
    lines = []
    for unit, doing in list(sweeping.now.items())[:MAX_UNITS]:
        seen = readings.get(unit, {})
        parts = [doing]
        if "temperature_c" in seen:
            parts.append(f"{seen['temperature_c']:.0f} C")
        if "mhz" in seen:
            parts.append(f"{seen['mhz']:.0f} MHz")
        if "power_w" in seen:
            parts.append(f"{seen['power_w']:.0f} W")
        lines.append(f"  {unit}: {', '.join(parts)}")
    if len(sweeping.now) > MAX_UNITS:
        lines.append(f"  and {len(sweeping.now) - MAX_UNITS} more")
    return lines
