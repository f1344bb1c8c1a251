"""Findings of one fingerprint as one group, and the groups in the order that they matter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from sdc_guard.document.schema import Entry, Report, Run
from sdc_guard.document.text import SCRIPT_NOTE, module_name
from sdc_guard.document.verdicts import SEVERITY
from sdc_guard.records import Finding, Worst
from sdc_guard.render.console import distance, extent
from sdc_guard.render.page.links import bundle_link, script_link
from sdc_guard.render.page.numbers import (
    BitCell,
    band_words,
    bit_cells,
    hexfloat,
    layout_of,
    pattern_of,
)
from sdc_guard.render.page.spreads import Total, bound_log2, total_of
from sdc_guard.render.swept import case_of, is_swept

HUNT = "hunt"
STATES = ("new", "expired", "known")


@dataclass(frozen=True)
class WorstView:
    """The worst element as it is shown: its numbers in every notation, and the bits of both."""

    worst: Worst
    place: str
    got_hex: str
    expected_hex: str
    got_bits: list[BitCell]
    expected_bits: list[BitCell]
    mask_words: str
    distance: str
    bound_words: str


@dataclass(frozen=True)
class Group:
    """The findings of one fingerprint, the earliest first.  ``lead`` is the most severe of the
    earliest; ``state`` is the baseline's word, "" without a judgement; ``is_worse`` tells that the
    baseline knows it with a milder verdict; ``link`` is the address of the lead's bundle, "" where
    no safe one can be made."""

    anchor: str
    id: str
    entries: tuple[Entry, ...]
    lead: Entry
    state: str
    is_worse: bool
    count: int
    link: str
    script_link: str = ""

    @property
    def finding(self) -> Finding:
        return self.lead.finding

    @property
    def verdict(self) -> str:
        return self.lead.verdict.value

    @property
    def verdicts(self) -> dict[str, int]:
        """Findings by verdict, the most severe first."""
        counts = Counter[str]()
        for entry in self.entries:
            counts[entry.verdict.value] += entry.finding.repeats
        return {word: counts[word] for word in SEVERITY if counts[word]}

    @property
    def causes(self) -> list[str]:
        return sorted({e.finding.cause.value for e in self.entries})

    @property
    def place(self) -> str:
        """``train/model.py:57``, or "" where no line is known."""
        location = self.lead.location
        return f"{location.file}:{location.line}" if location else self.finding.source

    @property
    def module(self) -> str:
        """The module; several of the same kind (``blocks.0`` and ``blocks.1``) are counted."""
        names = sorted({e.finding.module for e in self.entries})
        rest = len(names) - 1
        first = module_name(self.finding.module)
        return f"{first} and {rest} like it" if rest else first

    @property
    def units(self) -> list[str]:
        return sorted({e.unit for e in self.entries if e.unit})

    @property
    def steps(self) -> tuple[int, int]:
        steps = [e.finding.step for e in self.entries]
        return min(steps), max(steps)

    @property
    def is_hunted(self) -> bool:
        """Whether a hunt called it by itself: it has no module, line or step."""
        return self.lead.tool == HUNT

    @property
    def is_swept(self) -> bool:
        """Whether a sweep computed it: it has a unit, a test and a case, and no module or line."""
        return is_swept(self.lead)

    @property
    def case(self) -> str:
        """Of a sweep: which of the test's computations."""
        return case_of(self.lead)

    @property
    def script(self) -> str:
        """The path of the hunt's script, or ""."""
        note = self.finding.evidence.note
        return note.removeprefix(SCRIPT_NOTE) if note.startswith(SCRIPT_NOTE) else ""

    @property
    def extent(self) -> str:
        if self.is_hunted and self.finding.pattern is None:
            return ""
        return extent(self.finding.pattern)

    @property
    def total(self) -> Total | None:
        """What the group's wrong elements have in common."""
        return total_of(e.finding for e in self.entries)

    @property
    def votes(self) -> list[tuple[str, str, bool, str, int]]:
        """(place, method, identical, result, how many), in the order they were cast."""
        votes = self.finding.attribution.votes
        return [(*key, count) for key, count in
                Counter((v.place, v.method, v.identical, v.result) for v in votes).items()]

    @property
    def worst(self) -> WorstView | None:
        worst = self.finding.worst
        return None if worst is None else _worst_view(worst)


