"""OCP Test & Validation: the specification's own schema and OCP's own library take each line."""

from __future__ import annotations

import dataclasses
import json
import typing
from typing import Any

import jsonschema
import msgspec
import ocptv.output.objects as objects
import pytest
import referencing

from sdc_guard.document.schema import Report
from sdc_guard.render.ocp import ocp_jsonl
from sdc_guard.report.judging import judge
from tests.made_reports import SHAPES, clean_report, empty_report, made_report, sweep_report
from tests.meta.tree import ROOT as REPOSITORY

SCHEMAS = REPOSITORY / "build" / "schemas" / "ocp"
BASE = "https://github.com/opencomputeproject/ocp-diag-core/"


def lines(report: Report) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ocp_jsonl(report).splitlines()]


def of_kind(report: Report, kind: str) -> list[Any]:
    return [body[kind] for line in lines(report) for body in line.values()
            if isinstance(body, dict) and kind in body]


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    """The schema that the specification comes with.  It is fetched, not kept here."""
    if not SCHEMAS.is_dir():
        pytest.skip("no schema of OCP's lines; `make build/schemas/ocp` gets it")
    schemas = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(SCHEMAS.glob("*.json"))]
    registry: referencing.Registry[Any] = referencing.Registry().with_resources(
        (schema["$id"], referencing.Resource.from_contents(schema)) for schema in schemas)
    root = next(schema for schema in schemas if schema["$id"] == f"{BASE}output")
    return jsonschema.Draft202012Validator(
        root, registry=registry, format_checker=jsonschema.FormatChecker())


@pytest.mark.parametrize("shape", SHAPES)
def test_each_line_keeps_to_the_specifications_schema(
    shape: str, validator: jsonschema.Draft202012Validator
) -> None:
    for line in lines(judge(SHAPES[shape]())):
        validator.validate(line)


def test_the_schema_refuses_what_is_no_artifact(
    validator: jsonschema.Draft202012Validator
) -> None:
    line = lines(sweep_report())[1]
    line["testRunArtifact"]["testRunStart"].pop("dutInfo")
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(line)


