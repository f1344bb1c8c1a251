"""The environment: complete, fast, never raises, sees each switch that changes numbers."""

from __future__ import annotations

import builtins
import json
import os
import time
from typing import Any

import numpy as np
import pytest
import torch

from sdc_guard.evidence import collect_environment, environment_differences
from sdc_guard.evidence import environment as environment_module
from sdc_guard.evidence.plain_json import dumps
from sdc_guard.evidence.standalone.switches import numeric_flags, settings


def test_it_names_machine_libraries_threads_and_flags() -> None:
    found = collect_environment()
    assert found["torch"] == torch.__version__
    assert found["numpy"] == np.__version__
    assert found["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert found["threads"]["intra_op"] == torch.get_num_threads()
    assert found["affinity"] == sorted(os.sched_getaffinity(0))
    assert any("backend" in line for line in found["parallel"])
    assert found["cpu"]
    assert json.loads(dumps(found))["flags"] == found["flags"]


def test_it_takes_less_than_50_ms_once_the_fixed_part_is_read() -> None:
    collect_environment()
    times_s = []
    for _ in range(5):
        start_s = time.perf_counter()
        collect_environment()
        times_s.append(time.perf_counter() - start_s)
    assert min(times_s) < 0.05


def test_the_fixed_part_too_takes_less_than_50_ms() -> None:
    times_s = []
    for _ in range(5):
        environment_module._fixed.cache_clear()
        start_s = time.perf_counter()
        collect_environment()
        times_s.append(time.perf_counter() - start_s)
    assert min(times_s) < 0.05


def test_a_field_that_cannot_be_read_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OSError("refused")

    environment_module._fixed.cache_clear()
    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr(torch, "get_num_threads", refuse)
    monkeypatch.setattr(torch.__config__, "parallel_info", refuse)
    monkeypatch.setattr(os, "sched_getaffinity", refuse)
    found = collect_environment()
    monkeypatch.undo()
    environment_module._fixed.cache_clear()
    unknown = [found["cpu"], found["parallel"], found["affinity"], found["threads"]["intra_op"]]
    assert unknown == ["unknown"] * 4
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
