"""Each line of the doctor, on a machine where it passes and on one where it does not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import sdc_guard.check.selftest
import sdc_guard.evidence.gpus
import sdc_guard.evidence.machine
from sdc_guard.doctor import folders, numerics, places, software, witnesses
from sdc_guard.doctor.line import FAIL, PASS, WARN, Line, exit_code
from sdc_guard.document.exits import CLEAN, DIVERGENCE, INCONCLUSIVE
from tests.meta.tree import ROOT

Patch = pytest.MonkeyPatch


def entry_points(*values: str) -> Callable[..., Any]:
    return lambda group: [types.SimpleNamespace(name="sdc_guard", value=v) for v in values]


def test_the_exit_code_tells_a_divergence_from_the_rest() -> None:
    assert exit_code([Line(WARN, "torch", "")]) == CLEAN
    assert exit_code([Line(FAIL, "torch", ""), Line(PASS, "determinism", "")]) == INCONCLUSIVE
    assert exit_code([Line(FAIL, "torch", ""), Line(FAIL, "determinism", "")]) == DIVERGENCE


@pytest.mark.parametrize(("version", "level"), [
    ("2.7.1", FAIL), ("2.8.0", PASS), ("2.13.0+cpu", PASS), ("2.14.0a0+git", WARN), ("3.0", WARN),
])
def test_torch_is_in_the_range_that_was_tested(
    version: str, level: str, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    assert software.torch_version().level == level


def test_the_tested_range_is_that_of_the_project_files() -> None:
    pinned = re.search(r"^torch==(\d+)\.(\d+)",
                       (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned is not None
    assert tuple(map(int, pinned.groups())) == software.NEWEST_TESTED_TORCH
    floor = ".".join(map(str, software.MIN_TORCH))
    assert f'"torch>={floor}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("has_gpu", [False, True])
def test_a_missing_triton_is_warned_about(has_gpu: bool, monkeypatch: Patch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    line = software.triton()
    assert line.level == WARN
    assert ("install triton, which" in line.fix) == has_gpu


@pytest.mark.parametrize(("values", "level"), [
    ((), WARN), (("sdc_guard.pytest_plugin",), PASS), (("other.plugin",), WARN),
])
def test_the_plugin_is_registered_as_ours(
    values: tuple[str, ...], level: str, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points(*values))
    assert [line.level for line in software.entry_points()] == [level]


def test_the_project_of_a_like_name_is_warned_about(monkeypatch: Patch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.4.0")
    assert software.name_clash().level == WARN

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert software.name_clash().level == PASS


def test_a_wrong_setting_fails(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    assert software.settings().level == PASS
    (tmp_path / "sdc_guard.toml").write_text("budget = 'lots'\n", encoding="utf-8")
    line = software.settings()
    assert line.level == FAIL
    assert "lots" in line.text


@pytest.mark.parametrize(("num_cores", "num_gpus", "level"), [
    (1, 0, WARN), (4, 0, PASS), (4, 1, WARN), (4, 8, PASS),
])
def test_a_second_place_is_looked_for(
    num_cores: int, num_gpus: int, level: str, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(places, "num_cores", lambda: num_cores)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    assert places.second_place().level == level


def test_memory_that_is_short_or_had_errors(monkeypatch: Patch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory",
                        lambda: types.SimpleNamespace(available=8 << 30))
    assert places.memory().level == PASS
    monkeypatch.setattr(sdc_guard.evidence.machine, "memory",
                        lambda: {"ecc": {"corrected": 9, "uncorrected": 1}})
    assert "1 uncorrected" in places.memory().text
    monkeypatch.setattr(sdc_guard.evidence.machine, "memory", lambda: {"ecc": "unknown"})
    monkeypatch.setattr(psutil, "virtual_memory",
                        lambda: types.SimpleNamespace(available=1 << 30))
    assert places.memory().level == WARN


@pytest.mark.parametrize(("load", "heat_c", "level"), [
    (0.0, None, PASS), (0.0, 60.0, PASS), (0.0, 97.0, WARN), (1e6, None, WARN),
])
def test_heat_and_load(
    load: float, heat_c: float | None, level: str, monkeypatch: Patch
) -> None:
    sensors = {} if heat_c is None else {"k10temp": [types.SimpleNamespace(current=heat_c)]}
    monkeypatch.setattr(psutil, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: sensors, raising=False)
    assert places.load().level == level


@pytest.mark.parametrize(("fields", "level"), [
    ({}, PASS), ({"ecc": True, "state": {"ecc_uncorrected": 0}}, PASS), ({"ecc": False}, WARN),
    ({"ecc": True, "state": {"ecc_uncorrected": 3}}, WARN),
    ({"ecc": "unknown", "state": {"ecc_uncorrected": "unknown"}}, PASS),
])
def test_ecc_of_a_gpu(fields: dict[str, Any], level: str, monkeypatch: Patch) -> None:
    assert list(places.gpu_health()) == [] or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sdc_guard.evidence.gpus, "gpus",
                        lambda ask: [{"name": "Fake", "uuid": "GPU-1", **fields}])
    assert [line.level for line in places.gpu_health()] == [level]


def test_a_folder_that_takes_no_files_fails(tmp_path: Path) -> None:
    lines = {line.name: line for line in folders.lines(tmp_path / "not" / "there" / "yet")}
    assert {line.level for line in lines.values()} <= {PASS, WARN}
    assert list(tmp_path.iterdir()) == []
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    lines = {line.name: line for line in folders.lines(file / "below")}
    assert lines["evidence"].level == FAIL


@pytest.mark.parametrize(("free_bytes", "level"), [
    (1 << 20, FAIL), (1 << 28, WARN), (1 << 34, PASS),
])
def test_disk_space(free_bytes: int, level: str, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(psutil, "disk_usage",
                        lambda path: types.SimpleNamespace(free=free_bytes))
    assert folders.space(tmp_path).level == level


def test_a_full_log_is_warned_about(tmp_path: Path) -> None:
    assert folders.logs(tmp_path).level == PASS
    with open(tmp_path / "events.rank0.jsonl", "wb") as file:
        file.truncate(folders.DEFAULT_MAX_BYTES)
    assert folders.logs(tmp_path).level == WARN


def test_a_narrow_matmul_format_is_warned_about(monkeypatch: Patch) -> None:
    assert numerics.precision().level == PASS
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    assert numerics.precision().level == WARN


@pytest.mark.parametrize(("name", "value", "level"), [
    ("NVIDIA_TF32_OVERRIDE", "1", WARN), ("NVIDIA_TF32_OVERRIDE", "0", PASS),
    ("ONEDNN_DEFAULT_FPMATH_MODE", "bf16", WARN), ("OMP_NUM_THREADS", "2", PASS),
])
def test_switches_that_narrow_float32(
    name: str, value: str, level: str, monkeypatch: Patch
) -> None:
    monkeypatch.setenv(name, value)
    line = numerics.switches()
    assert line.level == level
    assert f"{name}={value}" in line.text


def test_an_installation_without_operators_fails(monkeypatch: Patch) -> None:
    import sdc_guard.ops

    assert witnesses.operators().level == PASS
    monkeypatch.setattr(sdc_guard.ops, "all_specs", lambda: ())
    assert witnesses.operators().level == FAIL


def test_kernels_are_tried_on_each_device(monkeypatch: Patch) -> None:
    def fails(device: torch.device) -> bool:
        if device.index == 1:
            raise RuntimeError("no image for this device")
        return device.index == 0

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(sdc_guard.check.selftest, "kernel_is_alive", fails)
    assert [line.level for line in witnesses.kernels()] == [PASS, FAIL, FAIL]


@pytest.fixture
def one_dtype(monkeypatch: Patch) -> None:
    monkeypatch.setattr(numerics, "DTYPES", ("float32",))


@pytest.mark.usefixtures("one_dtype")
def test_a_call_that_does_not_repeat_itself_is_named(monkeypatch: Patch) -> None:
    right = torch.nn.functional.layer_norm
    num_calls = 0

    def sometimes_wrong(x: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        nonlocal num_calls
        num_calls += 1
        return right(x, shape) * (1 + (num_calls == 7) * 2.0**-20)

    assert numerics.determinism().level == PASS
    monkeypatch.setattr(torch.nn.functional, "layer_norm", sometimes_wrong)
    line = numerics.determinism()
    assert line.level == FAIL
    assert line.text.endswith("other bits: layer_norm (float32, 1 threads) 1 of 20")


@pytest.mark.usefixtures("one_dtype")
def test_determinism_looks_at_backward(monkeypatch: Patch) -> None:
    right = torch.autograd.grad
    num_calls = 0

    def sometimes_wrong(*args: Any, **kwargs: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        first, second = right(*args, **kwargs)
        return first, second * (1 + (num_calls == 3))

    monkeypatch.setattr(torch.autograd, "grad", sometimes_wrong)
    line = numerics.determinism()
    assert line.level == FAIL
    assert "backward (float32, 1 threads) 1 of 20" in line.text
