"""What a sweep means for whoever asked for it: the common judgement, and what a sweep adds."""

from __future__ import annotations

from typing import TYPE_CHECKING

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

    report = judge(report)
    assert report.judgement is not None
    code, reasons = report.judgement.exit_code, list(report.judgement.reasons)
    errors = sorted({c.test for c in report.cells if c.word == TOOL_ERROR})
    if errors:
        reasons.append(f"tests of ours that failed: {', '.join(errors)}")
        code = code if code == exits.DIVERGENCE else exits.INTERNAL_ERROR
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
