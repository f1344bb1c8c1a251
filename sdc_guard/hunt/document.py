"""A hunt's ledger as the report document that every format is rendered from."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from sdc_guard.document.codes import code_of
from sdc_guard.document.operators import packet_of
from sdc_guard.document.schema import SCHEMA_VERSION, Cell, Entry, Report, Run
from sdc_guard.document.text import SCRIPT_NOTE, counted
from sdc_guard.document.verdicts import CLEAN, verdict_of
from sdc_guard.evidence.environment import collect_environment
from sdc_guard.hunt.divergence import SEVERITY
from sdc_guard.hunt.found import FoundDivergence
from sdc_guard.hunt.ledger import Ledger
from sdc_guard.records import Coverage, OpCoverage
from sdc_guard.version import __version__

MAX_GAPS = 200
MAX_NAMES = 100
TOOL = "hunt"


def document(
    ledger: Ledger, *, seed: int, command: str, targets: Iterable[str], is_complete: bool,
    notes: Iterable[str] = (),
) -> Report:
    """The report of a hunt.

    ``targets`` are all that were to be hunted: those without a call are told as not tested.
    ``notes`` is what else was not done, in words.  A divergence that torch documents is no finding:
    it is a cell, with the link.
    """
    host = socket.gethostname()
    run = Run(
        id=f"hunt {host} {ledger.start_utc} seed {seed}", kind=TOOL, rank=0, pid=os.getpid(),
        host=host, start_utc=ledger.start_utc, source="", elapsed_s=ledger.elapsed_s,
        is_complete=is_complete, seed=seed, script=command, steps=ledger.trials,
        environment=collect_environment(), coverage=_coverage(ledger, targets, notes))
    return Report(
        schema_version=SCHEMA_VERSION, tool_version=__version__,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        title=f"sdc_guard: {command}", sources=(), runs=(run,),
        findings=tuple(_entries(ledger, run)), cells=tuple(_cells(ledger)))


def _entries(ledger: Ledger, run: Run) -> Iterable[Entry]:
    """One for each fingerprint, the most severe and most often reproduced trial of it."""
    by_id: dict[str, list[FoundDivergence]] = {}
    for found in ledger.found.values():
        if verdict_of(TOOL, found.word) != CLEAN:
            by_id.setdefault(found.fingerprint, []).append(found)
    for id, group in sorted(by_id.items(), key=lambda item: (_order(_lead(item[1])), item[0])):
        lead = _lead(group)
        repeats = sum(max(1, ledger.met.get(f.seen_as, 0)) for f in group)
        finding = msgspec.structs.replace(lead.finding, repeats=repeats)
        yield Entry(
            id=id, code=code_of(finding.verdict.value, witness_of(lead.oracle)), tool=TOOL,
            word=lead.word, verdict=finding.verdict, run=run.id, finding=finding,
            test=lead.oracle, unit=f"{run.host}/{lead.trial.device}", wrong=lead.wrong,
            tried=lead.tried, cause=lead.cause)


_WITNESSES = {"exact": "exact", "repeat": "repeat", "semantics": "semantics",
              "process": "process"}


def witness_of(oracle: str) -> str:
    """The witness in a finding's code; all oracles but these end in a comparison with the
    reference."""
    return _WITNESSES.get(oracle, "reference")


def _lead(group: list[FoundDivergence]) -> FoundDivergence:
    return min(group, key=_order)


def _order(found: FoundDivergence) -> tuple[int, int, int, str]:
    return found.severity, -found.wrong, found.trial.num_elements, found.trial.digest


def _cells(ledger: Ledger) -> Iterable[Cell]:
    """An oracle is a unit, an operator's packet a test."""
    words: dict[tuple[str, str], list[FoundDivergence]] = {}
    for found in ledger.found.values():
        words.setdefault((found.oracle, packet_of(found.op)), []).append(found)
    pairs = {(oracle, packet) for packet, counts in ledger.checked.items() for oracle in counts}
    pairs |= {(oracle, packet) for packet, reasons in ledger.not_judged.items()
              for oracle in reasons}
    for oracle, packet in sorted(pairs | set(words)):
        here = sorted(words.get((oracle, packet), ()), key=_order)
        checks = ledger.checked.get(packet, {}).get(oracle, 0)
        reasons = ledger.not_judged.get(packet, {}).get(oracle, {})
        word = here[0].word if here else "agrees" if checks else "not tested"
        reason = next((f.link for f in here if f.word == "documented"), "")
        if word == "not tested":
            reason = max(sorted(reasons), key=lambda r: reasons[r], default="")
        yield Cell(
            unit=oracle, test=packet, word=word, verdict=verdict_of(TOOL, word), checks=checks,
            findings=sum(max(1, ledger.met.get(f.seen_as, 0)) for f in here
                         if verdict_of(TOOL, f.word) != CLEAN),
            reason=reason)


