"""Gathering: what a run has left on disk, whole or torn, becomes one document."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sdc_guard.document.operators import packet_of
from sdc_guard.document.reading import read_document, write_document
from sdc_guard.document.schema import Report
from sdc_guard.errors import UsageError
from sdc_guard.evidence.eventlog import EventLog
from sdc_guard.plain_json import dumps
from sdc_guard.records import Evidence, Finding, Verdict
from sdc_guard.report.baseline import Baseline, updated
from sdc_guard.report.gather import MAX_ENTRIES_PER_KIND, gather
from sdc_guard.report.judging import judge
from tests.made_reports import (
    NAN,
    ROOT,
    made_coverage,
    made_finding,
    made_report,
    made_run,
    sweep_report,
)


def write_run(
    folder: Path, *findings: Finding, rank: int = 0, ends: bool = True, **fields: Any
) -> Path:
    """A log as a guard writes it; one that does not end has no summary."""
    log = EventLog(folder, rank, seed=3, environment=made_run().environment, **fields)
    for i, finding in enumerate(findings):
        log.write("progress", step=i, loss=4.0 - i, calls=10 * i, calls_checked=9 * i,
                  overhead_s=0.01, findings=i)
        log.write("finding", finding=finding)
    if ends:
        log.write("summary", coverage=made_coverage())
    log.close()
    assert log.path is not None
    return log.path


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def gathered(*sources: Path) -> Report:
    return gather(list(sources), root=ROOT)


def test_a_run_and_its_findings(tmp_path: Path) -> None:
    write_run(tmp_path, made_finding(0), made_finding(1, verdict=Verdict.PRECISION))
    report = gathered(tmp_path)
    (run,) = report.runs
    assert (run.is_complete, run.seed, run.host, run.steps) == (True, 3, "node-7", 50)
    assert run.coverage == made_coverage()
    assert [point.step for point in run.timeline] == [0, 1]
    first, second = report.findings
    assert first.finding == made_finding(0)
    assert (first.location.file, first.location.line) == ("train/model.py", 57) if (
        first.location) else False
    assert (first.code, second.code) == ("SDC102", "SDC202")
    assert first.run == second.run == run.id
    assert (first.wrong, first.tried) == (2, 2)
    assert {c.test: c.verdict for c in report.cells} == {
        "aten.mm.default": "clean", "aten.sum.dim_IntList": "corruption",
        "aten.bernoulli_.float": "not tested"}
    assert report.problems == ()


@pytest.mark.parametrize(("op", "packet"), [
    ("aten.sum.dim_IntList", "aten.sum"), ("aten.relu_.default", "aten.relu"),
    ("aten.__and__.Tensor", "aten.__and__"), ("triton kernel a", "triton kernel a")])
def test_a_finding_in_an_overload_stands_in_the_cell_that_coverage_counts(
    op: str, packet: str, tmp_path: Path
) -> None:
    assert packet_of(op) == packet
    (row, *_) = made_coverage().ops
    fields = {name: getattr(row, name) for name in row.__struct_fields__}
    log = EventLog(tmp_path, 0, environment=made_run().environment)
    log.write("finding", finding=made_finding(op=op))
    log.write("summary", coverage=made_coverage(ops=(type(row)(**{**fields, "op": packet}),)))
    log.close()
    report = gathered(tmp_path)
    (cell,) = report.cells
    assert (cell.test, cell.verdict, cell.checks) == (packet, "corruption", 400)
    baseline, _, _ = updated(Baseline(), report)
    shutil.rmtree(tmp_path)
    log = EventLog(tmp_path, 0, environment=made_run().environment)
    log.write("summary", coverage=made_coverage(ops=(type(row)(**{**fields, "op": packet}),)))
    log.close()
    judged = judge(gathered(tmp_path), baseline=baseline).judgement
    assert judged is not None
    assert [k.op for k in judged.fixed] == [op]


def test_a_killed_run_is_not_complete_and_keeps_what_it_wrote(tmp_path: Path) -> None:
    write_run(tmp_path, made_finding(0), made_finding(1), ends=False)
    (run,) = gathered(tmp_path).runs
    assert (run.is_complete, run.coverage, run.steps) == (False, None, 1)
    assert any("did not end in order" in problem for problem in run.problems)
    assert len(gathered(tmp_path).findings) == 2


@pytest.mark.parametrize("ends", [True, False])
def test_a_torn_line_costs_that_line_and_the_log_is_not_whole(tmp_path: Path, ends: bool) -> None:
    path = write_run(tmp_path, made_finding(0), ends=ends)
    append(path, b'{"kind": "finding", "finding": {"verd')
    report = gathered(tmp_path)
    assert len(report.findings) == 1
    assert not report.runs[0].is_complete
    assert any("is not whole" in problem for problem in report.runs[0].problems)


def test_a_finding_that_was_damaged_keeps_a_report_from_being_clean(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    assert judge(gathered(tmp_path)).judgement.exit_code == 0  # type: ignore[union-attr]
    append(path, b'{"kind": "finding", "finding": {"verdict": 3}}\n')
    judged = judge(gathered(tmp_path)).judgement
    assert judged is not None
    assert judged.exit_code == 3


def test_a_full_log_is_not_whole(tmp_path: Path) -> None:
    write_run(tmp_path, *(made_finding(i) for i in range(60)), max_bytes=100_000)
    (run,) = gathered(tmp_path).runs
    assert run.coverage is not None
    assert not run.is_complete
    assert any("events were not written: the log was full" in p for p in run.problems)


def test_two_runs_in_one_file_and_two_ranks_are_kept_apart(tmp_path: Path) -> None:
    path = write_run(tmp_path, made_finding(0), ends=False)
    append(path, b'{"kind": "progress", "st')
    write_run(tmp_path, made_finding(1))
    write_run(tmp_path, rank=1)
    report = gathered(tmp_path)
    assert [(run.rank, run.is_complete) for run in report.runs] == [(0, False), (0, True),
                                                                    (1, True)]
    assert len({run.id for run in report.runs}) == 3
    assert [entry.run for entry in report.findings] == [report.runs[0].id, report.runs[1].id]


def test_a_source_that_is_named_twice_counts_once(tmp_path: Path) -> None:
    path = write_run(tmp_path, made_finding(0), made_finding(1))
    once, twice = gathered(tmp_path), gathered(tmp_path, path, tmp_path)
    assert len(twice.runs) == 1
    assert twice.findings == once.findings
    assert twice.calls == once.calls


def test_findings_of_one_kind_are_bounded_and_counted(tmp_path: Path) -> None:
    num = MAX_ENTRIES_PER_KIND + 30
    write_run(tmp_path, *(made_finding(i) for i in range(num)))
    report = gathered(tmp_path)
    assert len(report.findings) == MAX_ENTRIES_PER_KIND
    assert sum(entry.finding.repeats for entry in report.findings) == num
    assert report.cut == {"findings that are counted and not shown": 30}


def test_a_script_is_told_relative_to_the_root(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    events = path.read_text(encoding="utf-8").splitlines()
    header = {**json.loads(events[0]), "cwd": f"{ROOT}/train", "script": "main.py"}
    path.write_text("\n".join([json.dumps(header), *events[1:]]) + "\n", encoding="utf-8")
    assert gathered(tmp_path).runs[0].script == "train/main.py"


def write_bundle(path: Path, finding: Finding, environment: object) -> Path:
    """The two members of a bundle that a report reads."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("finding.json", dumps(finding))
        archive.writestr("environment.json", dumps(environment))
    return path


