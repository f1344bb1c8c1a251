"""Every format that a report is written in: its name, its file, and who renders it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sdc_guard.document.files import write_asked
from sdc_guard.document.reading import write_document
from sdc_guard.document.schema import Report
from sdc_guard.errors import UsageError


@dataclass(frozen=True)
class Format:
    """``file`` is the name that it has unless another is asked for."""

    file: str
    render: Callable[[Report], str]


def _html(report: Report, folder: Path | None = None) -> str:
    from sdc_guard.render.page import report_page

    return report_page(report, folder=folder) + "\n"


def _json(report: Report) -> str:
    return write_document(report).decode()


def _junit(report: Report) -> str:
    from sdc_guard.render.junit import junit_xml

    return junit_xml(report)


def _sarif(report: Report) -> str:
    from sdc_guard.render.sarif import sarif_json

    return sarif_json(report)


def _markdown(report: Report) -> str:
    from sdc_guard.render.markdown import markdown

    return markdown(report)


def _comment(report: Report) -> str:
    from sdc_guard.render.markdown import comment

    return comment(report)


def _prometheus(report: Report) -> str:
    from sdc_guard.render.prometheus import prometheus_text

    return prometheus_text(report)


def _ocp(report: Report) -> str:
    from sdc_guard.render.ocp import ocp_jsonl

    return ocp_jsonl(report)


def _text(report: Report) -> str:
    from sdc_guard.render.report_text import report_text

    return report_text(report)


FORMATS: dict[str, Format] = {
    "html": Format("report.html", _html),
    "json": Format("report.json", _json),
    "junit": Format("report.junit.xml", _junit),
    "sarif": Format("report.sarif", _sarif),
    "markdown": Format("report.md", _markdown),
    "comment": Format("comment.md", _comment),
    "prom": Format("sdc_guard.prom", _prometheus),
    "ocp": Format("report.ocp.jsonl", _ocp),
    "text": Format("report.txt", _text),
}
"""A renderer is imported when it is used: a JUnit file needs no jinja2, a page no junitparser."""


def rendered(report: Report, name: str) -> str:
    """The report in one format.

    Raises:
        UsageError: for an unknown format.
    """
    if name not in FORMATS:
        raise UsageError(f"format {name!r} is unknown; choose one of {', '.join(FORMATS)}")
    return FORMATS[name].render(report)


def write_outputs(report: Report, outputs: Mapping[str, Path]) -> tuple[Path, ...]:
    """Write each format to its path, each file in whole or not at all, and name what was written.

    Raises:
        UsageError: for an unknown format, or a file that cannot be written.
    """
    # A page has links to bundles, which are relative to where it lies.
    texts = {path: _html(report, path.parent) if name == "html" else rendered(report, name)
             for name, path in outputs.items()}
    for path, text in texts.items():
        write_asked(path, text)
    return tuple(texts)
