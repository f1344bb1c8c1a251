"""The report as Markdown: for a step's summary on GitHub, and for a comment on a pull request.

Both have limits in bytes beyond which GitHub drops the whole text, so parts are added in the order
of their importance while they fit, and what is left out is said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from sdc_guard.document.divergences import Divergence, divergences
from sdc_guard.document.schema import Known, Report
from sdc_guard.document.text import counted, one_line, shortened, sound
from sdc_guard.render.described import (
    coverage_line,
    divergence_text,
    gaps,
    not_tested,
    state_words,
    test_words,
    tests,
    title,
)
from sdc_guard.render.places import place_of
from sdc_guard.render.swept import SWEEP, TestRow, summary, swept_cells, test_rows

SUMMARY_BYTES = 1000 << 10
"""GitHub refuses a step's summary above 1,024 KiB."""
COMMENT_BYTES = 64_000
"""A comment holds 65,536 characters, which are never more than bytes."""
MARKER = "<!-- sdc-guard report -->"
"""Hidden in a comment, so that the next run finds it and replaces it."""
MAX_CELL_CHARS = 160
MAX_ROWS = 200
_RESERVED_BYTES = 400

_Item = TypeVar("_Item")


class _Budget:
    """Parts of a text of at most ``max_bytes`` bytes; a part is taken in whole or not at all."""

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes - _RESERVED_BYTES
        self._parts: list[str] = []
        self._num_left_out = 0

    def add(self, part: str) -> bool:
        if not self._fits(part):
            self._num_left_out += 1
            return False
        part = sound(part)
        self._left -= len(part.encode())
        self._parts.append(part)
        return True

    def rows(self, head: str, items: Sequence[_Item], row_of: Callable[[_Item], str],
             what: str) -> None:
        """A head and its rows, as many as fit below the limit; the rest is counted."""
        if not items or not self.add(head):
            return
        for number, item in enumerate(items):
            row = row_of(item) if number < MAX_ROWS else ""
            if not row or not self._fits(row):
                self.add(f"\n{len(items) - number} more {what} are left out here.\n")
                return
            self.add(row)

    def _fits(self, part: str) -> bool:
        return len(sound(part).encode()) <= self._left

    def text(self) -> str:
        end = (f"\n{self._num_left_out} parts are left out here to keep within the limit of "
               "size.\n" if self._num_left_out else "")
        return "".join(self._parts) + end


def markdown(report: Report, *, max_bytes: int = SUMMARY_BYTES) -> str:
    """The report in at most ``max_bytes`` bytes of UTF-8 (1,000 or more)."""
    budget = _Budget(max_bytes)
    found = divergences(report)
    budget.add(f"## {_headline(report, found)}\n\n")
    for part in _reasons(report):
        budget.add(part)
    budget.add(f"\nChecked: {coverage_line(report)}, in {counted(len(report.runs), 'run')}.\n")
    budget.rows("\n| | divergence | where | finding | state |\n|---|---|---|---|---|\n",
                found, lambda d: _row(report, d), "divergences")
    for part in _of_the_baseline(report):
        budget.add(part)
    if report.sweep is not None:
        budget.rows("\n### Sweep\n\n", summary(report, report.sweep), _item, "lines")
        budget.rows("\n| | test | on which units | checks |\n|---|---|---|---:|\n",
                    test_rows(swept_cells(report)), _swept_row, "tests")
    budget.rows("\n### Tests\n\n| unit | test | outcome |\n|---|---|---|\n", tests(report),
                lambda c: f"| {code(c.unit)} | {code(c.test)} | {code(test_words(c))} |\n", "tests")
    budget.rows("\n### Not tested\n\n| operator | calls | reasons |\n|---|---:|---|\n",
                not_tested(report), _not_tested_row, "operators")
    budget.rows("\n### Notes\n\n", gaps(report), _item, "notes")
    changes = report.judgement.environment_changes if report.judgement is not None else ()
    budget.rows("\n### The environment has changed since the baseline\n\n", changes, _item,
                "changes")
    budget.rows("\n### Findings\n", found, lambda d: _details(report, d), "findings")
    return budget.text()


def comment(report: Report) -> str:
    """The report for a comment on a pull request, with :data:`MARKER` as its first line."""
    head = MARKER + "\n"
    return head + markdown(report, max_bytes=COMMENT_BYTES - len(head))


def code(text: str) -> str:
    """Text from outside as a code span that no content can leave, fit for a table's cell.

    In a code span neither HTML nor a mention nor a link is acted on.
    """
    text = shortened(one_line(text), MAX_CELL_CHARS).replace("|", "\\|")
    if not text:
        return ""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _headline(report: Report, found: tuple[Divergence, ...]) -> str:
    judged = report.judgement
    counts = ", ".join(f"{n} {word}" for word, n in report.num_by_verdict.items())
    outcome = judged.status if judged is not None else ("divergence" if found else "no divergence")
    return f"sdc-guard: {outcome}" + (f" ({counts})" if counts else "")


def _reasons(report: Report) -> Iterable[str]:
    judged = report.judgement
    if judged is None:
        return
    yield f"Exit code {judged.exit_code}:\n\n"
    for reason in judged.reasons:
        yield f"- {code(reason)}\n"


def _row(report: Report, divergence: Divergence) -> str:
    entry = divergence.lead
    place = place_of(entry, report)
    where = {"hunt": entry.finding.source, SWEEP: entry.unit}.get(
        entry.tool, f"{place.file}:{place.line}")
    sign = {"fail": "**fails**", "inconclusive": "open", "report": "shown"}[divergence.action]
    return (f"| {sign} | {code(title(divergence))} | {code(where)} | "
            f"{code(f'{entry.code} {entry.id}')} | {state_words(divergence)} |\n")


def _swept_row(row: TestRow) -> str:
    word = row.parts[0][0] if row.parts else ""
    return f"| {code(word)} | {code(row.test)} | {code(row.text)} | {row.checks:,} |\n"


def _not_tested_row(row: tuple[str, int, str]) -> str:
    op, count, reasons = row
    return f"| {code(op)} | {count} | {code(reasons)} |\n"


def _item(line: str) -> str:
    return f"- {code(line)}\n"


def _details(report: Report, divergence: Divergence) -> str:
    text = divergence_text(divergence)
    note = place_of(divergence.lead, report).note
    if note:
        text += f"\n  {one_line(note)}"
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return (f"\n<details><summary>{divergence.verdict.value}, {divergence.lead.code}, "
            f"{divergence.id}</summary>\n\n{fence}text\n{text}\n{fence}\n\n</details>\n")


def _of_the_baseline(report: Report) -> Iterable[str]:
    judged = report.judgement
    if judged is None:
        return
    for word, items, meaning in (
        ("Fixed", judged.fixed, "were checked again and not found"),
        ("Stale", judged.stale, "can match nothing any more"),
        ("Carried", judged.carried, "are of devices or operators that were not covered here"),
    ):
        if items:
            yield (f"\n### {word} {len(items)}\n\nThese lines of the baseline {meaning}.\n\n"
                   + "".join(_known(item) for item in items[:50])
                   + (f"- and {len(items) - 50} more\n" if len(items) > 50 else ""))


def _known(item: Known) -> str:
    reason = f": {code(item.reason)}" if item.reason else ""
    return f"- {code(f'{item.id} {item.verdict} in {item.op}, {item.where}')}{reason}\n"