def groups_of(report: Report, folder: Path | None = None) -> list[Group]:
    """The report's findings by fingerprint: severe first, then new ones, then early ones.
    ``folder`` is where the page will lie."""
    found: dict[str, list[Entry]] = {}
    for entry in report.findings:
        found.setdefault(entry.id, []).append(entry)
    judgement = report.judgement
    states = judgement.states if judgement is not None else {}
    worse = frozenset(judgement.worse if judgement is not None else ())
    logs = {run.id: run.source for run in report.runs}
    groups = [_group(key, entries, states.get(key, ""), is_worse=key in worse, logs=logs,
                     folder=folder) for key, entries in found.items()]
    groups.sort(key=lambda g: (_severity(g.lead), _rank(g.state), g.lead.time_s,
                               g.finding.step, g.id))
    return [_anchored(group, i) for i, group in enumerate(groups)]


def first_entry(report: Report) -> tuple[Entry, Run | None] | None:
    """The finding that came first, with its run: by step and call in a run, by the clock between
    runs.  ``not tested`` is no divergence and is left out."""
    runs = {run.id: run for run in report.runs}
    firsts: dict[str, Entry] = {}
    for entry in report.findings:
        if entry.verdict.value == "not tested":
            continue
        old = firsts.get(entry.run)
        if old is None or _order(entry) < _order(old):
            firsts[entry.run] = entry
    if not firsts:
        return None
    first = min(firsts.values(), key=lambda e: (_start(runs.get(e.run)) + e.time_s, _order(e)))
    return first, runs.get(first.run)


def found_at(entry: Entry, run: Run | None) -> str:
    """The moment of a finding in UTC, "" where the run's start is not known."""
    start = _start(run)
    if not start:
        return ""
    try:
        moment = datetime.fromtimestamp(start + entry.time_s, UTC)
    except (ValueError, OverflowError, OSError):
        return ""
    return moment.isoformat(sep=" ", timespec="seconds").replace("+00:00", " UTC")


def _start(run: Run | None) -> float:
    """Seconds since the epoch, 0 where it is not known."""
    try:
        return datetime.fromisoformat(run.start_utc).timestamp() if run is not None else 0.0
    except (ValueError, OverflowError, OSError):
        return 0.0


def _order(entry: Entry) -> tuple[int, int]:
    return entry.finding.step, entry.finding.call.call_index


def _severity(entry: Entry) -> int:
    return SEVERITY.index(entry.verdict.value)


def _rank(state: str) -> int:
    return STATES.index(state) if state in STATES else 0


def _group(key: str, entries: Sequence[Entry], state: str, *, is_worse: bool,
           logs: dict[str, str], folder: Path | None) -> Group:
    entries = sorted(entries, key=lambda e: (e.finding.step, e.time_s))
    lead = min(entries, key=_severity)
    group = Group(anchor="", id=key, entries=tuple(entries), lead=lead, state=state,
                  is_worse=is_worse, count=sum(e.finding.repeats for e in entries),
                  link=bundle_link(lead.finding.evidence.bundle, logs.get(lead.run, ""), folder))
    return replace(group, script_link=script_link(group.script, folder))


def _anchored(group: Group, number: int) -> Group:
    """The fingerprint as an anchor where it is one of ours; a document may hold any text."""
    is_ours = group.id.isascii() and group.id.isalnum() and len(group.id) <= 32
    return replace(group, anchor=f"f-{group.id}" if is_ours else f"f-{number}")


def _worst_view(worst: Worst) -> WorstView:
    mask = pattern_of(worst.xor) or 0
    layout = layout_of(worst.got.dtype)
    bound = bound_log2(worst)
    words = "none is known: the relation is exact" if worst.bound is None else (
        f"{worst.bound.kind} bound {worst.bound.limit:.4g}"
        + (f" ({2.0 ** bound:.3g} ulps)" if bound is not None and -1000 < bound < 1000 else ""))
    return WorstView(
        worst=worst, place=", ".join(map(str, worst.index)),
        got_hex=hexfloat(worst.got), expected_hex=hexfloat(worst.expected),
        got_bits=bit_cells(worst.got, mask), expected_bits=bit_cells(worst.expected, mask),
        mask_words=band_words(mask, layout) if worst.xor else "",
        distance=distance(worst),
        bound_words=words)
