"""``sdc-guard doctor``: passes here, and fails where a part that checking needs is broken."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
from click.testing import CliRunner

import sdc_guard.check.selftest
from sdc_guard.cli import doctor
from sdc_guard.cli.main import main


def run() -> tuple[int, dict[str, list[dict[str, str]]]]:
    result = CliRunner().invoke(main, ["doctor", "--json"])
    by_name: dict[str, list[dict[str, str]]] = {}
    for line in json.loads(result.stdout)["lines"]:
        by_name.setdefault(line["name"], []).append(line)
    return result.exit_code, by_name


def test_this_machine_has_no_failure() -> None:
    exit_code, lines = run()
    assert exit_code == 0
    assert {"python", "torch", "cores", "threads", "determinism", "witness"} <= set(lines)
    assert {w["text"].split()[0] for w in lines["witness"]} >= {"replay", "reference"}
    assert not [w for group in lines.values() for w in group if w["level"] == "FAIL"]


def test_the_text_has_a_fix_under_each_warning() -> None:
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0
    rows = result.stdout.splitlines()
    assert rows[0].startswith("PASS  python")
    for i, row in enumerate(rows):
        if row.startswith(("WARN", "FAIL")):
            assert rows[i + 1].lstrip().startswith("->")


def test_a_dead_witness_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdc_guard.check.selftest, "dead_witnesses", lambda: frozenset({"replay"}))
    exit_code, lines = run()
    assert exit_code == 3
    failed = [w for w in lines["witness"] if w["level"] == "FAIL"]
    assert [w["text"].split()[0] for w in failed] == ["replay"]
    assert failed[0]["fix"]


def test_a_machine_that_does_not_repeat_itself_is_a_divergence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = torch.nn.functional.layer_norm
    num_calls = 0

    def sometimes_wrong(x: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        nonlocal num_calls
        num_calls += 1
        return right(x, shape) * (1 + (num_calls == 7) * 2.0**-20)

    monkeypatch.setattr(torch.nn.functional, "layer_norm", sometimes_wrong)
    exit_code, lines = run()
    assert exit_code == 1
    assert lines["determinism"][0]["text"].endswith("layer_norm 1 of 20")


def test_an_old_torch_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.7.1")
    exit_code, lines = run()
    assert exit_code == 3
    assert lines["torch"][0]["fix"] == "install torch 2.8 or newer"


@pytest.mark.parametrize("name", ["threads", "cores"])
def test_one_core_is_warned_about(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_cores", lambda: 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    exit_code, lines = run()
    assert exit_code == 0
    assert lines[name][0]["level"] == "WARN"
    assert lines[name][0]["fix"]


def test_a_narrow_matmul_format_is_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    assert run()[1]["precision"][0]["level"] == "WARN"


def test_a_missing_triton_is_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert doctor._triton().level == "WARN"
