"""The first finding of a process that fails by policy, in words for a launcher."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sdc_guard.document.divergences import divergences
from sdc_guard.document.schema import Entry, Report
from sdc_guard.launch.judged import judged_report
from sdc_guard.render.console import headline
from sdc_guard.settings import Settings


@dataclass(frozen=True)
class Failure:
    """``time_s`` is in seconds since 1970."""

    message: str
    time_s: float


def failure_of(folder: Path, settings: Settings) -> Failure | None:
    """The earliest finding in a process's log that fails; None where none does.

    Raises:
        UsageError: if the log or the baseline cannot be read.
    """
    report = judged_report(folder, settings)
    failing = [entry for found in divergences(report) if found.action == "fail"
               for entry in found.entries]
    if not failing:
        return None
    first = min(failing, key=lambda entry: entry.time_s)
    return Failure(_words(first), _start_s(report, first) + first.time_s)


def _words(entry: Entry) -> str:
    """``SDC: CORRUPTION in aten.mm at step 41, forward of blocks.2 (train.py:57) on host/cpu:3``,
    with what is known of the cause."""
    finding = entry.finding
    lines = [f"SDC: {headline(finding)} on {entry.unit}; cause: {finding.cause.value}",
             finding.message]
    if finding.evidence.replay_command:
        lines.append(f"replay: {finding.evidence.replay_command}")
    return "\n".join(lines)


def _start_s(report: Report, entry: Entry) -> float:
    starts = [run.start_utc for run in report.runs if run.id == entry.run]
    try:
        return datetime.fromisoformat(starts[0]).timestamp()
    except (IndexError, ValueError):
        return datetime.now().timestamp() - entry.time_s
