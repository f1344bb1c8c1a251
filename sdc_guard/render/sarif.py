"""SARIF 2.1.0 (OASIS), within GitHub's limits: one result for each divergence at the user's line.

Limits that bind (GitHub, code scanning): 20 runs a file (one is written), 5,000 results shown,
1,000 locations a result, 10 tags a rule, 10 MB compressed.  What is cut is said in the run's
notifications and properties.
"""

from __future__ import annotations

import gzip
from urllib.parse import quote

import msgspec

from sdc_guard.document.codes import RULES
from sdc_guard.document.divergences import KNOWN, Divergence, divergences
from sdc_guard.document.exits import CLEAN, MEANINGS
from sdc_guard.document.schema import Entry, Report
from sdc_guard.document.text import one_line, printable, shortened, sound
from sdc_guard.document.verdicts import DEFAULT_POLICY
from sdc_guard.render import sarif_records as sarif
from sdc_guard.render.described import coverage_line, divergence_text, gaps, not_tested, title
from sdc_guard.render.places import Place, place_of

MAX_RESULTS = 5000
MAX_LOCATIONS = 1000
MAX_RELATED = 20
MAX_TAGS = 10
MAX_NOTIFICATIONS = 100
MAX_TEXT_CHARS = 6000
MAX_GZIP_BYTES = 10_000_000
FINGERPRINT = "sdcGuard/v1"
GITHUB_FINGERPRINT = "primaryLocationLineHash"
"""The only one that GitHub reads.  Without it the upload makes one of the line's text, under which
an alert changes with the line, and two divergences of one line are one."""
ROOT = "SRCROOT"
_LEVELS = {"fail": "error", "inconclusive": "warning", "report": "note"}


