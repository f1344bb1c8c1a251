"""The document: it reads back as it was written, old and new versions too."""

from __future__ import annotations

import json

import jsonschema
import msgspec
import pytest

from sdc_guard.document.json_schema import json_schema
from sdc_guard.document.reading import read_document, write_document
from sdc_guard.document.verdicts import (
    ACTIONS,
    CLEAN,
    DEFAULT_POLICY,
    WORDS,
    parse_policy,
    verdict_of,
)
from sdc_guard.errors import UsageError
from sdc_guard.records import Verdict
from tests.made_reports import clean_report, empty_report, hostile_report, made_report

REPORTS = {"findings": made_report(), "clean": clean_report(), "empty": empty_report(),
           "hostile": hostile_report()}


@pytest.mark.parametrize("name", REPORTS)
def test_a_document_reads_back_and_keeps_to_its_schema(name: str) -> None:
    data = write_document(REPORTS[name])
    again = read_document(data)
    assert write_document(again) == data
    jsonschema.Draft202012Validator(json_schema()).validate(json.loads(data))


def test_the_schema_refuses_what_is_no_report() -> None:
    value = json.loads(write_document(made_report()))
    value["findings"][0]["finding"]["verdict"] = 7
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(json_schema()).validate(value)


def test_a_nan_keeps_its_bits() -> None:
    (entry,) = read_document(write_document(hostile_report())).findings
    assert entry.finding.worst is not None
    assert entry.finding.worst.got.bits == "0x7fc12345"


def test_a_document_of_a_later_minor_version_is_read() -> None:
    value = json.loads(write_document(made_report()))
    value["schema_version"] = "1.7"
    value["weather"] = {"cosmic rays": True}
    entry = value["findings"][0]
    entry["verdict"] = entry["finding"]["verdict"] = "meltdown"
    entry["finding"]["attribution"]["cause"] = "gremlins"
    report = read_document(json.dumps(value))
    assert report.findings[0].verdict is Verdict.INCONCLUSIVE
    assert report.findings[0].finding.verdict is Verdict.INCONCLUSIVE


def test_a_document_of_an_earlier_version_without_the_new_fields_is_read() -> None:
    value = json.loads(write_document(made_report()))
    for name in ("problems", "cut", "judgement", "cells"):
        del value[name]
    del value["findings"][0]["finding"]["spread"]
    assert read_document(json.dumps(value)).findings[0].finding.spread is None


def test_a_document_of_1_0_knows_no_sweep_and_is_read() -> None:
    value = json.loads(write_document(made_report()))
    value["schema_version"] = "1.0"
    del value["sweep"]
    for cell in value["cells"]:
        for name in ("family", "oracle", "elapsed_s", "num_bytes", "flops"):
            del cell[name]
    for entry in value["findings"]:
        for name in ("elements", "contrast", "facts"):
            del entry[name]
    report = read_document(json.dumps(value))
    assert report.sweep is None
    assert (report.cells[0].oracle, report.findings[0].elements) == ("", ())


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not JSON"), (b"[]", "schema_version"), (b"{}", "schema_version"),
        (b'{"schema_version": "2.0"}', "schema_version 2.0"),
        (b'{"schema_version": "1.0"}', "no valid report"), (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_what_is_no_report_is_refused_with_the_reason(data: bytes, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read_document(data, "x.json")


def test_every_word_of_every_tool_is_in_the_one_table() -> None:
    verdicts = {v.value for v in Verdict}
    for tool, words in WORDS.items():
        assert set(words.values()) <= verdicts | {CLEAN}, tool
    assert set(DEFAULT_POLICY) == verdicts
    assert set(DEFAULT_POLICY.values()) <= set(ACTIONS)


def test_a_word_that_is_not_known_is_never_clean() -> None:
    assert verdict_of("sweep", "FINE") == "inconclusive"
    assert verdict_of("sweep", "PASS") == CLEAN


def test_corruption_cannot_be_made_to_pass() -> None:
    with pytest.raises(UsageError, match="corruption always fails"):
        parse_policy({"corruption": "report"})
    assert parse_policy({"precision": "fail"})["precision"] == "fail"


def test_repeats_are_counted() -> None:
    report = made_report(2)
    first = report.findings[0]
    many = msgspec.structs.replace(first, finding=msgspec.structs.replace(first.finding, repeats=9))
    report = msgspec.structs.replace(report, findings=(many, report.findings[1]))
    assert report.num_by_verdict == {"corruption": 10}
