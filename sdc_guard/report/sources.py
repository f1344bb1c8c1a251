"""What lies in a folder that is reported on: its event logs, else what a hunt has written, else its
bundles, else documents."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from sdc_guard.errors import UsageError

LOGS = "events.rank*.jsonl"
HUNT = "hunt.json"
"""A hunt's document: its bundles lie beside it, and know less than it does."""


def files_in(folder: Path) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """The files to read, sorted, each once, and what of the folder could not be looked at.

    Logs and bundles are looked for at any depth, also behind links: a rank's folder may be one.

    Raises:
        UsageError: if there is none.
    """
    problems: list[str] = []
    files = list(_files(folder, problems))
    for pattern in (LOGS, HUNT, "*.sdcz"):
        found = [path for path in files if fnmatch(path.name, pattern)
                 and (pattern != HUNT or path.parent == folder)]
        if found:
            return tuple(sorted(found)), tuple(problems)
    documents = [path for path in files if path.parent == folder and path.suffix == ".json"]
    found = [path for path in documents if path.name == "bench.json"] or documents
    if not found:
        raise UsageError(f"{folder} holds no event log ({LOGS}), no bundle (*.sdcz) and no "
                         "report; give the folder that a guard wrote to (out=...)"
                         + "".join(f"\n  {problem}" for problem in problems[:3]))
    return tuple(sorted(found)), tuple(problems)


def _files(folder: Path, problems: list[str]) -> Iterator[Path]:
    """Every file below the folder.  A folder or a file that links lead to twice is met once, under
    its own name where it has one here; links to where we come from are left."""
    above = {str(parent) for parent in folder.resolve().parents}
    seen: set[str] = set()
    links: list[Path] = []
    waiting = [folder]
    while waiting or links:
        here = waiting.pop() if waiting else links.pop(0)
        real = os.path.realpath(here)
        if real in seen or (real in above and here.is_symlink()):
            continue
        seen.add(real)
        try:
            inside = sorted(here.iterdir())
        except OSError as error:
            problems.append(f"{here} cannot be looked into: {error.strerror}")
            continue
        for path in inside:
            if path.is_dir():
                (links if path.is_symlink() else waiting).append(path)
            elif not path.is_symlink() or os.path.realpath(path) not in seen:
                seen.add(os.path.realpath(path))
                yield path
