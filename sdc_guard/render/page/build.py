"""The page as a whole, within its limit of bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdc_guard.document.schema import Entry, Report, Run
from sdc_guard.errors import UsageError
from sdc_guard.render.page.banner import banner_of
from sdc_guard.render.page.cards import cards_of, sums_of
from sdc_guard.render.page.covered import covered_of
from sdc_guard.render.page.fitting import findings_html
from sdc_guard.render.page.grid import LETTERS, grid_of
from sdc_guard.render.page.groups import HUNT, Group, groups_of
from sdc_guard.render.page.surroundings import surroundings_of
from sdc_guard.render.page.sweep import sweep_view
from sdc_guard.render.page.templating import render, script, script_hash, style
from sdc_guard.render.page.timeline import run_chart
from sdc_guard.render.page.tree import tree_of
from sdc_guard.render.swept import SWEEP, swept_cells

MIN_BYTES = 120_000
"""Below this not even the frame of a page with every section cut short is sure to fit."""

_PLACE = "<!--findings-->"
_FRAME_SHARE = 0.6
_SECTIONS = (
    ("findings", "Findings"), ("patterns", "Bits"), ("sweep", "Sweep"), ("grid", "Tests"),
    ("modules", "Modules"),
    ("timeline", "Timeline"), ("coverage", "Coverage"), ("environment", "Environment"))
_OF_TRAININGS = frozenset({"modules", "timeline"})
"""A hunt and a sweep have no steps and no model."""


@dataclass(frozen=True)
class Limits:
    """How much of each section is shown: rows of a table, columns of the grid, pictures, values of
    one setting, characters of one text."""

    rows: int = 256
    columns: int = 44
    cards: int = 12
    values: int = 16
    chars: int = 2000

    def halved(self) -> Limits:
        return Limits(rows=max(2, self.rows // 2), columns=max(4, self.columns // 2),
                      cards=self.cards // 2, values=max(1, self.values // 2),
                      chars=max(60, self.chars // 2))


def report_page(
    report: Report, *, max_bytes: int = 2_000_000, folder: Path | None = None
) -> str:
    """The report as one HTML page in UTF-8 of at most ``max_bytes`` bytes.

    What does not fit is left out where one sees it: first long sections, then the details of the
    least severe and most repeated findings, then their rows.  ``folder`` is where the page will
    lie: links to bundles are relative to it.

    Raises:
        UsageError: if ``max_bytes`` is below :data:`MIN_BYTES`.
    """
    if max_bytes < MIN_BYTES:
        raise UsageError(f"max_bytes={max_bytes}: a page needs at least {MIN_BYTES} bytes")
    groups = groups_of(report, folder)
    limits = Limits()
    while True:
        frame, drawn = _frame(report, groups, limits)
        num_bytes = len(frame.encode())
        if num_bytes <= _FRAME_SHARE * max_bytes or limits == limits.halved():
            break
        limits = limits.halved()
    findings = findings_html(groups, drawn, max_bytes=max_bytes - num_bytes,
                             max_chars=limits.chars)
    before, _, after = frame.partition(_PLACE)
    return before + findings + after


def _frame(report: Report, groups: Sequence[Group], limits: Limits) -> tuple[str, frozenset[str]]:
    """The page without its findings, and the anchors of the groups that are drawn in it."""
    cards, num_more_cards = cards_of(groups, max_cards=limits.cards)
    runs = _runs(report)
    is_hunt = bool(runs) and all(run.kind == HUNT for run in runs)
    by_run: dict[str, list[Entry]] = {}
    for entry in report.findings:
        by_run.setdefault(entry.run, []).append(entry)
    swept = set(swept_cells(report))
    other_cells = [cell for cell in report.cells if cell not in swept]
    is_sweep = bool(runs) and all(run.kind == SWEEP for run in runs)
    absent = {*(_OF_TRAININGS if is_hunt or is_sweep else ()),
              *(() if report.sweep is not None else ("sweep",)),
              *(("grid",) if report.sweep is not None and not other_cells else ()),
              *(("coverage",) if is_sweep and not report.coverages else ())}
    sweep = sweep_view(report, max_rows=limits.rows, max_columns=limits.columns,
                       max_charts=limits.cards // 2)
    frame = render(
        "page.html.j2", limits.chars, report=report, limits=limits, is_hunt=is_hunt,
        sections=[s for s in _SECTIONS if s[0] not in absent], absent=absent, sweep=sweep,
        style=style(), script=script(), script_hash=script_hash(), letters=LETTERS,
        banner=banner_of(report, groups), cards=cards, num_more_cards=num_more_cards,
        sums=sums_of(groups) if limits.cards else [],
        grid=grid_of(other_cells, max_columns=limits.columns, max_rows=limits.rows // 4 + 1),
        tree=tree_of(report, max_rows=limits.rows),
        charts=[(run, run_chart(run, by_run.get(run.id, [])))
                for run in runs[:limits.cards]],
        num_more_runs=max(0, len(runs) - limits.cards),
        covered=covered_of(report, max_rows=limits.rows),
        surroundings=surroundings_of(report.runs, max_rows=limits.rows * 2),
        problems=_problems(report))
    return frame, frozenset(card.anchor for card in cards)


def _runs(report: Report) -> list[Run]:
    """Runs with findings first."""
    counts = Counter(entry.run for entry in report.findings)
    return sorted(report.runs, key=lambda run: -counts[run.id])


def _problems(report: Report) -> list[str]:
    found = [*report.problems]
    for run in report.runs:
        found += [f"{run.id}: {problem}" for problem in run.problems]
    return found
