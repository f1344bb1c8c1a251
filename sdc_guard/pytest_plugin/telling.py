"""What a session tells: the header, a failed test's text, the summary at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sdc_guard.document.divergences import divergences
from sdc_guard.document.schema import Entry, Report
from sdc_guard.document.text import one_line, printable
from sdc_guard.pytest_plugin.judged import DOCUMENT, Outcome
from sdc_guard.pytest_plugin.options import Options
from sdc_guard.render.console import render_finding
from sdc_guard.version import __version__

MAX_SHOWN = 10
MAX_PROBLEMS = 5


def header(options: Options, root: Path) -> str:
    """The line at the start of a session."""
    if not options.settings.enabled:
        return f"sdc_guard: {__version__}, switched off by {options.settings.sources['enabled']}"
    known = f", baseline {_short(options.baseline, root)}" if options.baseline else ""
    return (f"sdc_guard: {__version__}, guards every test, budget {options.settings.budget}, "
            f"reports in {_short(options.out, root)}{known}")


def failure_text(entries: Sequence[Entry]) -> str:
    """The findings of a test, the first line fit for a one-line summary."""
    shown = [printable(f"{entry.code} {render_finding(entry.finding)}\n  id:      {entry.id}")
             for entry in entries[:MAX_SHOWN]]
    if len(entries) > MAX_SHOWN:
        shown.append(f"and {len(entries) - MAX_SHOWN} more; the report has all")
    return "\n".join(shown)


def as_longrepr(text: str) -> Any:
    """A failure's text in the form in which pytest's reporters, and xdist, pass failures on."""
    try:
        pytest.fail(text, pytrace=False)
    except pytest.fail.Exception:
        return pytest.ExceptionInfo.from_current().getrepr(style="value")


def summary_lines(outcome: Outcome, root: Path) -> Iterator[str]:
    """The end of the session: verdicts, states, coverage, files, what to do."""
    report = outcome.report
    if report is None:
        if outcome.problem:
            yield one_line(outcome.problem)
        else:
            yield "no test was guarded"
        return
    yield _verdicts(report, outcome)
    share = report.calls_checked / report.calls if report.calls else 0.0
    yield (f"checked {report.calls_checked} of {report.calls} calls ({share:.1%}) in "
           f"{outcome.num_tests} tests")
    found = divergences(report)
    for divergence in found[:MAX_SHOWN]:
        entry = divergence.lead
        place = f" ({entry.location.file}:{entry.location.line})" if entry.location else ""
        yield one_line(f"  {divergence.state:<7} {entry.code} {entry.verdict.value} in "
                       f"{entry.finding.op}, {entry.test}{place}")
    if found:
        yield f"what a code means: sdc-guard explain {found[0].lead.code}"
    if len(found) > MAX_SHOWN:
        yield f"  and {len(found) - MAX_SHOWN} more"
    problems = [problem for run in report.runs for problem in run.problems] + list(report.problems)
    for problem in problems[:MAX_PROBLEMS]:
        yield one_line(f"problem: {problem}")
    if len(problems) > MAX_PROBLEMS:
        yield f"and {len(problems) - MAX_PROBLEMS} more problems; the report has all"
    if report.judgement is not None and report.judgement.exit_code:
        yield one_line(f"{report.judgement.status}: {'; '.join(report.judgement.reasons)}")
    if outcome.problem:
        yield one_line(f"the report was {outcome.problem}")
    for name, path in outcome.files.items():
        yield f"{name}: {_short(path, root)}"
    if DOCUMENT in outcome.files and any(d.state != "known" for d in found):
        yield ("to accept what is new: sdc-guard baseline write "
               f"{_short(outcome.files[DOCUMENT].parent, root)}")


def _verdicts(report: Report, outcome: Outcome) -> str:
    counts = report.num_by_verdict
    if not counts:
        return ("no divergence in what was checked" if report.calls_checked
                else "NOTHING TESTED: no guarded test made a call that is checked")
    words = ", ".join(f"{count} {word}" for word, count in counts.items())
    states = ", ".join(f"{state} {count}" for state, count in outcome.counts().items()
                       if count or state != "expired")
    return f"FOUND {words}; divergences: {states}"


def _short(path: Path, root: Path) -> str:
    return str(path.relative_to(root) if path.is_relative_to(root) else path)
