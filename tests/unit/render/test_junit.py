"""JUnit: the xunit2 schema accepts every report, and the tests agree with the exit code."""

from __future__ import annotations

import os
from xml.etree import ElementTree

import junitparser
import pytest
from lxml import etree

from sdc_guard.document.schema import Cell, Report
from sdc_guard.render import junit
from sdc_guard.render.junit import junit_xml
from sdc_guard.report.baseline import Baseline, updated
from sdc_guard.report.judging import judge
from tests.made_reports import (
    HOSTILE,
    SHAPES,
    clean_report,
    made_report,
    many_report,
    truncated_report,
)
from tests.meta.tree import ROOT as REPOSITORY

XSD = REPOSITORY / "build" / "schemas" / "junit-10.xsd"


@pytest.fixture(scope="module")
def xsd() -> etree.XMLSchema:
    """The schema of pytest's own tests.  It is fetched, not kept here; CI may not go without."""
    if not XSD.exists():
        reason = "no schema of JUnit's files; `make build/schemas/junit-10.xsd` gets it"
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(reason)
        pytest.skip(reason)
    return etree.XMLSchema(etree.parse(XSD))


def cases(report: Report) -> dict[str, list[str]]:
    """Names of the test cases by what they say."""
    found: dict[str, list[str]] = {"failure": [], "error": [], "skipped": [], "passed": []}
    for case in ElementTree.fromstring(junit_xml(report)).iter("testcase"):
        kinds = [child.tag for child in case if child.tag != "system-out"] or ["passed"]
        for kind in kinds:
            found[kind].append(case.attrib["name"])
    return found


@pytest.mark.parametrize("is_judged", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_schema_accepts_it(shape: str, is_judged: bool, xsd: etree.XMLSchema) -> None:
    report = SHAPES[shape]()
    text = junit_xml(judge(report, coverage_floor=99) if is_judged else report)
    xsd.assertValid(etree.fromstring(text.encode()))
    assert len(list(junitparser.JUnitXml.fromstring(text.encode()))) >= 1


def test_the_schema_refuses_what_is_no_junit(xsd: etree.XMLSchema) -> None:
    text = junit_xml(made_report()).replace("<testcase name", "<testcase nom", 1)
    with pytest.raises(etree.DocumentInvalid):
        xsd.assertValid(etree.fromstring(text.encode()))


def test_divergences_beyond_the_limit_are_one_failing_case(
    xsd: etree.XMLSchema, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(junit, "MAX_CASES", 50)
    report = judge(many_report(150))
    xsd.assertValid(etree.fromstring(junit_xml(report).encode()))
    failing = cases(report)["failure"]
    assert len(failing) == 51
    assert failing[-1] == "and 100 more"


def test_a_finding_is_a_failure_with_its_text_and_clean_and_untested_operators_stand_beside() -> (
    None
):
    report = judge(made_report())
    found = cases(report)
    assert found["failure"] == ["aten.sum.dim_IntList"]
    assert found["skipped"] == ["aten.bernoulli_.float"]
    assert "aten.mm.default" in found["passed"]
    assert not found["error"]
    (failure,) = ElementTree.fromstring(junit_xml(report)).iter("failure")
    assert failure.attrib["type"] == "SDC102 corruption"
    for part in ("sdc-guard replay", "0x41c80000", "3 findings", report.findings[0].id):
        assert part in (failure.text or "")


def test_what_a_baseline_knows_passes_and_is_told() -> None:
    report = made_report()
    baseline, _, _ = updated(Baseline(), report)
    judged = judge(report, baseline=baseline)
    assert not cases(judged)["failure"]
    outs = [out.text or "" for out in ElementTree.fromstring(junit_xml(judged)).iter("system-out")]
    assert any("known to the baseline" in out for out in outs)
    assert cases(judge(report, baseline=baseline, fail_on=("any",)))["failure"]


def test_a_run_that_was_killed_and_a_floor_that_is_missed_are_errors() -> None:
    assert cases(judge(truncated_report()))["error"] == ["something was tested",
                                                         "run 0 ended in order"]
    missed = cases(judge(clean_report(), coverage_floor=99))
    assert missed["error"] == ["coverage is at least 99 %"]
    assert not cases(judge(clean_report(), coverage_floor=90))["error"]


def test_a_report_of_nothing_is_no_green_list() -> None:
    assert "something was tested" in cases(judge(SHAPES["empty"]()))["error"]


def test_a_test_that_diverged_without_a_finding_fails_too() -> None:
    cell = Cell(unit="core 3", test="mm-exact", word="FAIL", verdict="corruption", checks=9)
    report = clean_report()
    report = made_report(0, runs=report.runs, cells=(cell,))
    assert cases(judge(report))["failure"] == ["mm-exact"]


def test_characters_that_xml_cannot_hold_are_shown() -> None:
    text = junit_xml(judge(SHAPES["hostile"]()))
    assert "\x00" not in text
    assert "\x1b" not in text
    assert "\\x00" in text
    names = [c.attrib["name"] for c in ElementTree.fromstring(text).iter("testcase")]
    assert any(HOSTILE[:20] in name for name in names)


def test_equal_reports_give_equal_text() -> None:
    assert junit_xml(judge(made_report())) == junit_xml(judge(made_report()))


def test_a_floor_that_no_call_was_held_against_is_no_error_in_the_list() -> None:
    report = made_report(0, runs=())
    judged = judge(report, coverage_floor=50)
    assert judged.judgement is not None
    assert judged.judgement.exit_code == 0
    assert not cases(judged)["error"]
