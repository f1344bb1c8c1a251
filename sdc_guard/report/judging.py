"""What a report means for CI: an exit code, and why, against a policy and a baseline."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from datetime import date

import msgspec

from sdc_guard.document.divergences import DIVERGENT, EXPIRED, KNOWN, NEW, divergences
from sdc_guard.document.exits import CLEAN, DIVERGENCE, INCONCLUSIVE, NOTHING_TESTED
from sdc_guard.document.operators import packet_of
from sdc_guard.document.schema import Judgement, Known, Report
from sdc_guard.document.text import counted, one_line
from sdc_guard.document.verdicts import CLEAN as CLEAN_WORD
from sdc_guard.document.verdicts import DEFAULT_POLICY, SEVERITY, parse_policy
from sdc_guard.errors import UsageError
from sdc_guard.report.baseline import (
    UNKNOWN_TORCH,
    Baseline,
    devices_of,
    environments_of,
    key_of,
    known_of,
    lines_of,
    torch_of,
)

FAIL_ON = ("new", "any", "regression", "coverage<N")
STATUS = {CLEAN: "clean", DIVERGENCE: "divergence", INCONCLUSIVE: "inconclusive",
          NOTHING_TESTED: "nothing tested"}
PASSES = "passes"
"""Exit code 0 beside findings: a baseline knows them, or the policy only shows them."""


def judge(
    report: Report,
    *,
    policy: dict[str, str] | None = None,
    fail_on: Sequence[str] = (),
    coverage_floor: float | None = None,
    baseline: Baseline | None = None,
    today: date | None = None,
) -> Report:
    """The report with its judgement.

    Exit code 1 if a finding fails by policy that the baseline does not know; else 5 if nothing was
    tested; else 3 if a finding is inconclusive, a run did not end in order, or less than the floor
    was checked; else 0.  ``fail_on`` adds to the policy: ``new`` fails on any corruption, precision
    or nondeterminism that the baseline does not know, ``any`` on known ones too, ``regression`` on
    what the baseline knows with a milder verdict, ``coverage<N`` sets a floor of N percent of the
    calls, as ``coverage_floor`` does.  An expired line excuses nothing.

    Raises:
        UsageError: for an unknown policy, an unknown ``fail_on``, or a floor outside 0 to 100.
    """
    floor = _floor(fail_on, coverage_floor)
    states, worse = _states(report, baseline, today or date.today())
    fixed, stale, carried = _lines_without_finding(report, baseline, today or date.today())
    judged = Judgement(
        exit_code=CLEAN, status=STATUS[CLEAN], reasons=(), fail_on=tuple(dict.fromkeys(fail_on)),
        policy=parse_policy(policy or {}), coverage_floor=floor,
        baseline=baseline.name if baseline is not None else "", states=states, worse=worse,
        fixed=fixed, stale=stale, carried=carried,
        environment_changes=_environment_changes(report, baseline))
    exit_code, reasons = _outcome(msgspec.structs.replace(report, judgement=judged), judged)
    return msgspec.structs.replace(report, judgement=msgspec.structs.replace(
        judged, exit_code=exit_code, reasons=tuple(reasons),
        status=PASSES if exit_code == CLEAN and report.findings else STATUS[exit_code]))


def _floor(fail_on: Sequence[str], coverage_floor: float | None) -> float | None:
    floors = [] if coverage_floor is None else [coverage_floor]
    for word in fail_on:
        head, sign, number = word.partition("<")
        if head == "coverage" and sign:
            try:
                floors.append(float(number))
            except ValueError as error:
                raise UsageError(f"fail-on {word!r}: {number!r} is no percentage") from error
        elif word not in FAIL_ON or sign:
            raise UsageError(f"fail-on {word!r} is unknown; choose of {', '.join(FAIL_ON)}")
    for value in floors:
        if not 0 <= value <= 100 or math.isnan(value):
            raise UsageError(f"coverage floor {value}: give a percentage, 0 to 100")
    return max(floors, default=None)


def _states(
    report: Report, baseline: Baseline | None, today: date
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Of each fingerprint the worst state that it has under any torch version and device."""
    states: dict[str, str] = {}
    worse: dict[str, None] = {}
    for entry, item in lines_of(report):
        old = baseline.known.get(key_of(item)) if baseline is not None else None
        state = KNOWN
        if old is None:
            state = NEW
        elif SEVERITY.index(item.verdict) < SEVERITY.index(old.verdict):
            state = NEW
            worse[entry.id] = None
        elif is_expired(old, today):
            state = EXPIRED
        order = (KNOWN, EXPIRED, NEW)
        states[entry.id] = max(states.get(entry.id, KNOWN), state, key=order.index)
    return states, tuple(worse)


def is_expired(item: Known, today: date) -> bool:
    """A line holds through the day that it names."""
    return bool(item.expires) and item.expires < today.isoformat()