def sarif_json(report: Report) -> str:
    """The report as a SARIF log on one line; equal reports give equal text."""
    found = divergences(report)
    shown = found[:MAX_RESULTS]
    while True:
        text = _encoded(report, shown, len(found) - len(shown))
        if not shown or len(gzip.compress(text, compresslevel=1)) <= MAX_GZIP_BYTES:
            return text.decode() + "\n"
        shown = shown[: len(shown) // 2]


def _encoded(report: Report, shown: tuple[Divergence, ...], num_cut: int) -> bytes:
    codes = sorted({d.lead.code for d in shown})
    version = report.tool_version or "0"
    run = sarif.Run(
        tool=sarif.Tool(driver=sarif.Driver(
            name="sdc-guard", version=_safe(version), semantic_version=_safe(version),
            rules=[_rule(code, shown, report) for code in codes])),
        results=[_result(d, report, codes.index(d.lead.code)) for d in shown],
        invocations=[_invocation(report, num_cut)],
        original_uri_base_ids={ROOT: {"description": {"text": "the repository's root"}}},
        automation_details=sarif.AutomationDetails(id="sdc-guard/"),
        column_kind="utf16CodeUnits",
        properties={
            "title": _safe(report.title), "coverage": coverage_line(report),
            "runs": len(report.runs), "resultsLeftOut": num_cut,
            "findingsByVerdict": dict(report.num_by_verdict),
        },
    )
    return msgspec.json.encode(sarif.Log(schema=sarif.SCHEMA_URI, version="2.1.0", runs=[run]))


def _rule(code: str, shown: tuple[Divergence, ...], report: Report) -> sarif.Rule:
    policy = report.judgement.policy if report.judgement is not None else DEFAULT_POLICY
    rule = RULES.get(code)
    if rule is None:  # of a later version: its name is all that is known
        lead = next(d.lead for d in shown if d.lead.code == code)
        verdict, witness, name = lead.verdict.value, "other", "of-a-later-version"
        summary = help_text = f"{verdict}, by a rule that this version does not know"
    else:
        verdict, witness, name = rule.verdict, rule.witness, rule.name
        summary, help_text = rule.summary, rule.help
    tags = ["numerics", "silent-data-corruption", verdict.replace(" ", "-"),
            witness.replace(" ", "-")]
    return sarif.Rule(
        id=_safe(code), name=name, short_description=sarif.Message(text=summary),
        full_description=sarif.Message(text=help_text),
        help=sarif.Message(text=help_text, markdown=help_text),
        default_configuration=sarif.Configuration(
            level=_LEVELS[policy.get(verdict, "inconclusive")]),
        properties={"tags": tags[:MAX_TAGS],
                    "precision": "very-high" if verdict == "corruption" else "medium",
                    "problem.severity": "error" if verdict == "corruption" else "warning"})


def _result(divergence: Divergence, report: Report, rule_index: int) -> sarif.Result:
    lead = divergence.lead
    place = place_of(lead, report)
    text = f"{title(divergence)}\n{divergence_text(divergence)}"
    if place.note:
        text += f"\n{one_line(place.note)}"
    state = None
    if report.judgement is not None:
        state = "unchanged" if divergence.state == KNOWN else "new"
    return sarif.Result(
        rule_id=_safe(lead.code), rule_index=rule_index, kind="fail",
        level=_LEVELS[divergence.action], message=sarif.Message(text=_safe(text)),
        locations=[_location(place, lead)],
        related_locations=_related(divergence, report, place),
        partial_fingerprints={FINGERPRINT: _safe(lead.id),
                              GITHUB_FINGERPRINT: f"{_safe(lead.id)}:1"},
        occurrence_count=max(divergence.num_findings, 1), baseline_state=state,
        properties={
            "verdict": lead.verdict.value, "state": divergence.state,
            "cause": lead.finding.cause.value, "unit": _safe(lead.unit), "test": _safe(lead.test),
            "step": lead.finding.step, "replay": _safe(lead.finding.evidence.replay_command),
            "note": _safe(place.note)})


def _location(place: Place, entry: Entry) -> sarif.Location:
    finding = entry.finding
    logical = [sarif.LogicalLocation(name=_safe(finding.op) or "?", kind="function")]
    if finding.module not in ("", "?"):
        logical.append(sarif.LogicalLocation(name=_safe(finding.module), kind="member"))
    return sarif.Location(
        physical_location=sarif.PhysicalLocation(
            artifact_location=sarif.ArtifactLocation(uri=_uri(place.file), uri_base_id=ROOT),
            region=sarif.Region(start_line=place.line, start_column=1, end_line=place.line,
                                end_column=1)),
        logical_locations=logical)


def _related(divergence: Divergence, report: Report, first: Place) -> list[sarif.Location]:
    """Other lines from which the same divergence was met."""
    others: dict[tuple[str, int], sarif.Location] = {}
    for entry in divergence.entries[:MAX_LOCATIONS]:
        place = place_of(entry, report)
        if (place.file, place.line) != (first.file, first.line):
            others.setdefault((place.file, place.line), msgspec.structs.replace(
                _location(place, entry), message=sarif.Message(text="met here too")))
    return list(others.values())[:MAX_RELATED]


def _invocation(report: Report, num_cut: int) -> sarif.Invocation:
    exit_code = report.judgement.exit_code if report.judgement is not None else CLEAN
    notes = [_note("note", "coverage", coverage_line(report))]
    if num_cut:
        notes.append(_note("warning", "cut", f"{num_cut} divergences are left out to keep within "
                                             "GitHub's limits; the report's JSON holds them"))
    if report.judgement is not None:
        notes += [_note("note", "reason", reason) for reason in report.judgement.reasons]
    notes += [_note("warning", "problem", line) for line in gaps(report)]
    notes += [_note("note", "not-tested", f"{op}: {count} calls not tested: {reasons}")
              for op, count, reasons in not_tested(report)]
    if len(notes) > MAX_NOTIFICATIONS:
        rest = len(notes) - MAX_NOTIFICATIONS
        notes = [*notes[:MAX_NOTIFICATIONS], _note("warning", "cut", f"{rest} more notes")]
    return sarif.Invocation(
        execution_successful=not report.problems and all(r.is_complete for r in report.runs),
        exit_code=exit_code, exit_code_description=MEANINGS.get(exit_code, "unknown"),
        tool_execution_notifications=notes)


def _note(level: str, name: str, text: str) -> sarif.Notification:
    return sarif.Notification(level=level, message=sarif.Message(text=_safe(one_line(text)) or "-"),
                              descriptor=sarif.Descriptor(id=name))


def _uri(file: str) -> str:
    """A relative reference: ``:`` is encoded too, for a first part with one would be a scheme."""
    return quote(sound(file), safe="/")


def _safe(text: str) -> str:
    return shortened(printable(sound(text)), MAX_TEXT_CHARS)
