"""``sdc-guard ops`` prints the registry, all of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from sdc_guard.cli.main import main
from sdc_guard.ops import all_specs, lstm_layer
from tests.meta.tree import ROOT


def test_the_table_has_a_row_for_each_spec() -> None:
    result = CliRunner().invoke(main, ["ops"])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["op", "family", "witnesses", "deterministic"]
    assert [line.split()[0] for line in lines[1:-1]] == [spec.packet for spec in all_specs()]
    assert lines[-1].startswith(f"{len(all_specs())} operators")
    row = next(line for line in lines if line.startswith("aten.sum "))
    assert "reference" in row
    assert "replay" in row


def test_the_json_is_one_document_with_the_same_rows() -> None:
    rows = json.loads(CliRunner().invoke(main, ["ops", "--json"]).stdout)["ops"]
    assert [row["op"] for row in rows] == [spec.packet for spec in all_specs()]
    by_op = {row["op"]: row for row in rows}
    assert by_op["aten.sum"]["reduction"] is True
    assert "checksum" in by_op["aten.mm"]["witnesses"]


def test_the_json_says_what_each_relation_moves() -> None:
    rows = json.loads(CliRunner().invoke(main, ["ops", "--json"]).stdout)["ops"]
    row = next(r for r in rows if r["op"] == "aten.mm")
    assert row["relations"]["roll n"]["moves"] == ["address", "core", "lane", "tile"]
    assert "gamma" in row["bound"]
    assert {"float32", "bfloat16", "int64"} <= set(row["dtypes"])


def test_the_page_in_docs_is_what_the_command_prints() -> None:
    """Run ``sdc-guard ops --markdown > docs/ops.md`` where this fails."""
    page = (ROOT / "docs" / "ops.md").read_text(encoding="utf-8")
    if not lstm_layer.computes(torch.bfloat16):  # a CPU without AVX-512
        page = re.sub(r"(\| `aten\.mkldnn_rnn_layer.* float32), bfloat16 \|", r"\1 |", page)
    assert CliRunner().invoke(main, ["ops", "--markdown"]).stdout == page


def test_missing_names_what_a_step_leaves_unchecked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_step_for_ops.py").write_text(
        "import torch\n"
        "def step():\n"
        "    x = torch.ones(4, 4)\n"
        "    torch.linalg.matrix_exp(x)\n"
        "    torch.multinomial(torch.ones(5), 2)\n"
        "    x @ x\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    result = CliRunner().invoke(main, ["ops", "--missing", "my_step_for_ops:step"])
    assert result.exit_code == 0
    assert "aten.linalg_matrix_exp: 1 calls: rerun only" in result.stdout
    assert "aten.multinomial: 1 calls: random draws: only their range and mean" in result.stdout
    assert "aten.mm:" not in result.stdout
    found = CliRunner().invoke(main, ["ops", "--missing", "my_step_for_ops:step", "--json"])
    assert {r["op"] for r in json.loads(found.stdout)["missing"]} >= {"aten.multinomial"}


@pytest.mark.parametrize("target", ["nothing", "json:no_such_name", "no_such_module_here:f",
                                    "json:__doc__"])
def test_a_step_that_is_none_is_an_error_in_words(target: str) -> None:
    result = CliRunner().invoke(main, ["ops", "--missing", target])
    assert result.exit_code == 2
    assert target in result.output
