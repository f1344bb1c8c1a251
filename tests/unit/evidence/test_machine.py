"""Processor, memory, container, GPUs and variables, read from a machine that is made up."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from sdc_guard.evidence import gpus, machine
from sdc_guard.evidence.variables import MAX_VALUE_CHARS, NAMED, numeric_variables


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(machine, "CPUS", tmp_path)
    monkeypatch.setattr(machine, "NODES", tmp_path / "nodes")
    return tmp_path


def test_sockets_nodes_and_the_clock(cpus: Path) -> None:
    write(cpus, {
        "online": "0-3\n", "nodes/online": "0-1\n", "smt/active": "1\n",
        **{f"cpu{i}/topology/physical_package_id": f"{i // 2}\n" for i in range(4)},
        "cpu0/cpufreq/scaling_governor": "performance\n", "intel_pstate/no_turbo": "1\n"})
    assert machine.topology() == {
        "online": "0-3", "numa_nodes": "0-1", "sockets": 2, "smt_active": "1",
        "governor": "performance", "boost": "off"}


def test_boost_is_told_by_either_driver(cpus: Path) -> None:
    write(cpus, {"cpufreq/boost": "1\n"})
    assert machine.topology() == {"boost": "on"}


def test_memory_errors_are_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "EDAC", tmp_path)
    assert machine.memory()["ecc"] == "unknown"
    write(tmp_path, {f"mc{i}/{kind}_count": f"{count}\n" for i in (0, 1)
                     for kind, count in (("ce", 3), ("ue", i))})
    assert machine.memory()["ecc"] == {"controllers": 2, "corrected": 6, "uncorrected": 1}


@pytest.mark.parametrize(("files", "limits"), [
    ({}, {}),
    ({"cpu.max": "max 100000\n", "memory.max": "max\n"}, {}),
    ({"cpu.max": "150000 100000\n", "memory.max": "1048576\n"},
     {"cpu_limit": 1.5, "memory_limit_bytes": 1048576}),
    ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, {"cpu_limit": 0.5}),
    ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n",
      "memory/memory.limit_in_bytes": f"{2**63 - 4096}\n"}, {}),
])
def test_limits_of_the_control_group(
    files: dict[str, str], limits: dict[str, float], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("CGROUP", "PODMAN", "DOCKER"):
        monkeypatch.setattr(machine, name, tmp_path / name)
    for name in ("KUBERNETES_SERVICE_HOST", "container", "NVIDIA_PYTORCH_VERSION"):
        monkeypatch.delenv(name, raising=False)
    write(tmp_path / "CGROUP", files)
    assert machine.container() == limits


def test_the_image_is_named_where_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    podman = write(tmp_path, {"env": 'engine="podman"\nimage="example/torch:1"\n'}) / "env"
    monkeypatch.setattr(machine, "PODMAN", podman)
    found = machine.container()
    assert (found["kind"], found["image"]) == ("podman", "example/torch:1")


def test_variables_of_the_known_families_are_recorded_and_no_secret() -> None:
    given = {
        "OMP_NUM_THREADS": "2", "TORCHINDUCTOR_FREEZING": "1", "NCCL_MIN_NCHANNELS": "4",
        "PYTORCH_API_TOKEN": "hidden", "TORCH_HUB_KEY": "hidden", "CUDA_HOME": "hidden",
        "TORCHINDUCTOR_CACHE_DIR": "hidden", "AWS_SECRET_ACCESS_KEY": "hidden", "PATH": "hidden",
        "XLA_FLAGS": "--proxy=http://name:word@example.org/", "MKL_VERBOSE": "x" * 1000}
    found = numeric_variables(given)
    assert set(found) == {*NAMED, "TORCHINDUCTOR_FREEZING", "NCCL_MIN_NCHANNELS", "MKL_VERBOSE"}
    assert (found["OMP_NUM_THREADS"], found["MKL_CBWR"]) == ("2", None)
    text = str(found)
    assert "hidden" not in text
    assert "word" not in text
    assert len(found["MKL_VERBOSE"] or "") < MAX_VALUE_CHARS + 20


class FakeGpu:
    uuid = "1234-5678"
    name = "Fake GPU"
    major, minor = 9, 0
    multi_processor_count = 132
    total_memory = 1 << 37


def fake_nvml() -> types.ModuleType:
    nvml: Any = types.ModuleType("pynvml")
    nvml.started = 0

    def start() -> None:
        nvml.started += 1

    def stop() -> None:
        nvml.started -= 1

    def refuse(*args: object) -> None:
        raise RuntimeError("not supported")

    nvml.nvmlInit, nvml.nvmlShutdown = start, stop
    nvml.nvmlDeviceGetCount = lambda: 1
    nvml.nvmlDeviceGetHandleByIndex = lambda i: i
    nvml.nvmlDeviceGetUUID = lambda h: b"GPU-1234-5678"
    nvml.nvmlDeviceGetName = lambda h: "Fake GPU"
    nvml.nvmlDeviceGetPciInfo = lambda h: types.SimpleNamespace(busId=b"0000:01:00.0")
    nvml.nvmlDeviceGetVbiosVersion = lambda h: "96.00"
    nvml.nvmlDeviceGetEccMode = lambda h: (1, 1)
    nvml.nvmlDeviceGetMigMode = refuse
    nvml.nvmlDeviceGetEnforcedPowerLimit = lambda h: 700_000
    nvml.nvmlDeviceGetPowerUsage = lambda h: 120_500
    nvml.nvmlDeviceGetClockInfo = lambda h, kind: 1980
    nvml.nvmlDeviceGetTemperature = lambda h, kind: 41
    nvml.nvmlDeviceGetCurrentClocksThrottleReasons = lambda h: 0
    nvml.nvmlDeviceGetTotalEccErrors = lambda h, kind, counter: 2
    return nvml


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = fake_nvml()
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


@pytest.fixture
def started_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: FakeGpu)


@pytest.mark.usefixtures("started_cuda")
def test_a_gpu_has_its_uuid_firmware_and_state(nvml: Any) -> None:
    (gpu,) = gpus.gpus()
    assert gpu["uuid"] == "GPU-1234-5678"
    assert (gpu["num_sms"], gpu["vbios"], gpu["ecc"], gpu["mig"]) == (132, "96.00", True, "unknown")
    assert gpu["pci"] == "0000:01:00.0"
    assert gpu["state"]["power_w"] == 120.5
    assert gpu["state"]["ecc_uncorrected"] == 2
    assert nvml.started == 0  # as often shut down as started


@pytest.mark.usefixtures("started_cuda")
def test_without_nvml_torch_alone_tells_the_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    (gpu,) = gpus.gpus()
    assert gpu["uuid"] == "GPU-1234-5678"
    assert "vbios" not in gpu


def test_nothing_is_asked_where_cuda_was_not_started(
    nvml: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)

    def count() -> int:
        raise AssertionError("NVML was asked")

    right, nvml.nvmlDeviceGetCount = nvml.nvmlDeviceGetCount, count
    assert gpus.gpus() == []
    nvml.nvmlDeviceGetCount = right
    (gpu,) = gpus.gpus(ask=True)
    assert gpu["vbios"] == "96.00"
