"""The report as JSON lines of the Open Compute Project's Test & Validation specification, 2.0.

A test is a step; a unit is a hardwareInfo; each unit has a diagnosis in each step that says
something of it.  Written here and not through ``ocptv``: that stamps each line with the moment of
writing, through one writer of the whole process, and can write numbers that are no JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from sdc_guard.document.schema import Cell, Entry, Report, SensorSample, SweptUnit
from sdc_guard.document.sweeps import host_and_name
from sdc_guard.document.text import one_line, shortened, sound
from sdc_guard.document.verdicts import CLEAN
from sdc_guard.plain_json import plain
from sdc_guard.render.console import extent
from sdc_guard.render.metric import seconds_of
from sdc_guard.render.swept import case_of, power_of

VERSION = {"major": 2, "minor": 0}
TOOL_ID, TORCH_ID = "software-sdc-guard", "software-torch"
MAX_CHARS = 2000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNTOLD = frozenset({"SKIP", "not tested"})
_ERROR = "TOOL ERROR"


def ocp_jsonl(report: Report) -> str:
    """One artifact a line, in the order that they are numbered; times never run backwards.

    The run's result is FAIL where a test fails, PASS where something was checked and nothing else
    is open, else NOT_APPLICABLE with status ERROR (SKIP where nothing was there to test).
    """
    begun, ended = _moments(report)
    lines = []
    for number, (moment, artifact) in enumerate(_artifacts(report, begun, ended)):
        stamp = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        lines.append(json.dumps(
            _clean({**artifact, "sequenceNumber": number, "timestamp": stamp}), allow_nan=False,
            separators=(",", ":")))
    return "\n".join(lines) + "\n"


_Stamped = tuple[datetime, dict[str, Any]]


def _artifacts(report: Report, begun: datetime, ended: datetime) -> Iterator[_Stamped]:
    ids = _unit_ids(report)
    yield begun, {"schemaVersion": VERSION}
    yield begun, _run(testRunStart=_start(report, ids))
    step = 0
    if report.sweep is not None and report.sweep.samples:
        yield from _sensors(report.sweep.samples, ids, begun, ended)
        step = 1
    by_test: dict[str, list[Cell]] = {}
    for cell in report.cells:
        by_test.setdefault(cell.test, []).append(cell)
    steps = [_step(report, test, cells, ids) for test, cells in by_test.items()]
    tested = {(cell.unit, cell.test) for cell in report.cells}
    loose: dict[str, list[Entry]] = {}
    for entry in report.findings:
        if tested.isdisjoint(((entry.unit, entry.test), (entry.unit, entry.finding.op))):
            loose.setdefault(entry.finding.op, []).append(entry)
    steps += [_loose_step(op, entries, ids) for op, entries in loose.items()]
    for number, bodies in enumerate(steps, start=step):
        for body in bodies:
            yield ended, {"testStepArtifact": {"testStepId": str(number), **body}}
    for problem in (*report.problems, *(p for run in report.runs for p in run.problems)):
        yield ended, _run(log={"severity": "WARNING", "message": problem})
    status, result = _outcome(report)
    yield ended, _run(testRunEnd={"status": status, "result": result})


def _run(**body: Any) -> dict[str, Any]:
    return {"testRunArtifact": body}


def _start(report: Report, ids: dict[str, str]) -> dict[str, Any]:
    hosts = list(dict.fromkeys(run.host for run in report.runs if run.host))
    torches = list(dict.fromkeys(str(run.environment["torch"]) for run in report.runs
                                 if run.environment.get("torch")))
    name = ", ".join(hosts) or "unknown host"
    units = {unit.id: unit for unit in (report.sweep.units if report.sweep is not None else ())}
    software = [{"softwareInfoId": TOOL_ID, "name": "sdc-guard", "version": report.tool_version,
                 "softwareType": "APPLICATION"}]
    if torches:
        software.append({"softwareInfoId": TORCH_ID, "name": "torch",
                         "version": ", ".join(torches), "softwareType": "APPLICATION"})
    parameters: dict[str, Any] = {}
    if report.sweep is not None:
        parameters = {"seed": report.sweep.seed, "budget_s": report.sweep.budget_s}
    return {
        "name": "sdc-guard sweep" if report.sweep is not None else "sdc-guard",
        "version": report.tool_version,
        "commandLine": next((run.script for run in report.runs if run.script), report.title),
        "parameters": parameters,
        "dutInfo": {
            "dutInfoId": hosts[0] if len(hosts) == 1 else name, "name": name,
            "softwareInfos": software,
            "hardwareInfos": [_hardware(unit, id, units.get(unit)) for unit, id in ids.items()]}}


def _unit_ids(report: Report) -> dict[str, str]:
    """The hardwareInfoId of each unit, those first that the sweep describes."""
    known = [unit.id for unit in report.sweep.units] if report.sweep is not None else []
    names = dict.fromkeys((*known, *(cell.unit for cell in report.cells)))
    return {name: f"hardware-{number}" for number, name in enumerate(names)}


def _hardware(name: str, id: str, unit: SweptUnit | None) -> dict[str, str]:
    facts = unit.facts if unit is not None else {}
    found = {
        "hardwareInfoId": id, "name": unit.name if unit is not None else name,
        "manufacturerPartNumber": facts.get("model", ""),
        "version": facts.get("stepping", facts.get("capability", "")),
        "revision": facts.get("microcode", ""),
        "location": facts.get("pci", "") or ", ".join(
            f"{word} {facts[word]}" for word in ("socket", "core_id", "numa_node")
            if facts.get(word)),
        "serialNumber": facts.get("serial", "") or facts.get("uuid", ""),
        "computerSystem": facts.get("host", host_and_name(name)[0])}
    return {field: text for field, text in found.items() if text or field == "name"}


def _step(
    report: Report, test: str, cells: list[Cell], ids: dict[str, str]
) -> Iterator[dict[str, Any]]:
    yield {"testStepStart": {"name": test}}
    found: dict[str, list[Entry]] = {}
    for entry in report.findings:
        if test in (entry.test, entry.finding.op):
            found.setdefault(entry.unit, []).append(entry)
    for cell in cells:
        here = {"hardwareInfoId": ids[cell.unit]}
        for name, value, unit in (("checks", cell.checks, "elements"),
                                  ("bytes", cell.num_bytes, "B"), ("flops", cell.flops, "FLOP"),
                                  ("elapsed", cell.elapsed_s, "s")):
            if value:
                yield {"measurement": {"name": name, "value": _number(value), "unit": unit, **here}}
        entries = found.get(cell.unit, [])
        if cell.word == _ERROR:
            yield {"error": {"symptom": "tool-error", "softwareInfoIds": [TOOL_ID],
                             "message": f"{cell.unit}: {cell.reason or cell.word}"}}
        elif cell.word in _UNTOLD:
            yield {"log": {"severity": "INFO",
                           "message": f"{cell.word} on {cell.unit}: {cell.reason}"}}
        else:
            yield {"diagnosis": {
                "verdict": f"{test}-{cell.word}".lower().replace(" ", "-"),
                "type": _type(cell.verdict), "message": _message(cell, entries), **here}}
        for entry in entries:
            yield {"extension": {"name": "sdc-guard failure", "content": _failure(entry)}}
    words = {cell.word for cell in cells}
    status = "ERROR" if _ERROR in words else "SKIP" if words <= _UNTOLD else "COMPLETE"
    yield {"testStepEnd": {"status": status}}


def _loose_step(op: str, entries: list[Entry], ids: dict[str, str]) -> Iterator[dict[str, Any]]:
    """What was met outside a test of a unit: in training, or by an oracle of the hunt."""
    yield {"testStepStart": {"name": op}}
    for entry in entries:
        pattern = entry.finding.pattern
        where = f"{extent(pattern)}; " if pattern is not None else ""
        yield {"diagnosis": {
            "verdict": f"{op}-{entry.word}".lower().replace(" ", "-"),
            "type": _type(entry.verdict.value),
            "message": f"{entry.word}: {where}{entry.finding.evidence.replay_command}",
            **({"hardwareInfoId": ids[entry.unit]} if entry.unit in ids else {})}}
        yield {"extension": {"name": "sdc-guard failure", "content": _failure(entry)}}
    yield {"testStepEnd": {"status": "COMPLETE"}}


def _type(verdict: str) -> str:
    return {CLEAN: "PASS", "corruption": "FAIL"}.get(verdict, "UNKNOWN")


def _message(cell: Cell, entries: list[Entry]) -> str:
    """What is behind the verdict: the first failure, the reason, or what a pass could have seen."""
    if entries:
        first = entries[0]
        rate = f", wrong in {first.wrong} of {first.tried} repetitions" if first.tried else ""
        return (f"{cell.word}: {first.finding.op}, {extent(first.finding.pattern)}{rate}; "
                f"{first.finding.evidence.replay_command}")
    if cell.reason:
        return f"{cell.word}: {cell.reason}"
    return f"{cell.word}, by {power_of(cell.oracle)}" if cell.oracle else cell.word


def _failure(entry: Entry) -> dict[str, Any]:
    finding = entry.finding
    return {
        "id": entry.id, "code": entry.code, "word": entry.word, "unit": entry.unit,
        "op": finding.op, "case": case_of(entry), "wrong": entry.wrong or 0,
        "tried": entry.tried or 0, "facts": dict(entry.facts), "contrast": list(entry.contrast),
        "elements": [plain(element) for element in entry.elements],
        "replay": finding.evidence.replay_command}


def _sensors(
    samples: tuple[SensorSample, ...], ids: dict[str, str], begun: datetime, ended: datetime
) -> Iterator[_Stamped]:
    """A step with one series for each reading of each unit."""
    def step(**body: Any) -> dict[str, Any]:
        return {"testStepArtifact": {"testStepId": "0", **body}}

    yield begun, step(testStepStart={"name": "sensors"})
    series: dict[tuple[str, str], list[tuple[datetime, float]]] = {}
    for sample in samples:
        for name, value in sample.readings.items():
            series.setdefault((sample.unit, name), []).append(
                (_later(begun, sample.time_s, ended), value))
    for number, ((unit, name), values) in enumerate(series.items()):
        id = f"series-{number}"
        reading, _, of = name.rpartition(" ")
        yield begun, step(measurementSeriesStart={
            "measurementSeriesId": id, "name": reading or name, **({"unit": of} if reading else {}),
            **({"hardwareInfoId": ids[unit]} if unit in ids else {})})
        for index, (moment, value) in enumerate(values):
            yield begun, step(measurementSeriesElement={
                "measurementSeriesId": id, "index": index, "value": _number(value),
                "timestamp": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")})
        yield begun, step(measurementSeriesEnd={"measurementSeriesId": id,
                                                "totalCount": len(values)})
    yield begun, step(testStepEnd={"status": "COMPLETE"})


def _outcome(report: Report) -> tuple[str, str]:
    """The status and result, in the combinations that the specification allows."""
    verdicts = {cell.verdict for cell in report.cells} | {e.verdict.value for e in report.findings}
    if "corruption" in verdicts:
        return "COMPLETE", "FAIL"
    is_whole = all(run.is_complete for run in report.runs) and not (
        report.sweep is not None and report.sweep.is_partial)
    is_open = bool(verdicts - {CLEAN, "not tested"}) or any(
        cell.word in (_ERROR, "missing") for cell in report.cells)
    if not is_whole or is_open or report.problems:
        return "ERROR", "NOT_APPLICABLE"
    if not any(cell.checks for cell in report.cells) and not any(
            run.coverage is not None and run.coverage.calls_checked for run in report.runs):
        return "SKIP", "NOT_APPLICABLE"
    return "COMPLETE", "PASS"


def _moments(report: Report) -> tuple[datetime, datetime]:
    """When the first run began and the last ended; the epoch where nothing tells."""
    starts = [(seconds_of(run.start_utc), run.elapsed_s) for run in report.runs]
    known = [(start, elapsed) for start, elapsed in starts if start is not None]
    created = seconds_of(report.created_utc)
    begun = _EPOCH + timedelta(seconds=min((s for s, _ in known), default=created or 0.0))
    ends = [_later(_EPOCH + timedelta(seconds=start), elapsed) for start, elapsed in known]
    return begun, max([begun, *ends])


def _later(moment: datetime, seconds: float, latest: datetime | None = None) -> datetime:
    """``seconds`` later where that is a time at all, never before and not after ``latest``."""
    try:
        later = moment + timedelta(seconds=seconds)
    except (ValueError, OverflowError):
        return moment
    later = max(later, moment)
    return later if latest is None else min(later, max(latest, moment))


def _number(value: float) -> float | int | str:
    return value if math.isfinite(value) else repr(value)


def _clean(value: Any) -> Any:
    """Texts sound, on one line and of bounded length, and numbers that JSON can hold."""
    if isinstance(value, str):
        return shortened(one_line(sound(value)), MAX_CHARS)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return value
