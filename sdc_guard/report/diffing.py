"""Two reports compared: the first operator that diverges in one and not in the other."""

from __future__ import annotations

from sdc_guard.document.divergences import divergences
from sdc_guard.document.exits import CLEAN, DIVERGENCE, INCONCLUSIVE, NOTHING_TESTED
from sdc_guard.document.schema import Entry, Report, Run
from sdc_guard.document.text import module_name, printable, sound
from sdc_guard.document.verdicts import SEVERITY
from sdc_guard.evidence.environment_diff import changed_fields, flattened
from sdc_guard.records import Record

MAX_SHOWN = 10


class OpChange(Record, frozen=True, kw_only=True):
    """Calls of one operator, seen and checked, in the first report and in the second."""

    op: str
    calls_before: int
    checked_before: int
    calls_after: int
    checked_after: int


class Difference(Record, frozen=True, kw_only=True):
    """What the second report has that the first has not, and the other way round.

    ``first`` is the entry with the lowest step, then call, among those of ``new``, rank by rank.
    Divergences are compared by fingerprint; one that is more severe in the second is ``new``.
    """

    before: str
    after: str
    exit_code: int
    status: str
    first: Entry | None
    new: tuple[Entry, ...]
    gone: tuple[Entry, ...]
    common: tuple[Entry, ...]
    coverage: tuple[OpChange, ...]
    environment: tuple[str, ...]


def difference(before: Report, after: Report) -> Difference:
    """What changed from ``before`` to ``after``.

    Exit code 1 if ``after`` holds a divergence that ``before`` does not; else 5 if one of them
    checked nothing, 3 if a run of one did not end in order, 0 otherwise.
    """
    old, new = _by_id(before), _by_id(after)
    fresh = {id for id, entry in new.items() if id not in old or _rank(entry) < _rank(old[id])}
    added = tuple(entry for id, entry in new.items() if id in fresh)
    candidates = [e for e in after.findings
                  if e.id in fresh and (e.id not in old or _rank(e) < _rank(old[e.id]))
                  and e.verdict.value != "not tested"]
    first = min(candidates, key=_moment, default=None)
    exit_code, status = _outcome(before, after, bool(added))
    return Difference(
        before=before.title, after=after.title, exit_code=exit_code, status=status, first=first,
        new=added, gone=tuple(entry for id, entry in old.items() if id not in new),
        common=tuple(entry for id, entry in new.items() if id not in fresh),
        coverage=_coverage_changes(before, after),
        environment=_environment_changes(before, after))


def _by_id(report: Report) -> dict[str, Entry]:
    return {d.id: d.lead for d in divergences(report) if d.verdict.value != "not tested"}


def _rank(entry: Entry) -> int:
    """0 for the most severe verdict."""
    return SEVERITY.index(entry.verdict.value)


def _moment(entry: Entry) -> tuple[int, int, int]:
    call = entry.finding.call
    return call.step, call.call_index, entry.finding.rank


def _outcome(before: Report, after: Report, is_worse: bool) -> tuple[int, str]:
    if is_worse:
        return DIVERGENCE, "the second diverges where the first does not, or more severely"
    runs = (*before.runs, *after.runs)
    unfinished = [run for run in runs if not run.is_complete]
    if not unfinished and not (before.calls_checked and after.calls_checked):
        return NOTHING_TESTED, "nothing was tested in one of them"
    if unfinished or before.problems or after.problems:
        return INCONCLUSIVE, "what was checked is not known in full"
    return CLEAN, "the second diverges nowhere that the first does not"


def _coverage_changes(before: Report, after: Report) -> tuple[OpChange, ...]:
    old, new = _coverage(before), _coverage(after)
    return tuple(
        OpChange(op=op, calls_before=old.get(op, (0, 0))[0], checked_before=old.get(op, (0, 0))[1],
                 calls_after=new.get(op, (0, 0))[0], checked_after=new.get(op, (0, 0))[1])
        for op in sorted({*old, *new}) if old.get(op) != new.get(op))


def _coverage(report: Report) -> dict[str, tuple[int, int]]:
    counts: dict[str, tuple[int, int]] = {}
    for coverage in report.coverages:
        for op in coverage.ops:
            calls, checked = counts.get(op.op, (0, 0))
            counts[op.op] = calls + op.calls, checked + op.calls_checked
    return counts


def _environment_changes(before: Report, after: Report) -> tuple[str, ...]:
    """Rank by rank, for the ranks that both have; each line once."""
    old, new = _by_rank(before), _by_rank(after)
    lines: dict[str, None] = {}
    for rank in sorted(old.keys() & new.keys()):
        lines.update(dict.fromkeys(changed_fields(
            flattened(old[rank].environment), flattened(new[rank].environment),
            first="in the first", second="in the second")))
    return tuple(lines)


def _by_rank(report: Report) -> dict[int, Run]:
    """The last run of each rank."""
    return {run.rank: run for run in report.runs}


def difference_text(diff: Difference) -> str:
    """The difference as printable lines, the first divergent operator first."""
    lines = [f"{diff.status} (exit code {diff.exit_code})"]
    if diff.first is not None:
        call = diff.first.finding.call
        source = diff.first.finding.source or "an unknown line"
        lines.append(f"first       {call.op} at step {call.step}, call {call.call_index}, "
                     f"rank {diff.first.finding.rank}, {call.phase} of "
                     f"{module_name(call.module)} ({source})")
    for word, entries in (("new", diff.new), ("gone", diff.gone), ("common", diff.common)):
        lines.append(f"{word:<11} {len(entries)}")
        lines += [f"  {e.id} {e.verdict.value} in {e.finding.op}, {e.finding.module}"
                  for e in entries[:MAX_SHOWN]]
        if len(entries) > MAX_SHOWN:
            lines.append(f"  and {len(entries) - MAX_SHOWN} more")
    lines += _limited("coverage", [
        f"{c.op}: {c.checked_before} of {c.calls_before} calls checked in the first, "
        f"{c.checked_after} of {c.calls_after} in the second" for c in diff.coverage])
    lines += _limited("environment", list(diff.environment))
    return sound("\n".join(_printable_line(line) for line in lines)) + "\n"


def _printable_line(line: str) -> str:
    return printable(line).replace("\n", " ")


def _limited(head: str, lines: list[str]) -> list[str]:
    shown = [f"{head:<11} {line}" for line in lines[:MAX_SHOWN]]
    if len(lines) > MAX_SHOWN:
        shown.append(f"{head:<11} and {len(lines) - MAX_SHOWN} more")
    return shown or [f"{head:<11} equal"]