def by_ocptv(value: Any, kind: Any) -> Any:
    """The value as an object of OCP's own library, which checks the types of its fields.

    Raises:
        AssertionError: for a field that the library does not know.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Union:
        choices = [a for a in arguments if a is not type(None)]
        if len(choices) == 1:
            return by_ocptv(value, choices[0])
        return value
    if origin is list:
        return [by_ocptv(item, arguments[0]) for item in value]
    if isinstance(kind, type) and issubclass(kind, objects.Enum):
        return kind(value)
    if not dataclasses.is_dataclass(kind):
        return value
    hints = typing.get_type_hints(kind)
    left = dict(value)
    made = {}
    for field in dataclasses.fields(kind):
        name = field.metadata.get("spec_field")
        if name == "timestamp":
            left.pop(name)
            made[field.name] = 0.0
        elif name is not None and name in left:
            made[field.name] = by_ocptv(left.pop(name), hints[field.name])
        elif name is None:
            for choice in typing.get_args(hints[field.name]) or (hints[field.name],):
                spec_object = getattr(choice, "SPEC_OBJECT", None)
                if spec_object in left:
                    made[field.name] = by_ocptv(left.pop(spec_object), choice)
    assert left == {}
    absent: dict[str, Any] = {n: None for n, h in hints.items() if type(None) in typing.get_args(h)}
    absent |= {n: [] for n, h in hints.items() if typing.get_origin(h) is list}
    return kind(**{**absent, **made})


HARDWARE_IDS = {"hardwareInfoId", "softwareInfoIds"}


def without_references(value: Any) -> Any:
    """Without the fields that the library holds as references to its objects."""
    if isinstance(value, dict):
        is_info = "name" in value and ("computerSystem" in value or "softwareType" in value)
        return {k: without_references(v) for k, v in value.items()
                if is_info or k not in HARDWARE_IDS}
    return [without_references(v) for v in value] if isinstance(value, list) else value


def test_ocps_library_has_every_field_that_is_written() -> None:
    for line in lines(sweep_report()):
        by_ocptv(without_references(line), objects.Root)


def test_a_field_that_ocp_does_not_know_is_seen() -> None:
    line = lines(sweep_report())[0]
    with pytest.raises(AssertionError):
        by_ocptv({**line, "schemaVersion": {**line["schemaVersion"], "patch": 1}}, objects.Root)


@pytest.mark.parametrize("shape", SHAPES)
def test_lines_are_numbered_steps_are_closed_and_names_resolve(shape: str) -> None:
    found = lines(judge(SHAPES[shape]()))
    assert [line["sequenceNumber"] for line in found] == list(range(len(found)))
    times = [line["timestamp"] for line in found]
    assert times == sorted(times)
    assert "schemaVersion" in found[0]
    assert "testRunStart" in found[1]["testRunArtifact"]
    assert "testRunEnd" in found[-1]["testRunArtifact"]
    ids = {info["hardwareInfoId"] for info in
           found[1]["testRunArtifact"]["testRunStart"]["dutInfo"]["hardwareInfos"]}
    is_open = None
    for line in found[2:]:
        step = line.get("testStepArtifact")
        if step is None:
            continue
        if "testStepStart" in step:
            assert is_open is None
            is_open = step["testStepId"]
        assert step["testStepId"] == is_open
        if "testStepEnd" in step:
            is_open = None
        for body in step.values():
            if isinstance(body, dict) and "hardwareInfoId" in body:
                assert body["hardwareInfoId"] in ids
    assert is_open is None


def test_a_failure_blames_its_unit_and_no_other() -> None:
    report = sweep_report()
    (start,) = of_kind(report, "testRunStart")
    names = {i["hardwareInfoId"]: i["name"] for i in start["dutInfo"]["hardwareInfos"]}
    found = {(names[d["hardwareInfoId"]], d["verdict"]): d["type"]
             for d in of_kind(report, "diagnosis")}
    assert [key for key, word in found.items() if word == "FAIL"] == [
        ("core 1", "exact_product-fail")]
    assert found["core 2", "high_entropy_repeat-suspect"] == "UNKNOWN"
    assert found["core 0", "exact_product-pass"] == "PASS"
    assert found["core 0", "golden_digest-invalid"] == "UNKNOWN"
    assert of_kind(report, "testRunEnd") == [{"status": "COMPLETE", "result": "FAIL"}]
    (error,) = of_kind(report, "error")
    assert error["softwareInfoIds"] == ["software-sdc-guard"]
    failure = of_kind(report, "extension")[0]["content"]
    assert failure["elements"][0]["xor"] == "0x00400000"
    assert start["parameters"] == {"seed": 7, "budget_s": 120.0}


def test_findings_outside_a_test_of_a_unit_are_told() -> None:
    report = made_report(2)
    bodies = of_kind(report, "extension")
    assert {body["content"]["id"] for body in bodies} == {e.id for e in report.findings}
    assert "FAIL" in {d["type"] for d in of_kind(report, "diagnosis")}
    assert of_kind(clean_report(), "testRunEnd") == [{"status": "COMPLETE", "result": "PASS"}]
    assert of_kind(empty_report(), "testRunEnd")[0]["result"] == "NOT_APPLICABLE"


def test_sensors_are_series() -> None:
    starts = of_kind(sweep_report(), "measurementSeriesStart")
    assert {(s["name"], s["unit"]) for s in starts} == {("temperature", "C"), ("clock", "MHz")}
    assert {e["totalCount"] for e in of_kind(sweep_report(), "measurementSeriesEnd")} == {12}


def test_what_was_not_decided_is_no_pass() -> None:
    report = sweep_report()
    good = tuple(c for c in report.cells if c.word == "PASS")
    replace = msgspec.structs.replace
    end = {"PASS": replace(report, cells=good, findings=())}
    end["SUSPECT"] = replace(end["PASS"], findings=report.findings[1:])
    end["TOOL ERROR"] = replace(end["PASS"], cells=(*good, *(
        c for c in report.cells if c.word == "TOOL ERROR")))
    assert report.sweep is not None
    end["partial"] = replace(end["PASS"], sweep=replace(report.sweep, is_partial=True))
    end["nothing"] = replace(end["PASS"], cells=())
    results = {name: tuple(of_kind(r, "testRunEnd")[0].values()) for name, r in end.items()}
    assert results == {
        "PASS": ("COMPLETE", "PASS"), "SUSPECT": ("ERROR", "NOT_APPLICABLE"),
        "TOOL ERROR": ("ERROR", "NOT_APPLICABLE"), "partial": ("ERROR", "NOT_APPLICABLE"),
        "nothing": ("SKIP", "NOT_APPLICABLE")}
    assert of_kind(clean_report(), "testRunEnd") == [{"status": "COMPLETE", "result": "PASS"}]
    assert of_kind(empty_report(), "testRunEnd") == [
        {"status": "ERROR", "result": "NOT_APPLICABLE"}]
