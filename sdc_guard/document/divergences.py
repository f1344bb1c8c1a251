"""The findings of a report by fingerprint, and what each does to the exit code."""

from __future__ import annotations

from dataclasses import dataclass

from sdc_guard.document.schema import Entry, Judgement, Report
from sdc_guard.document.verdicts import DEFAULT_POLICY, SEVERITY
from sdc_guard.records import Verdict

DIVERGENT = frozenset({"corruption", "precision", "nondeterminism"})
"""Verdicts of a number that was seen to differ."""

NEW, KNOWN, EXPIRED = "new", "known", "expired"


@dataclass(frozen=True)
class Divergence:
    """Entries of one fingerprint, the most severe first, then by step and call.

    ``state`` is ``new``, ``known`` or ``expired``; ``action`` what it does to the exit code:
    ``fail``, ``inconclusive`` or ``report`` (nothing).
    """

    id: str
    entries: tuple[Entry, ...]
    state: str
    action: str

    @property
    def lead(self) -> Entry:
        return self.entries[0]

    @property
    def verdict(self) -> Verdict:
        return self.lead.verdict

    @property
    def num_findings(self) -> int:
        return sum(entry.finding.repeats for entry in self.entries)


def divergences(report: Report) -> tuple[Divergence, ...]:
    """One for each fingerprint, most severe first, then in the order met."""
    by_id: dict[str, list[Entry]] = {}
    for entry in report.findings:
        by_id.setdefault(entry.id, []).append(entry)
    found = []
    for id, entries in by_id.items():
        entries.sort(key=_order)
        found.append(Divergence(
            id=id, entries=tuple(entries), state=state_of(id, report.judgement),
            action=action_of(id, entries[0].verdict.value, report.judgement)))
    return tuple(sorted(found, key=lambda d: (*_order(d.lead), d.id)))


def _order(entry: Entry) -> tuple[int, int, int]:
    call = entry.finding.call
    return SEVERITY.index(entry.verdict.value), call.step, call.call_index


def state_of(id: str, judgement: Judgement | None) -> str:
    """``new`` where nothing was judged: what no baseline knows is new."""
    return judgement.states.get(id, NEW) if judgement is not None else NEW


def action_of(id: str, verdict: str, judgement: Judgement | None) -> str:
    """``fail``, ``inconclusive`` or ``report``, under the judgement's policy and ``fail_on``."""
    if judgement is None:
        return DEFAULT_POLICY[verdict]
    fail_on = judgement.fail_on
    if "any" in fail_on and verdict in DIVERGENT:
        return "fail"
    if state_of(id, judgement) == KNOWN:
        return "report"
    if "new" in fail_on and verdict in DIVERGENT:
        return "fail"
    if "regression" in fail_on and id in judgement.worse:
        return "fail"
    return judgement.policy.get(verdict, DEFAULT_POLICY[verdict])