def test_a_bundle_alone_is_a_finding_of_a_run_that_is_not_known(tmp_path: Path) -> None:
    finding = made_finding(0, evidence=Evidence(bundle="elsewhere.sdcz", note="",
                                                replay_command=""))
    path = write_bundle(tmp_path / "a.sdcz", finding, {"host": "h", "torch": "2.13.0"})
    for source in (path, tmp_path):
        report = gathered(source)
        (entry,) = report.findings
        assert (entry.finding.evidence.bundle, entry.unit) == (str(path), "h/cpu")
        assert not report.runs[0].is_complete
        assert judge(report).judgement.exit_code == 1  # type: ignore[union-attr]


def test_a_document_is_read_again_and_joined_with_a_run(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_bytes(write_document(made_report()))
    write_run(tmp_path / "run", made_finding(0))
    alone = gathered(tmp_path / "old.json")
    assert (alone.findings, alone.runs, alone.cells) == (
        made_report().findings, made_report().runs, made_report().cells)
    both = gathered(tmp_path / "old.json", tmp_path / "run")
    assert (len(both.runs), len(both.findings)) == (2, 4)
    assert len({entry.id for entry in both.findings}) == 1
    assert read_document(write_document(both)) == both


def test_a_path_that_is_not_utf8_and_a_nan_come_through(tmp_path: Path) -> None:
    finding = made_finding(0, source="/project/m\udc80.py:3")
    assert finding.worst is not None
    fields = {name: getattr(finding.worst, name) for name in finding.worst.__struct_fields__}
    worst = type(finding.worst)(**{**fields, "got": NAN, "error_ulps": float("nan")})
    write_run(tmp_path, made_finding(0, source="/project/m\udc80.py:3", worst=worst))
    (entry,) = gathered(tmp_path).findings
    assert entry.location is not None
    assert entry.location.file == "m\\udc80.py"
    assert entry.finding.worst is not None
    assert entry.finding.worst.got.bits == NAN.bits


def test_a_log_without_a_header_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "events.rank0.jsonl").write_text('rubbish\n\x00\n')
    report = gathered(tmp_path)
    assert not report.runs
    assert report.problems
    assert judge(report).judgement.exit_code == 5  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "data", "message"), [
    ("gone", None, "gone does not exist"),
    ("a.sdcz", b"no zip", "is no bundle that can be read"),
    ("a.json", b"{}", "is no sdc_guard report"),
    ("a.json", b"\xff", "is not JSON"),
    ("a.json", b'{"schema_version": "99.0"}', "use the version that wrote it"),
])
def test_what_cannot_be_gathered_is_said_with_its_name(
    name: str, data: bytes | None, message: str, tmp_path: Path
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError, match=message):
        gathered(tmp_path / name)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no event log"):
        gathered(tmp_path)


