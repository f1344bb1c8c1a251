"""Write a report document, and read one of any version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from sdc_guard.document.files import read_bounded
from sdc_guard.document.schema import SCHEMA_VERSION, Report
from sdc_guard.document.text import one_line
from sdc_guard.errors import UsageError
from sdc_guard.plain_json import dumps, loads, record_of
from sdc_guard.records import Cause, Coverage, Verdict

_VERDICTS = frozenset(v.value for v in Verdict)
_CAUSES = frozenset(c.value for c in Cause)


def write_document(report: Report) -> bytes:
    """The document as UTF-8 JSON on one line, numbers that JSON cannot hold by their bits."""
    return dumps(report) + b"\n"


def read_document(data: bytes | str, name: str = "the document") -> Report:
    """The report in ``data``.  Fields that a later minor version has added are left out, and a
    verdict that this version does not know reads as ``inconclusive``.

    Raises:
        UsageError: if it is no report, or one of another major version.
    """
    try:
        value = loads(data)
    except ValueError as error:
        raise UsageError(f"{name} is not JSON that can be read: {error}") from error
    version = value.get("schema_version") if isinstance(value, dict) else None
    if not isinstance(version, str):
        raise UsageError(f"{name} is no sdc_guard report: it has no schema_version")
    major = version.partition(".")[0]
    if major != SCHEMA_VERSION.partition(".")[0]:
        raise UsageError(f"{name} has schema_version {one_line(version[:20])}, this sdc_guard "
                         f"reads {SCHEMA_VERSION.partition('.')[0]}.x; use the version that wrote "
                         "it, or a newer one")
    try:
        report = record_of(_with_known_words(value), Report)
        for coverage in report.coverages:
            require_counts(coverage)
        return report
    except (msgspec.ValidationError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise UsageError(f"{name} is no valid report: {error}") from error


def require_counts(coverage: Coverage) -> None:
    """Counts that contradict themselves would make a share of the calls that says nothing.

    Raises:
        ValueError: for a negative count, or more calls checked than seen.
    """
    for name in ("steps", "steps_skipped", "steps_unwatched", "guard_errors"):
        if getattr(coverage, name) < 0:
            raise ValueError(f"coverage has {name} {getattr(coverage, name)}")
    for op in coverage.ops:
        counts = (op.calls, op.calls_checked, op.elements, op.elements_checked, op.flops,
                  op.flops_checked)
        if min(counts) < 0 or op.calls_checked > op.calls:
            raise ValueError(f"coverage has {op.calls_checked} of {op.calls} calls of "
                             f"{op.op[:80]!r} checked, and counts from {min(counts)}")


def read_document_file(path: Path) -> Report:
    """The report in a file.

    Raises:
        UsageError: if it cannot be read, or is no report.
    """
    try:
        return read_document(read_bounded(path), str(path))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


def _with_known_words(value: dict[str, Any]) -> dict[str, Any]:
    entries = value.get("findings")
    for entry in entries if isinstance(entries, list) else ():
        for holder in (entry, entry.get("finding")) if isinstance(entry, dict) else ():
            if not isinstance(holder, dict):
                continue
            if holder.get("verdict") not in _VERDICTS:
                holder["verdict"] = Verdict.INCONCLUSIVE.value
            attribution = holder.get("attribution")
            if isinstance(attribution, dict) and attribution.get("cause") not in _CAUSES:
                attribution["cause"] = Cause.UNKNOWN.value
    return value
