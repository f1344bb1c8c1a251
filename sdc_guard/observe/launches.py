"""Triton kernels that somebody launches without a checked launcher: no operator tells of them.

So that coverage does not call them clean, each launch is counted as not tested while a guard is
active.  Left out are launches that something else accounts for, told apart by who is on the stack:

- inside a launcher that :func:`sdc_guard.checked` has decorated: its calls are checked;
- by our own kernels, and by calls that the guard repeats;
- of kernels that Inductor has made (``triton_...``), whose graphs ``observe/compiled.py`` counts; a
  kernel of the user's that a compiled graph launches is counted here;
- for timing, by Triton's autotuner or Inductor's.

Triton is not imported for this: where nobody has imported it there is nothing to count.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from types import CodeType, FrameType
from typing import Any

from sdc_guard.records import OpCoverage

REASON = "a Triton launch outside of any checked launcher"
_ACCOUNTED = ("sdc_guard_kernels.", "sdc_guard.check.", "sdc_guard.attribute.",
              "sdc_guard.evidence.", "torch._inductor.runtime.benchmarking")
_BENCHMARKS = ("triton.testing",)
_INDUCTOR, _MADE_BY_INDUCTOR = "torch._inductor.", "triton_"
_LISTENER = "sdc_guard_kernels.launches"
"""Innermost on the stack whenever a launch is heard, so it says nothing."""
_NAMED_AT_MOST = 3

_checked_launchers: set[CodeType] = set()


def note_checked(launcher: Any) -> None:
    """Launches made while this function runs belong to a checked launcher."""
    code = getattr(launcher, "__code__", None)
    if isinstance(code, CodeType):
        _checked_launchers.add(code)


def _is_accounted_for(name: str, frame: FrameType | None) -> bool:
    is_made = name.startswith(_MADE_BY_INDUCTOR)
    while frame is not None:
        if frame.f_code in _checked_launchers:
            return True
        module = frame.f_globals.get("__name__") or ""
        accounted = module.startswith(_ACCOUNTED) or module in _BENCHMARKS
        if accounted and module != _LISTENER:
            return True
        if is_made and module.startswith(_INDUCTOR):
            return True
        frame = frame.f_back
    return False


class LaunchCounts:
    """Counts launches, on any thread, between :meth:`open` and :meth:`close`."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._is_open = False

    def open(self) -> None:
        """Start counting if Triton is loaded; call again later otherwise (each step does)."""
        if "triton.runtime" not in sys.modules:
            return
        from sdc_guard_kernels import launches

        launches.listen(self._heard)
        self._is_open = True

    def close(self) -> None:
        """Leave Triton as it was."""
        if not self._is_open:
            return
        from sdc_guard_kernels import launches

        launches.forget(self._heard)
        self._is_open = False

    def _heard(self, name: str) -> None:
        if not _is_accounted_for(name, sys._getframe(1)):
            with self._lock:
                self.counts[name] += 1

    def gaps(self) -> set[str]:
        """One sentence that names the kernels."""
        if not self.counts:
            return set()
        named = [f"{name} ({count})" for name, count in self.counts.most_common(_NAMED_AT_MOST)]
        more = len(self.counts) - len(named)
        return {
            f"{sum(self.counts.values())} launches of Triton kernels are not tested: "
            + ", ".join(named) + (f" and {more} more" if more else "")
            + "; decorate their launchers with sdc_guard.checked"
        }

    def coverage(self) -> tuple[OpCoverage, ...]:
        """One row for each kernel.  How many elements a launch computes is not known."""
        return tuple(
            OpCoverage(
                op=f"triton kernel {name}",
                calls=count,
                calls_checked=0,
                elements=0,
                elements_checked=0,
                flops=0,
                flops_checked=0,
                witnesses={},
                not_tested={REASON: count},
            )
            for name, count in sorted(self.counts.items())
        )
