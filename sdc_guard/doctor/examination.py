"""The whole examination, the cheap lines first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from sdc_guard.doctor import folders, numerics, places, software, witnesses
from sdc_guard.doctor.line import FAIL, Line


def examine(out: Path) -> Iterator[Line]:
    """All lines.  ``out`` is the folder that evidence is to be written to."""
    parts: tuple[Callable[[], Iterable[Line]], ...] = (
        software.lines, places.lines, lambda: folders.lines(out), numerics.lines, witnesses.lines)
    for part in parts:
        try:
            yield from part()
        except Exception as error:  # a part that breaks does not end the rest
            yield Line(FAIL, "examination", f"a part ended early: {type(error).__name__}: {error}",
                       "please report it with this output")
