"""Results of ``sdc-guard bench`` in the one report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sdc_guard.bench.benchfile import BenchFile
from sdc_guard.bench.cells import Cell, CleanCell
from sdc_guard.errors import UsageError
from sdc_guard.plain_json import dumps
from sdc_guard.report.benches import EXHAUSTIVE, FOUND, KINDS
from sdc_guard.report.gather import gather
from sdc_guard.report.judging import judge
from sdc_guard.report.outputs import FORMATS, rendered


def cell(detector: str, kind: str = "transient", **outcomes: int) -> Cell:
    return Cell(detector=detector, workload="gpt-tiny", dtype="fp32", fault="single bit", kind=kind,
                device="cpu", seed=0, max_steps=5, counts={"product | above 100": outcomes})


def clean(detector: str, num_alarms: int = 0) -> CleanCell:
    return CleanCell(detector=detector, workload="gpt-tiny", dtype="fp32", device="cpu", seed=0,
                     num_steps=10, num_checks=100, num_alarms=num_alarms, by_verdict={},
                     examples=())


def written(tmp_path: Path, **fields: Any) -> Path:
    path = tmp_path / "bench.json"
    path.write_bytes(dumps(BenchFile(**fields)))
    return path


def test_the_words_are_those_of_the_bench() -> None:
    from sdc_guard.bench.cells import FIRM
    from sdc_guard.bench.cells import KINDS as ALL_KINDS
    from sdc_guard.bench.detectors.table import DETECTORS

    assert FOUND == FIRM
    assert set(KINDS) <= set(ALL_KINDS)
    assert EXHAUSTIVE in DETECTORS


def test_what_the_exhaustive_guard_misses_is_open_and_what_others_miss_is_measured(
    tmp_path: Path
) -> None:
    path = written(tmp_path, cells=(
        cell(EXHAUSTIVE, firm=9), cell(EXHAUSTIVE, "repeated", firm=4, missed=1),
        cell(EXHAUSTIVE, "checker", missed=50), cell("rerun and compare", missed=7)))
    report = gather([path])
    cells = {c.test: c for c in report.cells}
    assert cells[EXHAUSTIVE].word == "missed"
    assert cells[EXHAUSTIVE].reason == "found 13 of 14 injected faults"
    assert cells["rerun and compare"].verdict == "clean"
    judged = judge(report).judgement
    assert judged is not None
    assert judged.exit_code == 3


def test_a_false_alarm_of_ours_is_no_clean_cell(tmp_path: Path) -> None:
    path = written(tmp_path, cells=(cell(EXHAUSTIVE, firm=9),), clean=(clean(EXHAUSTIVE, 2),))
    (found,) = gather([path]).cells
    assert (found.word, found.verdict, found.findings) == ("false alarm", "precision", 2)


def test_the_committed_results_render_in_every_format() -> None:
    folder = Path(__file__).parents[3] / "reports" / "bench"
    report = judge(gather([folder]))
    assert len({c.test for c in report.cells}) == len(
        {c["detector"] for c in json.loads((folder / "bench.json").read_bytes())["cells"]})
    for name in FORMATS:
        text = rendered(report, name)
        assert text
        # Findings and metrics alone have a place in these.
        assert EXHAUSTIVE in text or name in ("sarif", "prom")


def test_a_damaged_result_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text('{"stamps": [{}], "cells": [], "clean": []}')
    with pytest.raises(UsageError, match="no result of `sdc-guard bench`"):
        gather([path])
