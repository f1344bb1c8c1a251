"""Metrics of a sweep: by unit, with dcgm-exporter's labels, alerts that fire and resolve."""

from __future__ import annotations

import msgspec

from sdc_guard.report.judging import judge
from tests.made_reports import made_report, sweep_report
from tests.unit.render.test_prometheus import series

CORE = {("Hostname", "node-7"), ("unit", "core 1"), ("device", "cpu"), ("core", "1"),
        ("socket", "0"), ("modelName", "AMD EPYC 7763")}
GPU = {("Hostname", "node-7"), ("unit", "cuda:0"), ("gpu", "0"), ("device", "nvidia0"),
       ("UUID", "GPU-1f"), ("pci_bus_id", "00000000:07:00.0"), ("modelName", "NVIDIA H200")}


def test_work_and_words_are_counted_by_unit() -> None:
    found = series(judge(sweep_report()))
    product = frozenset({*CORE, ("test", "exact_product"), ("family", "F1")})
    assert found["sdc_guard_sweep_checks_total", product] == 1_204_551
    assert found["sdc_guard_sweep_bytes_total", product] == 8 * 1_204_551
    assert found["sdc_guard_sweep_flops_total", product] == 200 * 1_204_551
    assert found["sdc_guard_sweep_seconds_total", product] == 2.5
    assert found["sdc_guard_sweep_test_result", product | {("word", "FAIL")}] == 1
    results = {word: found["sdc_guard_sweep_result", frozenset({*CORE, ("word", word)})]
               for word in ("FAIL", "PASS", "SUSPECT", "AMBIGUOUS", "INVALID", "SKIP")}
    assert results == {"FAIL": 1, "PASS": 2, "SUSPECT": 0, "AMBIGUOUS": 0, "INVALID": 1, "SKIP": 1}
    assert found["sdc_guard_sweep_last_run_timestamp_seconds", frozenset(CORE)] == 1795428000


def test_a_gpu_joins_dcgms_series() -> None:
    found = series(judge(sweep_report()))
    chain = frozenset({*GPU, ("test", "sm_chain"), ("family", "F5")})
    assert found["sdc_guard_sweep_checks_total", chain] == 132_000
    assert found["sdc_guard_sweep_result", frozenset({*GPU, ("word", "PASS")})] == 1


def test_a_partial_sweep_says_so_and_a_guards_run_has_no_sweep() -> None:
    report = sweep_report()
    partial = msgspec.structs.replace(
        report, sweep=msgspec.structs.replace(report.sweep, is_partial=True))
    assert series(report)["sdc_guard_sweep_partial", frozenset()] == 0
    assert series(partial)["sdc_guard_sweep_partial", frozenset()] == 1
    assert not [name for name, _ in series(made_report()) if "sweep" in name]


def test_a_unit_that_no_cell_names_is_there_and_one_without_facts_too() -> None:
    report = sweep_report()
    bare = msgspec.structs.replace(report, sweep=msgspec.structs.replace(report.sweep, units=()))
    found = series(bare)
    key = frozenset({("Hostname", "node-7"), ("unit", "core 1"), ("word", "FAIL")})
    assert found["sdc_guard_sweep_result", key] == 1
    empty = msgspec.structs.replace(report, cells=())
    assert series(empty)["sdc_guard_sweep_result", frozenset({*CORE, ("word", "FAIL")})] == 0
