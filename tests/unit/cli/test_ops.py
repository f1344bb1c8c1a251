"""``sdc-guard ops`` prints the registry, all of it."""

from __future__ import annotations

import json

from click.testing import CliRunner

from sdc_guard.cli.main import main
from sdc_guard.ops import all_specs


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
