"""Writing the pages, and telling which of them disagree with the files that they are made from."""

from __future__ import annotations

import re
from pathlib import Path

from sdc_guard.bench import benchfile
from sdc_guard.bench.pages.claims import claims
from sdc_guard.bench.pages.page import render_page
from sdc_guard.errors import UsageError

START, END = "<!-- claims -->", "<!-- /claims -->"
DOCUMENT = Path("bench") / "bench.json"


def write_pages(reports: Path, readme: Path) -> list[Path]:
    """Renew ``reports/bench`` from its ``bench.json`` (if that exists) and the claims in
    ``readme`` from all reports; figures that are no longer made are removed.

    Returns the files that were changed.

    Raises:
        UsageError: if ``readme`` has no pair of claims marks, or a report cannot be read.
    """
    changed = []
    for path, text in _wanted(reports, readme).items():
        if text is None:
            path.unlink()
        elif _held(path) != text:
            benchfile.replace_file(path, text.encode())
        else:
            continue
        changed.append(path)
    return changed


def write_page(folder: Path) -> None:
    """Renew the page and the figures in ``folder`` from its ``bench.json``.

    Raises:
        UsageError: if that cannot be read.
    """
    for path, text in _pages(folder).items():
        if text is None:
            path.unlink()
        else:
            benchfile.replace_file(path, text.encode())


def disagreements(reports: Path, readme: Path) -> list[Path]:
    """The files that :func:`write_pages` would change.

    Raises:
        UsageError: as :func:`write_pages`.
    """
    return [path for path, text in _wanted(reports, readme).items() if _held(path) != text]


def _held(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _wanted(reports: Path, readme: Path) -> dict[Path, str | None]:
    """What each file should hold; None for one that should not be there."""
    wanted: dict[Path, str | None] = {readme: _with_claims(readme, claims(reports))}
    if (reports / DOCUMENT).exists():
        wanted |= _pages((reports / DOCUMENT).parent)
    return wanted


def _pages(folder: Path) -> dict[Path, str | None]:
    pages = render_page(benchfile.read(folder / DOCUMENT.name))
    return {**{path: None for path in folder.glob("*.svg")},
            **{folder / name: text for name, text in pages.items()}}


def _with_claims(readme: Path, text: str) -> str:
    held = readme.read_text(encoding="utf-8")
    if held.count(START) != 1 or held.count(END) != 1 or held.index(START) > held.index(END):
        raise UsageError(f"{readme} must hold {START} once, and {END} once after it: the claims "
                         "are written between them")
    pattern = re.escape(START) + ".*" + re.escape(END)
    return re.sub(pattern, lambda _: f"{START}\n{text.strip()}\n{END}", held, flags=re.DOTALL)
