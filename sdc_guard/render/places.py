"""The one line of the user's repository that a finding is shown at in CI."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath

from sdc_guard.document.schema import Entry, Report

FALLBACK = "pyproject.toml"
_INSTALLED = frozenset({"site-packages", "dist-packages"})


@dataclass(frozen=True)
class Place:
    """``file`` is relative to the repository's root; ``note`` says why it is not the line that made
    the call, and is empty where it is."""

    file: str
    line: int
    note: str = ""


def place_of(entry: Entry, report: Report) -> Place:
    """The user's line of the call; else the test's file, the run's script, or ``pyproject.toml``.

    Never a file of an installed package, nor one outside the root: CI cannot show those.
    """
    location = entry.location
    if location is not None and location.is_users and is_inside(location.file):
        return Place(location.file, max(location.line, 1))
    source = entry.finding.source or "an unknown line"
    if entry.tool == "hunt":
        return Place(FALLBACK, 1, f"a hunt called {source} by itself")
    if entry.tool == "sweep":
        return Place(FALLBACK, 1, f"a sweep computed it by itself, on {entry.unit}")
    test = entry.test.partition("::")[0]
    if "::" in entry.test and is_inside(test):
        return Place(test, 1, f"the call was made at {source}, in this file's test")
    script = next((run.script for run in report.runs if run.id == entry.run), "")
    if script.endswith(".py") and is_inside(script):
        return Place(script, 1, f"the call was made at {source}, in a run of this script")
    return Place(FALLBACK, 1, f"the call was made at {source}, outside the folder that this "
                              "report is made for")


def is_inside(file: str) -> bool:
    """True for a relative path that does not leave its root and is no installed package's."""
    parts = PurePosixPath(file).parts
    if not file or file.startswith(("/", "\\", "-", "<")) or PureWindowsPath(file).drive:
        return False
    return ".." not in parts and not _INSTALLED.intersection(parts)