def _lines_without_finding(
    report: Report, baseline: Baseline | None, today: date
) -> tuple[tuple[Known, ...], tuple[Known, ...], tuple[Known, ...]]:
    """The baseline's lines that are fixed, stale and carried."""
    if baseline is None:
        return (), (), ()
    found = known_of(report)
    torches = {torch_of(run) for run in report.runs} - {UNKNOWN_TORCH}
    checked = {
        (torch_of(run), device, one_line(op.op))
        for run in report.runs if run.is_complete and run.coverage is not None
        for device in devices_of(run) for op in run.coverage.ops if op.calls_checked
    }
    fixed: list[Known] = []
    stale: list[Known] = []
    carried: list[Known] = []
    for key, item in sorted(baseline.known.items()):
        if is_expired(item, today) or _is_of_an_older_torch(item, torches):
            stale.append(item)
        elif key not in found:
            is_checked = any((item.torch, item.device, name) in checked
                             for name in (item.op, packet_of(item.op)))
            (fixed if is_checked else carried).append(item)
    return tuple(fixed), tuple(stale), tuple(carried)


def _is_of_an_older_torch(item: Known, torches: set[str]) -> bool:
    def order(version: str) -> tuple[int, ...]:
        return tuple(int(part) for part in version.split("."))

    return (bool(torches) and item.torch != UNKNOWN_TORCH
            and all(order(item.torch) < order(version) for version in torches))


def _environment_changes(report: Report, baseline: Baseline | None) -> tuple[str, ...]:
    if baseline is None:
        return ()
    lines = []
    for (torch, device), fields in sorted(environments_of(report).items()):
        then = baseline.environments.get((torch, device))
        if then is None:
            lines.append(f"torch {torch} on {device}: the baseline has no environment of it")
            continue
        for name in sorted({*then, *fields}):
            old, new = then.get(name, ("not set",)), fields.get(name, ("not set",))
            if not set(new) <= set(old):
                lines.append(f"{name}: {' or '.join(old)} in the baseline, {' or '.join(new)} here")
    return tuple(lines)


def _outcome(report: Report, judged: Judgement) -> tuple[int, list[str]]:
    failing, open_, words = _counted(report, judged)
    unnamed = _cells_without_finding(report, judged)
    incomplete = sum(not run.is_complete for run in report.runs)
    share = report.call_percent
    is_tested = report.calls_checked > 0 or any(cell.checks for cell in report.cells)
    is_under = (judged.coverage_floor is not None and bool(report.calls)
                and share < judged.coverage_floor)
    reasons = [*words, *(f"{counted(count, 'test')} {verdict}, without a finding in the report"
                         for (verdict, _), count in sorted(unnamed.items()))]
    if incomplete:
        reasons.append(f"{incomplete} of {counted(len(report.runs), 'run')} did not end in order, "
                       "or the log is not whole: what was checked is not known")
    if report.problems:
        reasons.append(f"{counted(len(report.problems), 'source')} could not be read in full")
    if not is_tested and not incomplete:
        reasons.append("nothing was tested: "
                       + ("no call was checked" if report.runs else "there is no run"))
    if is_under:
        reasons.append(f"{share:.4g} % of the calls were checked, the floor is "
                       f"{judged.coverage_floor:g} %")
    if failing or any(action == "fail" for _, action in unnamed):
        return DIVERGENCE, reasons
    if not is_tested and not incomplete:
        return NOTHING_TESTED, reasons
    if (open_ or incomplete or report.problems or is_under
            or any(action == "inconclusive" for _, action in unnamed)):
        return INCONCLUSIVE, reasons
    return CLEAN, reasons or ["nothing diverged in what was checked"]


def _counted(report: Report, judged: Judgement) -> tuple[int, int, list[str]]:
    """How many fingerprints fail, how many are inconclusive, and all of them in words."""
    found = divergences(report)
    failing = sum(d.action == "fail" for d in found)
    open_ = sum(d.action == "inconclusive" for d in found)
    words = []
    for state in (NEW, EXPIRED, KNOWN):
        counts = Counter(d.verdict.value for d in found if d.state == state)
        if counts:
            parts = ", ".join(f"{counts[v]} {v}" for v in SEVERITY if counts[v])
            words.append(f"{state} {counts.total()} ({parts})")
    if judged.worse:
        words.append(f"{len(judged.worse)} worse than the baseline knows them")
    shown = sum(d.action == "report" and d.state != KNOWN and d.verdict.value in DIVERGENT
                for d in found)
    if shown:
        words.append(f"{shown} only shown, by policy")
    return failing, open_, words


def _cells_without_finding(
    report: Report, judged: Judgement
) -> Counter[tuple[str, str]]:
    """Tests with a verdict that no finding of the report stands for, by verdict and action."""
    named = {name for entry in report.findings
             for name in (entry.test, entry.finding.op, packet_of(entry.finding.op))}
    counts: Counter[tuple[str, str]] = Counter()
    for cell in report.cells:
        if cell.verdict == CLEAN_WORD or (cell.test in named and cell.verdict != "not tested"):
            continue
        verdict = cell.verdict if cell.verdict in DEFAULT_POLICY else "inconclusive"
        is_divergent = verdict in DIVERGENT
        fails = is_divergent and bool({"new", "any"} & set(judged.fail_on))
        action = "fail" if fails else judged.policy[verdict]
        if action != "report" or is_divergent:
            counts[verdict, action] += 1
    return counts
