"""A finding to its entry in the document."""

from __future__ import annotations

from pathlib import Path

from sdc_guard.document.codes import code_of
from sdc_guard.document.fingerprint import fingerprint
from sdc_guard.document.schema import Entry
from sdc_guard.records import Cause, Finding
from sdc_guard.report.locations import location_of


def entry_of(
    finding: Finding, *, tool: str, run: str, root: Path, base: str = "", time_s: float = 0.0,
    test: str = "", host: str = "", word: str = "",
) -> Entry:
    """The entry; ``base`` is the folder that the run was started in, ``word`` the tool's own word
    for the verdict where it has another."""
    location = location_of(finding.source, root, base)
    file = location.file if location is not None else ""
    votes = [v for v in finding.attribution.votes if v.identical and v.result != "failed"]
    return Entry(
        id=fingerprint(finding, tool=tool, file=file, test=test),
        code=code_of(finding.verdict.value, finding.witness),
        tool=tool,
        word=word or finding.verdict.value,
        verdict=finding.verdict,
        run=run,
        finding=finding,
        location=location,
        time_s=time_s,
        test=test,
        unit=_unit(finding, host),
        wrong=sum(v.result == "held" for v in votes) if votes else None,
        tried=len(votes) or None,
    )


def _unit(finding: Finding, host: str) -> str:
    """The core or device that is to blame where that is known, else the one that computed it."""
    attribution = finding.attribution
    if attribution.cause is Cause.PERSISTENT_HARDWARE and attribution.place:
        place = attribution.place
    else:
        place = finding.device
    return f"{host}/{place}" if host else place
