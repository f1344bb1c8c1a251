"""The conformance suite: silent on torch, red on a broken kernel, and open about the rest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sdc_guard.conformance.cases import Asked, Case, asked, cases_of
from sdc_guard.conformance.examining import examined, told
from sdc_guard.errors import UsageError
from sdc_guard.inject import KernelOverride
from sdc_guard.inject.override import CallInfo, Results
from tests.unit.launch.commands import environment

pytestmark = pytest.mark.usefixtures("built_in_catalogue")
BACKEND = """
import torch
from sdc_guard.inject import KernelOverride

def drops_its_tail(info, results):
    if results[0].numel() > 4:
        results[0].view(-1)[-1] = 0

KernelOverride(torch.ops.aten.mm.default, drops_its_tail).__enter__()
"""
ARGUMENTS = ("-p", "sdc_guard.pytest_plugin", "-p", "no:cacheprovider", "--pyargs",
             "sdc_guard.conformance")


def asked_for(ops: str, **options: object) -> Asked:
    return asked(**{"device": "cpu", "ops": ops, "oracles": "bound,exact", "examples": 30,
                    "seed": 0, **options})  # type: ignore[arg-type]


def cases(options: Asked, folder: Path) -> dict[str, Case]:
    return {case.id: case for case in cases_of(options, folder)[0]}


def test_sum_and_mm_of_this_torch_conform_in_every_dtype(tmp_path: Path) -> None:
    options = asked_for("aten.sum,aten.mm")
    found = cases(options, tmp_path)
    assert {"aten.sum-float32", "aten.sum-int64", "aten.mm-float32", "aten.mm-bfloat16",
            "aten.mm-int32"} <= set(found)
    for case in found.values():
        outcome = examined(case, options)
        assert not outcome.failures, told(outcome.failures)
        assert outcome.judged.total() > 10, case.id


def test_the_same_seed_makes_the_same_calls_and_another_one_others(tmp_path: Path) -> None:
    def inputs(seed: int) -> list[float]:
        seen: list[float] = []

        def note(info: CallInfo, results: Results) -> None:
            seen.append(float(info.args[0].detach().numpy().sum()))

        options = asked_for("aten.mm", seed=seed, oracles="bound", examples=12)
        with KernelOverride(torch.ops.aten.mm.default, note):
            examined(cases(options, tmp_path)["aten.mm-float32"], options)
        return [repr(x) for x in seen]  # type: ignore[misc]

    assert inputs(0) == inputs(0) != inputs(1)


@pytest.mark.slow
def test_a_broken_kernel_fails_its_tests_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(BACKEND, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *ARGUMENTS, "--sdc-device", "cpu", "--sdc-ops",
         "aten.sum,aten.mm,aten.uniform", "--sdc-oracles", "bound", "--sdc-examples", "12", "-v",
         "-k", "float32"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    results = {line.partition("[")[2].partition("]")[0]: line.split()[1]
               for line in done.stdout.splitlines() if "::test_operator[" in line and "%" in line}
    assert results == {"aten.mm-float32": "FAILED", "aten.sum-float32": "PASSED",
                       "aten.uniform-float32": "SKIPPED"}
    assert "corruption: aten.mm.default" in done.stdout
    assert "device cpu, 12 calls for each test, seed 0" in done.stdout
    assert "not tested:" in done.stdout
    assert "aten.uniform-float32: no call was judged by bound (12)" in done.stdout


@pytest.mark.parametrize(("options", "message"), [
    ({"device": "nosuchdevice"}, "--sdc-device 'nosuchdevice'"),
    ({"oracles": "bound,nosuch"}, "oracle 'nosuch' is unknown"),
    ({"examples": 0}, "--sdc-examples 0"),
    ({"seed": -1}, "--sdc-seed -1"),
])
def test_wrong_options_are_told(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        asked_for("sum", **options)


def test_an_operator_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nosuchoperator"):
        cases_of(asked_for("nosuchoperator"), tmp_path)
