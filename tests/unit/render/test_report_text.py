"""The report on a terminal: short, with the exit code's reasons and what was not tested."""

from __future__ import annotations

import pytest

from sdc_guard.render.report_text import report_text
from sdc_guard.report.judging import judge
from tests.made_reports import SHAPES, clean_report, empty_report, made_report, many_report


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_that_a_terminal_acts_on_comes_through(shape: str) -> None:
    for report in (SHAPES[shape](), judge(SHAPES[shape]())):
        text = report_text(report)
        assert all(c == "\n" or c.isprintable() for c in text)
        text.encode("utf-8")
        assert len(text.splitlines()) < 120


def test_a_finding_is_told_with_its_reason_and_the_rest_with_what_was_not_tested() -> None:
    text = report_text(judge(made_report()))
    for part in ("exit code 1, divergence", "new 1 (1 corruption)", "CORRUPTION in aten.sum",
                 "sdc-guard replay", "518 of 560 calls checked",
                 "not tested  aten.bernoulli_.float: 40 calls (random draw 40)",
                 "note        gap: what forked processes"):
        assert part in text


def test_clean_and_untested_are_different_words() -> None:
    assert "no divergence in what was checked" in report_text(judge(clean_report()))
    text = report_text(judge(empty_report()))
    assert "no divergence in what was checked" not in text
    assert "exit code 5, nothing tested" in text


def test_many_findings_are_counted() -> None:
    assert "30 more divergences" in report_text(judge(many_report(40)))