def _coverage(ledger: Ledger, targets: Iterable[str], notes: Iterable[str]) -> Coverage:
    packets = sorted({*ledger.checked, *ledger.not_judged})
    errors = Counter(ledger.errors)
    return Coverage(
        ops=tuple(_op(ledger, packet) for packet in packets),
        gaps=tuple(_gaps(ledger, targets, notes)), dead_witnesses=(), refused_relations=(),
        overhead_s=0.0, elapsed_s=ledger.elapsed_s, steps=0, steps_skipped=0,
        guard_errors=errors.total())


def _op(ledger: Ledger, packet: str) -> OpCoverage:
    """Calls are those that the oracle with the most of them saw: each looks at the same calls, and
    some make more."""
    checked = ledger.checked.get(packet, {})
    reasons = ledger.not_judged.get(packet, {})
    seen = {oracle: checked.get(oracle, 0) + sum(reasons.get(oracle, {}).values())
            for oracle in {*checked, *reasons}}
    first = max(sorted(seen), key=lambda oracle: seen[oracle])
    calls, calls_checked = seen[first], max(checked.values(), default=0)
    return OpCoverage(
        op=packet, calls=calls, calls_checked=min(calls, calls_checked), elements=0,
        elements_checked=0, flops=0, flops_checked=0, witnesses=dict(sorted(checked.items())),
        not_tested=dict(reasons.get(first, {})) if calls_checked < calls else {})


def _gaps(ledger: Ledger, targets: Iterable[str], notes: Iterable[str]) -> list[str]:
    lines = [*notes, *(f"oracle {name}: {text}" for name, text in sorted(ledger.remarks.items()))]
    lines += [f"{f.word} of an earlier hunt, {f.fingerprint} in {f.op} ({f.oracle}), did not come "
              "again" for f in ledger.gone.values()]
    lines += [f"{text} ({counted(n, 'time')})" for text, n in sorted(ledger.errors.items())]
    lines += [f"{target}: {page.given_up}" for target, page in sorted(ledger.targets.items())
              if page.given_up]
    lines += [f"{target}: {counted(len(page.skip), 'trial')} left out that ended or failed a "
              "worker" for target, page in sorted(ledger.targets.items()) if page.skip]
    pages = {target: ledger.targets.get(target) for target in sorted(targets)}
    lines += _listed("no call was made of", [t for t, p in pages.items() if not (p and p.trials)])
    lines += _listed("every call was refused by",
                     [t for t, p in pages.items() if p and p.trials == p.refused > 0])
    if len(lines) > MAX_GAPS:
        lines = [*lines[:MAX_GAPS], f"and {len(lines) - MAX_GAPS} more"]
    return lines


def _listed(what: str, names: list[str]) -> list[str]:
    """One line for many operators."""
    if not names:
        return []
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return [f"{what} {counted(len(names), 'operator')}: {', '.join(names[:MAX_NAMES])}{more}"]


def severity_counts(ledger: Ledger) -> dict[str, int]:
    """Findings by the hunt's words, most severe first."""
    counts = Counter(f.word for f in ledger.found.values())
    return {word: counts[word] for word in SEVERITY if counts[word]}


def with_scripts(report: Report, scripts: Iterable[Path]) -> Report:
    """The report with each finding's script, a file named by its id, as the way to replay it."""
    by_id = {path.stem: path for path in scripts if path.suffix == ".py"}

    def told(entry: Entry) -> Entry:
        path, evidence = by_id.get(entry.id), entry.finding.evidence
        if path is None:
            return entry
        command = evidence.replay_command or f"python {path}"
        evidence = msgspec.structs.replace(
            evidence, replay_command=command, note=f"{SCRIPT_NOTE}{path}")
        return msgspec.structs.replace(
            entry, finding=msgspec.structs.replace(entry.finding, evidence=evidence))

    return msgspec.structs.replace(report, findings=tuple(map(told, report.findings)))