def test_a_sweeps_document_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "sweep.json"
    path.write_bytes(write_document(sweep_report()))
    report = gather([path], root=tmp_path)
    assert report.sweep == sweep_report().sweep
    assert report.cells == sweep_report().cells
    assert report.findings[0].elements == sweep_report().findings[0].elements


def test_sweeps_of_two_hosts_are_one_and_the_same_one_twice_is_not_counted_twice(
    tmp_path: Path,
) -> None:
    one = sweep_report()
    assert one.sweep is not None
    replace = msgspec.structs.replace
    other = replace(
        one, runs=(replace(one.runs[0], id="sweep node-8", host="node-8"),), findings=(),
        cells=tuple(replace(c, unit=c.unit.replace("7", "8")) for c in one.cells),
        sweep=replace(one.sweep, samples=(), units=tuple(
            replace(u, id=u.id.replace("7", "8")) for u in one.sweep.units)))
    for name, report in (("a.json", one), ("b.json", other), ("again.json", one)):
        (tmp_path / name).write_bytes(write_document(report))
    both = gather([tmp_path / "a.json", tmp_path / "b.json", tmp_path / "again.json"],
                  root=tmp_path)
    assert both.sweep is not None
    assert len(both.sweep.units) == 10
    assert both.sweep.checks == 2 * one.sweep.checks
    assert len(both.cells) == 2 * len(one.cells)
