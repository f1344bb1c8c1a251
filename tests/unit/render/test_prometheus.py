"""Metrics: Prometheus' own reader takes them, with dcgm-exporter's names of labels."""

from __future__ import annotations

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sdc_guard.document.schema import Report
from sdc_guard.render.prometheus import prometheus_text
from sdc_guard.report.entries import entry_of
from sdc_guard.report.judging import judge
from tests.made_reports import (
    HOSTILE,
    ROOT,
    SHAPES,
    made_finding,
    made_report,
    made_run,
    made_tensor,
)

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def series(report: Report) -> Series:
    found: Series = {}
    for family in text_string_to_metric_families(prometheus_text(report)):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, "a series occurs once"
            found[key] = sample.value
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_the_reader_takes_it(shape: str) -> None:
    found = series(judge(SHAPES[shape]()))
    assert ("sdc_guard_exit_code", frozenset()) in found


def test_the_counts_are_the_reports() -> None:
    found = series(judge(made_report()))
    process = {("Hostname", "node-7"), ("rank", "0")}
    assert found["sdc_guard_checks_total", frozenset(process)] == 518
    assert found["sdc_guard_calls_total", frozenset(process)] == 560
    assert found["sdc_guard_coverage_ratio", frozenset(process)] == 518 / 560
    assert found["sdc_guard_overhead_seconds_total", frozenset(process)] == 1.5
    assert found["sdc_guard_mismatches_total", frozenset(
        {*process, ("device", "cpu"), ("verdict", "corruption")})] == 3
    assert found["sdc_guard_divergences", frozenset({("state", "new")})] == 1


def test_two_runs_of_one_process_are_added_up() -> None:
    report = made_report(0, runs=(made_run(), made_run(id="again")))
    process = frozenset({("Hostname", "node-7"), ("rank", "0")})
    found = series(judge(report))
    assert found["sdc_guard_checks_total", process] == 2 * 518
    assert found["sdc_guard_coverage_ratio", process] == 518 / 560


def test_a_gpu_has_dcgms_labels() -> None:
    run = made_run(environment={"gpus": [{"uuid": "GPU-00"}, {"uuid": "GPU-1f"}]})
    finding = made_finding(outputs=(made_tensor(device="cuda:1"),))
    report = made_report(0, runs=(run,), findings=(
        entry_of(finding, tool="guard", run=run.id, root=ROOT),))
    (labels,) = [labels for name, labels in series(judge(report))
                 if name == "sdc_guard_mismatches_total"]
    assert {("gpu", "1"), ("UUID", "GPU-1f"), ("Hostname", "node-7")} < labels


def test_a_label_is_escaped_and_reads_back() -> None:
    name = 'a"b\\c'
    report = judge(made_report(0, runs=(made_run(host=name),)))
    hosts = {value for _, labels in series(report) for key, value in labels if key == "Hostname"}
    assert hosts == {name}
    assert "\x1b" not in prometheus_text(judge(SHAPES["hostile"]()))
    assert HOSTILE[:10] in prometheus_text(judge(SHAPES["hostile"]()))


def test_a_date_that_is_none_is_left_out() -> None:
    report = msgspec.structs.replace(made_report(), created_utc="yesterday")
    assert ("sdc_guard_report_timestamp_seconds", frozenset()) not in series(report)
