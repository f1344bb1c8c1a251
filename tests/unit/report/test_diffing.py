"""Two runs compared: the first operator that diverges, what is gone, coverage and environment."""

from __future__ import annotations

import pytest

from sdc_guard.document.schema import Report
from sdc_guard.records import Verdict
from sdc_guard.report.diffing import difference, difference_text
from sdc_guard.report.entries import entry_of
from tests.made_reports import (
    ROOT,
    SHAPES,
    clean_report,
    empty_report,
    made_coverage,
    made_finding,
    made_report,
    made_run,
    truncated_report,
)


def with_ops(*calls: tuple[str, int, int]) -> Report:
    """Findings in these operators at these steps and calls."""
    return made_report(0, findings=tuple(
        entry_of(made_finding(op=op, step=step, call_index=index), tool="guard", run="run 0",
                 root=ROOT) for op, step, index in calls))


def test_the_first_divergent_operator_is_the_earliest_that_the_other_does_not_have() -> None:
    before = with_ops(("known", 1, 1), ("gone", 2, 2))
    after = with_ops(("late", 9, 1), ("first", 3, 7), ("second", 3, 8), ("known", 1, 1))
    diff = difference(before, after)
    assert diff.exit_code == 1
    assert diff.first is not None
    assert diff.first.finding.op == "first"
    assert {e.finding.op for e in diff.new} == {"late", "first", "second"}
    assert [e.finding.op for e in diff.gone] == ["gone"]
    assert [e.finding.op for e in diff.common] == ["known"]
    assert "first       first at step 3, call 7, rank 0" in difference_text(diff)


@pytest.mark.parametrize(("before", "after", "expected"), [
    (clean_report(), clean_report(), 0),
    (made_report(), made_report(), 0),
    (made_report(), clean_report(), 0),
    (clean_report(), made_report(), 1),
    (clean_report(), truncated_report(), 1),
    (truncated_report(), made_report(), 3),
    (clean_report(), empty_report(), 5),
    (empty_report(), made_report(), 1),
])
def test_the_exit_code(before: Report, after: Report, expected: int) -> None:
    assert difference(before, after).exit_code == expected


def test_coverage_and_environment_are_compared() -> None:
    environment = {**made_run().environment, "torch": "2.14.0", "threads": {"intra_op": 4}}
    coverage = made_coverage(ops=made_coverage().ops[:2])
    after = made_report(0, runs=(made_run(environment=environment, coverage=coverage),))
    diff = difference(clean_report(), after)
    assert [(c.op, c.calls_before, c.calls_after) for c in diff.coverage] == [
        ("aten.bernoulli_.float", 40, 0)]
    assert diff.environment == (
        "threads.inter_op: '1' in the first, not set in the second",
        "threads.intra_op: '2' in the first, '4' in the second",
        "torch: '2.13.0+cpu' in the first, '2.14.0' in the second")
    text = difference_text(diff)
    assert "environment torch: '2.13.0+cpu' in the first" in text
    assert "aten.bernoulli_.float: 0 of 40 calls checked in the first, 0 of 0" in text


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_that_a_terminal_acts_on_comes_through(shape: str) -> None:
    text = difference_text(difference(clean_report(), SHAPES[shape]()))
    assert all(c == "\n" or c.isprintable() for c in text)
    text.encode("utf-8")


def test_what_has_become_more_severe_is_new() -> None:
    mild, severe = (made_report(1, findings=(entry_of(
        made_finding(0, verdict=verdict), tool="guard", run="run 0", root=ROOT),))
        for verdict in (Verdict.PRECISION, Verdict.CORRUPTION))
    assert mild.findings[0].id == severe.findings[0].id
    worse = difference(mild, severe)
    assert (worse.exit_code, len(worse.new), len(worse.common)) == (1, 1, 0)
    assert worse.first == severe.findings[0]
    assert difference(severe, mild).exit_code == 0
