"""What the runner writes."""

from __future__ import annotations

import json
from pathlib import Path

from tests.soundness.attack import Cell, Worst
from tests.soundness.results import as_page, broken, loose
from tests.soundness.run import Job, main, run_job


def test_a_run_writes_every_figure(tmp_path: Path) -> None:
    code = main(["--out", str(tmp_path), "--families", "scan", "--dtypes", "float32",
                 "--examples", "20", "--evaluations", "500"])
    assert code == 0
    found = json.loads((tmp_path / "soundness.json").read_text())
    assert found["stamp"]["commands"][0].startswith("python -m tests.soundness.run --families scan")
    assert str(tmp_path) not in json.dumps(found)
    cells = {cell["packet"]: cell for cell in found["cells"]}
    assert cells["aten.cumsum"]["evaluations"] > 100
    assert 0 < cells["aten.cumsum"]["proof"]["ratio"] <= 1
    assert cells["aten.cummax"]["tightness"] is None
    assert main(["--out", str(tmp_path), "--families", "scan", "--dtypes", "bfloat16", "--add",
                 "--examples", "1", "--evaluations", "1"]) == 0
    page = (tmp_path / "soundness.md").read_text()
    assert "| scan | float32 | 5 |" in page
    assert "| scan | bfloat16 | 5 |" in page
    assert "aten.cummax" in page.split("## Exact")[1]


def test_broken_and_loose_bounds_are_listed() -> None:
    cell = Cell("aten.x", "scan", "float32", evaluations=9, bounded=9,
                contract=Worst(1e-3, "here"), proof=Worst(2.0, "there"), broken=["output 0: there"])
    assert broken([cell]) == ["aten.x float32: output 0: there"]
    assert loose([cell]) == [cell]
    page = as_page("stamp", [cell], {"aten.y": "no device"})
    assert "1 broken bounds" in page
    assert "- aten.x float32: 1e+03; worst by here" in page
    assert "- aten.median: only" in page
    assert "- aten.y: no device" in page


def test_a_job_is_a_cell() -> None:
    cell = run_job(Job("aten.amax", "reduction", "float32", 5, 100))
    assert cell.why_not.startswith("exact")
    assert cell.examples == 5
