"""What a sweep means for whoever asked for it: the common judgement, and what a sweep adds."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click
import msgspec

from sdc_guard.document import exits

if TYPE_CHECKING:
    from sdc_guard.document.schema import Report

TOOL_ERROR = "TOOL ERROR"


def judged_sweep(report: Report) -> Report:
    """The report with its judgement.

    A test of ours that failed is an internal error, 4, unless something worse was found; a unit on
    which nothing was verified is not clean, 3.
    """
    from sdc_guard.report.judging import STATUS, judge
    from sdc_guard.sweep.words import FAIL, MISSING, WORST_FIRST

    report = judge(report)
    assert report.judgement is not None
    code, reasons = report.judgement.exit_code, list(report.judgement.reasons)
    errors = sorted({c.test for c in report.cells if c.word == TOOL_ERROR})
    if errors:
        reasons.append(f"tests of ours that failed: {', '.join(errors)}")
        code = code if code == exits.DIVERGENCE else exits.INTERNAL_ERROR
    words = {c.word for c in report.cells}
    if FAIL in words and code != exits.DIVERGENCE:
        reasons.append("a test that says FAIL has no finding: the document was cut or changed")
        code = exits.DIVERGENCE
    unknown = sorted(words - {*WORST_FIRST, MISSING})
    if unknown and code == exits.CLEAN:
        reasons.append(f"words that this version does not know: {', '.join(unknown)}")
        code = exits.INCONCLUSIVE
    checks: dict[str, int] = {}
    for cell in report.cells:
        checks[cell.unit] = checks.get(cell.unit, 0) + cell.checks
    idle = sorted(unit for unit, count in checks.items() if not count)
    if idle and code in (exits.CLEAN, exits.INCONCLUSIVE):
        reasons.append(f"nothing was verified on {', '.join(idle)}")
        code = exits.INCONCLUSIVE
    judgement = msgspec.structs.replace(
        report.judgement, exit_code=code, reasons=tuple(reasons),
        status=STATUS.get(code, exits.MEANINGS[code]))
    return msgspec.structs.replace(report, judgement=judgement)


def said(text: str) -> list[str]:
    """Print the report; where standard output is closed or full, the warning to tell instead."""
    return _printed(text, is_error=False)


def tell(lines: Iterable[str]) -> None:
    """The last lines, on standard error, if anybody can read them."""
    _printed("".join(f"{line}\n" for line in lines), is_error=True)


def _printed(text: str, *, is_error: bool) -> list[str]:
    """A full disk, or a reader that has gone, must not change the exit code of a finding: to a
    health check 1 says that the hardware is bad."""
    try:
        click.echo(text, nl=False, err=is_error)
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):  # what is buffered fails again at the end
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2 if is_error else 1)
            os.close(null)
        return [f"warning: standard output cannot be written: {error.strerror or error}"]
    return []
