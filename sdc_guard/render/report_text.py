"""The report for a terminal: the outcome and why, what diverged, what was not tested."""

from __future__ import annotations

from sdc_guard.document.divergences import divergences
from sdc_guard.document.schema import Report
from sdc_guard.document.text import counted, one_line, sound
from sdc_guard.render.described import (
    coverage_line,
    divergence_text,
    gaps,
    judgement_lines,
    not_tested,
    state_words,
    test_words,
    tests,
)
from sdc_guard.render.fleet_text import fleet_lines
from sdc_guard.render.sweep_text import sweep_lines

MAX_DIVERGENCES = 10
MAX_OPS = 8
MAX_NOTES = 12
MAX_CHANGES = 8
MAX_TESTS = 20


def report_text(report: Report) -> str:
    """The report as plain lines; nothing from outside reaches the terminal as a control code."""
    lines = [one_line(report.title)]
    lines += judgement_lines(report)
    found = divergences(report)
    lines.append("")
    for divergence in found[:MAX_DIVERGENCES]:
        lines += [divergence_text(divergence), f"  state:   {state_words(divergence)}", ""]
    if len(found) > MAX_DIVERGENCES:
        lines += [f"{len(found) - MAX_DIVERGENCES} more divergences are in --html and --json", ""]
    if not found:
        is_checked = report.calls_checked or any(cell.checks for cell in report.cells)
        lines += ["no divergence in what was checked" if is_checked else
                  "no call is known to have been checked", ""]
    if report.calls or report.sweep is None:
        lines.append(f"checked     {coverage_line(report)}, in {counted(len(report.runs), 'run')}")
    if report.sweep is not None:
        lines += sweep_lines(report, report.sweep)
    if report.fleet is not None:
        lines += fleet_lines(report.fleet)
    lines += _limited("test        ", [one_line(f"{c.unit}, {c.test}: {test_words(c)}")
                                       for c in tests(report)], MAX_TESTS)
    rows = not_tested(report)
    for op, count, reasons in rows[:MAX_OPS]:
        lines.append(f"not tested  {op}: {count} calls" + (f" ({reasons})" if reasons else ""))
    if len(rows) > MAX_OPS:
        rest = sum(count for _, count, _ in rows[MAX_OPS:])
        lines.append(f"not tested  {rest} calls of {len(rows) - MAX_OPS} more operators")
    lines += _limited("note        ", gaps(report), MAX_NOTES)
    if report.judgement is not None:
        lines += _limited("environment ", report.judgement.environment_changes, MAX_CHANGES)
    return sound("\n".join(lines)) + "\n"


def _limited(head: str, items: list[str] | tuple[str, ...], limit: int) -> list[str]:
    lines = [head + one_line(item) for item in items[:limit]]
    if len(items) > limit:
        lines.append(f"{head}and {len(items) - limit} more")
    return lines
