"""Logs, bundles and documents that are damaged or hostile: no traceback, and never clean."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sdc_guard.document.reading import read_document, write_document
from sdc_guard.document.schema import Judgement, Report
from sdc_guard.errors import UsageError
from sdc_guard.evidence.eventlog import EventLog
from sdc_guard.plain_json import MAX_INTEGER, dumps
from sdc_guard.records import Finding, Pattern
from sdc_guard.report.baseline import Baseline, updated
from sdc_guard.report.bundles import MAX_MEMBER_BYTES
from sdc_guard.report.gather import gather
from sdc_guard.report.judging import judge
from sdc_guard.report.outputs import FORMATS, rendered
from tests.made_reports import (
    ROOT,
    made_coverage,
    made_finding,
    made_report,
    made_run,
    sweep_report,
)


def write_log(folder: Path, *findings: Finding, rank: int = 0, **coverage: Any) -> Path:
    log = EventLog(folder, rank, environment=made_run().environment, seed=1)
    log.write("progress", step=1, loss=1.0, calls=2, calls_checked=2)
    for finding in findings:
        log.write("finding", finding=finding)
    log.write("summary", coverage=made_coverage(**coverage))
    log.close()
    assert log.path is not None
    return log.path


def judged(source: Path) -> tuple[Report, Judgement]:
    report = judge(gather([source], root=ROOT))
    assert report.judgement is not None
    return report, report.judgement


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize("levels", [100, 600, 900, 2000, 100_000])
def test_deep_nesting_costs_a_line(levels: int, tmp_path: Path) -> None:
    path = write_log(tmp_path, made_finding())
    with path.open("a") as file:
        file.write(f'{{"seq": 4, "kind": "note", "x": {nested(levels)}}}\n')
    report, judgement = judged(tmp_path)
    assert judgement.exit_code == 1
    assert any("not whole" in problem for problem in report.runs[0].problems)


@pytest.mark.parametrize("levels", [100, 900, 100_000])
def test_a_deeply_nested_document_is_refused(levels: int) -> None:
    with pytest.raises(UsageError, match="nested deeper than 64"):
        read_document(f'{{"schema_version": "1.0", "x": {nested(levels)}}}')


def test_a_number_beyond_all_formats_costs_a_line(tmp_path: Path) -> None:
    path = write_log(tmp_path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[1].replace('"step":1,', f'"step":{10**400},') + lines[2])
    report, judgement = judged(tmp_path)
    assert judgement.exit_code == 3
    for name in FORMATS:
        assert rendered(report, name)


def test_the_largest_integer_is_read(tmp_path: Path) -> None:
    EventLog(tmp_path, 0, seed=MAX_INTEGER).close()
    assert gather([tmp_path], root=ROOT).runs[0].seed == MAX_INTEGER


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_fleet_that_is_swept_for_days_fits_every_format(name: str) -> None:
    report = sweep_report()
    assert report.sweep is not None
    replace = msgspec.structs.replace
    flops = 2**64 + 12345
    cells = tuple(replace(cell, flops=flops) for cell in report.cells)
    large = replace(report, cells=cells, sweep=replace(report.sweep, flops=flops))
    assert rendered(judge(read_document(write_document(large), "a fleet")), name)


@pytest.mark.parametrize("name", ["pid", "rank", "seed"])
def test_a_boolean_is_no_number(name: str, tmp_path: Path) -> None:
    path = write_log(tmp_path)
    header, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(header), name: True}), *rest]) + "\n")
    report, _ = judged(tmp_path)
    assert read_document(write_document(report)) == report


def test_a_line_that_is_gone_is_missed(tmp_path: Path) -> None:
    path = write_log(tmp_path, made_finding(), made_finding(1))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2] + lines[4:]))
    report, judgement = judged(tmp_path)
    assert not report.findings
    assert judgement.exit_code == 3
    assert "2 events of the log, which numbers them, are not in it" in report.runs[0].problems


def test_a_lost_header_costs_no_finding(tmp_path: Path) -> None:
    path = write_log(tmp_path, made_finding())
    header, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(header[:40] + b"\0" * 40 + header[80:] + b"\n" + rest)
    report, judgement = judged(tmp_path)
    assert [entry.finding.op for entry in report.findings] == [made_finding().op]
    assert judgement.exit_code == 1
    assert not report.runs[0].is_complete


@pytest.mark.parametrize("length", [0, 1, 2])
def test_a_log_that_is_cut_anywhere_is_not_clean(length: int, tmp_path: Path) -> None:
    path = write_log(tmp_path)
    data = path.read_bytes()
    for end in range(length, len(data), 3):
        path.write_bytes(data[:end])
        assert judged(tmp_path)[1].exit_code in (3, 5), end
    path.write_bytes(data)
    assert judged(tmp_path)[1].exit_code == 0


@pytest.mark.parametrize("fields", [{"steps_unwatched": -450}, {"steps": -1}, {"ops": tuple(
    type(op)(**{**{name: getattr(op, name) for name in op.__struct_fields__},
                "calls_checked": op.calls + 1}) for op in made_coverage().ops)}])
def test_counts_that_contradict_themselves_pass_no_floor(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    write_log(tmp_path, **fields)
    report = judge(gather([tmp_path], root=ROOT), coverage_floor=50)
    assert report.judgement is not None
    assert report.judgement.exit_code == 3
    document = write_document(made_report(0, runs=(made_run(coverage=made_coverage(**fields)),)))
    with pytest.raises(UsageError, match="coverage has"):
        read_document(document)


def test_a_rank_behind_a_link_is_read(tmp_path: Path) -> None:
    write_log(tmp_path / "scratch", made_finding(), rank=1)
    write_log(tmp_path / "run")
    (tmp_path / "run" / "rank1").symlink_to(tmp_path / "scratch")
    (tmp_path / "run" / "again").symlink_to(tmp_path / "scratch")
    (tmp_path / "run" / "loop").symlink_to(tmp_path / "run")
    (tmp_path / "run" / "up").symlink_to(tmp_path)
    report, judgement = judged(tmp_path / "run")
    assert (len(report.runs), judgement.exit_code) == (2, 1)


@pytest.mark.parametrize("kind", ["dangling", "loop", "pipe"])
def test_a_log_that_is_no_file_costs_that_log(kind: str, tmp_path: Path) -> None:
    write_log(tmp_path, made_finding())
    other = tmp_path / "events.rank1.jsonl"
    if kind == "pipe":
        os.mkfifo(other)
    else:
        other.symlink_to(other if kind == "loop" else tmp_path / "nothing")
    report, judgement = judged(tmp_path)
    assert judgement.exit_code == 1
    assert any(str(other) in problem for problem in report.problems)


def test_a_folder_that_cannot_be_listed_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_log(tmp_path)
    (tmp_path / "rank1").mkdir()
    listed = Path.iterdir

    def refused(path: Path) -> Any:
        if path.name == "rank1":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refused)
    report, judgement = judged(tmp_path)
    assert judgement.exit_code == 3
    assert report.problems == (f"{tmp_path / 'rank1'} cannot be looked into: Permission denied",)


def test_a_name_that_no_file_can_have_does_not_exist() -> None:
    with pytest.raises(UsageError, match="does not exist"):
        gather([Path("x" * 5000)])


def write_bundle(path: Path, finding: Finding) -> bytes:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("finding.json", dumps(finding))
        archive.writestr("environment.json", dumps({"host": "a"}))
    return path.read_bytes()


def test_a_damaged_bundle_is_refused_and_costs_that_bundle(tmp_path: Path) -> None:
    good, bad = tmp_path / "a.sdcz", tmp_path / "b.sdcz"
    data = write_bundle(good, made_finding())
    for place in range(30, len(data), 17):
        bad.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1:])
        report, judgement = judged(tmp_path)
        assert judgement.exit_code == 1
        assert report.findings
    bad.write_bytes(data[:40])
    assert any("b.sdcz is no bundle" in problem for problem in judged(tmp_path)[0].problems)


def test_a_bundle_that_understates_its_size_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.sdcz"
    size = 8 * MAX_MEMBER_BYTES + 0x123456
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("finding.json", bytes(size))
    path.write_bytes(path.read_bytes().replace(size.to_bytes(4, "little"),
                                               (1000).to_bytes(4, "little")))
    largest = 0
    make = zlib.decompressobj

    class Watched:
        def __init__(self, *args: int) -> None:
            self._inner = make(*args)

        def decompress(self, data: bytes, max_length: int = 0) -> bytes:
            nonlocal largest
            unpacked = self._inner.decompress(data, max_length)
            largest = max(largest, len(unpacked))
            return unpacked

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    monkeypatch.setattr(zlib, "decompressobj", Watched)
    with pytest.raises(UsageError, match="is no bundle"):
        gather([path])
    assert 0 < largest <= MAX_MEMBER_BYTES + 1


@pytest.mark.parametrize("line", ["\u00b2", "9" * 5000, "-1", "\u0663"])
def test_a_line_that_is_no_number_leaves_the_finding(line: str, tmp_path: Path) -> None:
    write_bundle(tmp_path / "a.sdcz", made_finding(source=f"x.py:{line}"))
    (entry,) = gather([tmp_path / "a.sdcz"]).findings
    assert entry.location is None


def test_a_refusal_holds_nothing_that_a_terminal_acts_on() -> None:
    with pytest.raises(UsageError) as refused:
        read_document('{"schema_version": "9\\u001b[2J"}')
    assert "\x1b" not in str(refused.value)


def test_a_box_of_unequal_corners_is_shown(tmp_path: Path) -> None:
    box = Pattern(num_wrong=3, num_elements=9, first=(), box_low=(1, 2),
                  box_high=(3,), flat_stride=None)
    write_log(tmp_path, made_finding(pattern=box))
    report, _ = judged(tmp_path)
    for name in FORMATS:
        assert rendered(report, name)


def test_no_baseline_is_written_with_an_id_that_cannot_be_read_back() -> None:
    (entry,) = made_report(1).findings
    report = made_report(0, findings=(msgspec.structs.replace(entry, id="a|b"),))
    with pytest.raises(UsageError, match="is no fingerprint"):
        updated(Baseline(), report)


def test_a_project_behind_a_link_gives_the_same_fingerprints(tmp_path: Path) -> None:
    project, link = tmp_path / "data" / "project", tmp_path / "home"
    project.mkdir(parents=True)
    link.symlink_to(project)
    (project / "train.py").touch()
    ids = set()
    for number, folder in enumerate((project, link)):
        log = tmp_path / f"log{number}"
        write_log(log, made_finding(source=f"{folder}/train.py:3"))
        for root in (project, link):
            (entry,) = gather([log], root=root).findings
            assert entry.location is not None
            assert entry.location.file == "train.py"
            ids.add(entry.id)
    assert len(ids) == 1
    write_log(tmp_path / "odd", made_finding(source=f"{project}/a\0b.py:3"))
    assert gather([tmp_path / "odd"], root=project).findings
    write_log(tmp_path / "long", made_finding(source=f"/{'a' * 5000}.py:3"))
    assert gather([tmp_path / "long"], root=project).findings

@pytest.mark.parametrize("value", ["Infinity", "-1e999", '"x"', "null", "[]"])
def test_a_benchmarks_results_that_are_damaged_are_refused(value: str, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text('{"stamps": [], "clean": [], "cells": [{"kind": "transient", "workload": "", '
                    '"dtype": "", "device": "", "detector": "", "counts": {"a": {"firm": '
                    + value + '}}}]}')
    with pytest.raises(UsageError, match="is no result of"):
        gather([path])
