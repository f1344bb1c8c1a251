"""The environment: complete, cheap, never raises, sees each switch that changes numbers."""

from __future__ import annotations

import builtins
import json
import os
import sys
from collections import Counter
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch

from sdc_guard.evidence import collect_environment, environment_differences
from sdc_guard.evidence import environment as environment_module
from sdc_guard.evidence.environment_diff import flattened
from sdc_guard.evidence.standalone.switches import numeric_flags, settings
from sdc_guard.plain_json import dumps


def test_it_names_machine_libraries_threads_and_flags() -> None:
    found = collect_environment()
    assert found["torch"] == torch.__version__
    assert found["numpy"] == np.__version__
    assert found["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert found["threads"]["intra_op"] == torch.get_num_threads()
    assert found["affinity"] == sorted(os.sched_getaffinity(0))
    assert any("backend" in line for line in found["parallel"])
    assert found["cpu"]
    assert found["build"]["blas_info"]
    assert found["memory"]["total_bytes"] > 2**20
    assert found["gpus"] == [] or torch.cuda.is_initialized()
    assert json.loads(dumps(found))["flags"] == found["flags"]


def _calls_made() -> Counter[str]:
    """Functions that are called to collect the environment, by name: its cost without a clock."""
    calls: Counter[str] = Counter()

    def count(frame: FrameType, event: str, what: Any) -> None:
        if event == "call":
            calls[frame.f_code.co_name] += 1
        elif event == "c_call":
            calls[what.__name__] += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        collect_environment()
    finally:
        sys.setprofile(before)
    return calls


PER_CPU = 100
"""Calls for each CPU of the machine, which the lists of CPUs are long in."""


def test_it_costs_little_once_the_fixed_part_is_read() -> None:
    collect_environment()
    calls = _calls_made()
    assert calls.total() < 3000 + PER_CPU * (os.cpu_count() or 1)
    assert calls["fork_exec"] == 0


def test_the_fixed_part_too_costs_little_and_starts_no_process() -> None:
    collect_environment()
    environment_module._fixed.cache_clear()
    calls = _calls_made()
    assert calls.total() < 8000 + PER_CPU * (os.cpu_count() or 1)
    assert calls["fork_exec"] == 0


def test_a_field_that_cannot_be_read_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OSError("refused")

    environment_module._fixed.cache_clear()
    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr(torch, "get_num_threads", refuse)
    monkeypatch.setattr(torch.__config__, "parallel_info", refuse)
    monkeypatch.setattr(os, "sched_getaffinity", refuse)
    monkeypatch.setattr(torch.__config__, "show", refuse)
    monkeypatch.setattr(os, "sysconf", refuse)
    found = collect_environment()
    monkeypatch.undo()
    environment_module._fixed.cache_clear()
    unknown = [found["cpu"], found["parallel"], found["affinity"], found["threads"]["intra_op"],
               found["build"], found["memory"]["total_bytes"]]
    assert unknown == ["unknown"] * 6
    assert found["torch"] == torch.__version__


SWITCHES = {
    "deterministic_algorithms": 2,
    "float32_matmul_precision": "high",
    "mkldnn.enabled": False,
    "mkldnn.deterministic": True,
    "mkldnn.matmul.fp32_precision": "bf16",
    "cudnn.benchmark": True,
    "cudnn.deterministic": True,
    "cudnn.enabled": False,
    "cuda.matmul.fp32_precision": "tf32",
    "cuda.flash_sdp": False,
    "flush_denormal": True,
}


@pytest.mark.parametrize("name", sorted(SWITCHES))
def test_each_switch_is_seen_set_and_put_back(name: str) -> None:
    before = numeric_flags()
    assert before[name] != SWITCHES[name]
    with settings({name: SWITCHES[name]}, 0):
        assert numeric_flags().get(name, SWITCHES[name]) == SWITCHES[name]
        assert collect_environment()["flags"] != before
    assert numeric_flags() == before


def test_a_switch_that_is_already_set_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(value: Any) -> None:
        raise AssertionError(f"set to {value}")

    monkeypatch.setattr(torch, "set_float32_matmul_precision", refuse)
    with settings(numeric_flags(), torch.get_num_threads()):
        pass


def test_an_unknown_flag_of_a_newer_version_is_ignored() -> None:
    with settings({"quantum.enabled": True}, 0):
        assert "quantum.enabled" not in numeric_flags()


def test_variables_are_recorded_and_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    then = collect_environment()
    assert environment_differences(then, collect_environment()) == ()
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    here = collect_environment()
    assert here["variables"]["MKL_CBWR"] == "COMPATIBLE"
    assert environment_differences(then, here) == (
        "variables.MKL_CBWR: None then, 'COMPATIBLE' here",)
    other = {**here, "cpu_capability": "NO AVX", "cpu": "unknown"}
    lines = environment_differences(here, other)
    assert [line.split(":")[0] for line in lines] == ["cpu_capability", "cpu"]


def gpu(**fields: Any) -> dict[str, Any]:
    return {"name": "H", "uuid": "GPU-1", "pci": "0", "vbios": "96", "ecc": True,
            "state": {"sm_mhz": 1}, **fields}


@pytest.mark.parametrize(("then", "here", "differs"), [
    (gpu(), gpu(uuid="GPU-2", pci="1", state={"sm_mhz": 9}), False),
    (gpu(), gpu(vbios="97"), True),
    (gpu(), gpu(ecc=False), True),
])
def test_a_gpu_differs_by_what_can_change_a_number(
    then: dict[str, Any], here: dict[str, Any], differs: bool
) -> None:
    base = collect_environment()
    old, new = {**base, "gpus": [then]}, {**base, "gpus": [here]}
    assert bool(environment_differences(old, new)) == differs
    assert (flattened(old) != flattened(new)) == differs


def test_a_build_differs_and_what_an_older_bundle_lacks_does_not() -> None:
    here = collect_environment()
    then = {**here, "build": {**here["build"], "onednn": "another"}}
    assert [line.split(":")[0] for line in environment_differences(then, here)] == ["build.onednn"]
    older = {name: value for name, value in here.items() if name not in ("build", "gpus")}
    older["cpu"] = {name: value for name, value in here["cpu"].items() if name != "isa"}
    assert environment_differences(older, here) == ()
