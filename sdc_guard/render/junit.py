"""JUnit XML (the xunit2 schema): one test case for each test on each unit, by junitparser."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from xml.etree import ElementTree

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from sdc_guard.document.divergences import KNOWN, Divergence, divergences
from sdc_guard.document.operators import packet_of
from sdc_guard.document.schema import Cell, Entry, Report
from sdc_guard.document.text import one_line, shortened, sound, xml_text
from sdc_guard.document.verdicts import CLEAN, DEFAULT_POLICY
from sdc_guard.render.described import coverage_line, divergence_text, gaps, state_words, title

MAX_SHOWN = 10
"""Divergences in full in one test case; the rest is counted."""
MAX_CASES = 5000
MAX_OUT_CHARS = 20_000
_WHOLE = "sdc-guard"


def junit_xml(report: Report) -> str:
    """The report for a CI's list of tests.

    Failed: a divergence that fails under the judgement.  Error: one that is inconclusive, and what
    makes the report itself so.  Skipped: not tested.  What is known to the baseline, or only shown
    by policy, passes, with its text in ``system-out``, so that the list agrees with the exit code.
    """
    root = JUnitXml("sdc-guard")
    found = divergences(report)
    frame = _Frame(report)
    root.add_testsuite(frame.suite(_WHOLE, _of_the_whole(report)))
    by_cell = _by_cell(report, found)
    units: dict[str, list[TestCase]] = {}
    for cell in report.cells:
        here = by_cell.get((cell.unit, cell.test), [])
        units.setdefault(cell.unit, []).append(_of_a_cell(cell, here, report))
    for unit, cases in units.items():
        root.append(frame.suite(f"{_WHOLE} {unit}", cases))
    named = _by_name(found, {cell.test for cell in report.cells})
    cases = [_case(name, "tests", items) for name, items in [*named.items()][:MAX_CASES]]
    rest = [d for items in [*named.values()][MAX_CASES:] for d in items]
    if rest:
        cases.append(_case(f"and {len(named) - MAX_CASES} more", "tests", rest))
    if cases:
        root.append(frame.suite(f"{_WHOLE} tests", cases))
    root.update_statistics()
    tree = ElementTree.fromstring(root.tostring())
    tree.attrib.pop("skipped", None)  # the schema knows it of a suite, not of the whole
    text = ElementTree.tostring(tree, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


class _Frame:
    """What every suite of a report says: made once, since a fleet has a suite for each unit."""

    def __init__(self, report: Report) -> None:
        self._properties = [(_safe(key), _safe(value)) for key, value in _properties(report)]
        self._timestamp = _safe(report.created_utc)
        hosts = {run.host for run in report.runs}
        self._hostname = _safe(hosts.pop()) if len(hosts) == 1 else "several hosts"
        self._is_first = True

    def suite(self, name: str, cases: Iterable[TestCase]) -> TestSuite:
        """The suite; the first one of a report carries its properties."""
        suite = TestSuite(_safe(name))
        for key, value in self._properties if self._is_first else ():
            suite.add_property(key, value)
        self._is_first = False
        suite.extend(cases)
        suite.timestamp, suite.hostname = self._timestamp, self._hostname
        return suite


def _properties(report: Report) -> Iterator[tuple[str, str]]:
    yield "title", report.title
    yield "sdc_guard", report.tool_version
    yield "coverage", coverage_line(report)
    for number, run in enumerate(report.runs[:50]):
        yield f"run {number}", run.id
        for key in ("torch", "python", "host"):
            if run.environment.get(key):
                yield f"run {number}: {key}", str(run.environment[key])
        yield f"run {number}: elapsed_s", f"{run.elapsed_s:.3f}"
    if report.judgement is not None:
        yield "exit_code", str(report.judgement.exit_code)
        yield "baseline", report.judgement.baseline


def _of_the_whole(report: Report) -> Iterator[TestCase]:
    """Whether the report can be relied on: what was tested, and that each run ended in order."""
    case = TestCase("something was tested", _WHOLE, 0.0)
    if not report.calls_checked and not any(cell.checks for cell in report.cells):
        case.result = [_result(Error, "nothing was tested", "not tested", coverage_line(report))]
    notes = gaps(report)
    if notes:
        case.system_out = _safe(shortened("\n".join(notes), MAX_OUT_CHARS))
    yield case
    judged = report.judgement
    if judged is not None and judged.coverage_floor is not None:
        case = TestCase(f"coverage is at least {judged.coverage_floor:g} %", _WHOLE, 0.0)
        share = report.call_percent
        if report.calls and share < judged.coverage_floor:
            case.result = [_result(Error, f"{share:.4g} % of the calls were checked",
                                   "inconclusive", coverage_line(report))]
        yield case
    for number, run in enumerate(report.runs):
        elapsed_s = run.elapsed_s if math.isfinite(run.elapsed_s) else 0.0
        case = TestCase(f"run {number} ended in order", _WHOLE,
                        round(min(max(elapsed_s, 0.0), 1e9), 3))
        if not run.is_complete:
            case.result = [_result(Error, "what the run checked is not known", "inconclusive",
                                   "\n".join((run.id, *run.problems)))]
        yield case
    for number, problem in enumerate(report.problems):
        case = TestCase(f"source {number} can be read", _WHOLE, 0.0)
        case.result = [_result(Error, problem, "inconclusive", problem)]
        yield case


def _by_cell(
    report: Report, found: Iterable[Divergence]
) -> dict[tuple[str, str], list[Divergence]]:
    """Divergences by unit and test: the process or the hardware, and the operator or the test."""
    processes = {run.id: run.process for run in report.runs}
    cells: dict[tuple[str, str], list[Divergence]] = {}
    for divergence in found:
        places = {(unit, test) for entry in divergence.entries
                  for unit in (entry.unit, processes.get(entry.run, entry.unit))
                  for test in (*_operators(entry), entry.test) if test}
        for place in places:
            cells.setdefault(place, []).append(divergence)
    return cells


def _operators(entry: Entry) -> tuple[str, str]:
    """Both names under which a cell may stand for the operator."""
    return entry.finding.op, packet_of(entry.finding.op)


def _of_a_cell(cell: Cell, found: list[Divergence], report: Report) -> TestCase:
    if cell.verdict == CLEAN or (found and cell.verdict != "not tested"):
        return _case(cell.test, cell.unit, found)
    case = TestCase(_safe(cell.test), _safe(cell.unit), 0.0)
    text = cell.reason or cell.word
    policy = report.judgement.policy if report.judgement is not None else DEFAULT_POLICY
    action = policy.get(cell.verdict, "inconclusive")
    if cell.verdict == "not tested":
        case.result = [_result(Skipped, text, "not tested", text)]
    elif action == "report":
        case.system_out = _safe(f"{cell.verdict}: {text}")
    else:
        kind = Failure if action == "fail" else Error
        case.result = [_result(kind, f"{cell.verdict}: {text}", cell.verdict, text)]
    return case


def _by_name(found: Iterable[Divergence], celled: set[str]) -> dict[str, list[Divergence]]:
    """Divergences by the test that met them, and those of no test and no cell by operator."""
    names: dict[str, list[Divergence]] = {}
    for divergence in found:
        for name in dict.fromkeys(entry.test or entry.finding.op for entry in divergence.entries
                                  if entry.test or not celled.intersection(_operators(entry))):
            names.setdefault(name, []).append(divergence)
    return names


def _case(name: str, group: str, found: list[Divergence]) -> TestCase:
    """A test case that holds these divergences, of which the worst decides."""
    case = TestCase(_safe(name), _safe(group), 0.0)
    kind, word = None, ""
    for action, result in (("fail", Failure), ("inconclusive", Error)):
        failing = [d for d in found if d.action == action]
        if failing:
            kind, word = result, action
            break
    text = "\n\n".join(f"{_heading(d)}\n{divergence_text(d)}" for d in found[:MAX_SHOWN])
    if len(found) > MAX_SHOWN:
        text += f"\n\nand {len(found) - MAX_SHOWN} more divergences"
    if kind is not None:
        lead = next(d for d in found if d.action == word)
        case.result = [_result(kind, title(lead), f"{lead.lead.code} {lead.verdict.value}", text)]
    elif found:
        case.system_out = _safe(text)
    return case


def _heading(divergence: Divergence) -> str:
    known = ", which does not fail" if divergence.state == KNOWN else ""
    return f"{state_words(divergence)}{known}"


def _result(
    kind: type[Failure] | type[Error] | type[Skipped], message: str, word: str, text: str
) -> Failure | Error | Skipped:
    result = kind(_safe(one_line(shortened(message, 500))) or "-", _safe(word))
    result.text = _safe(text)
    return result


def _safe(text: str) -> str:
    return xml_text(sound(text))
