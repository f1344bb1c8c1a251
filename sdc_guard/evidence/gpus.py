"""GPUs: what they are, what their firmware is, and, where NVML is installed, how they are.

CUDA is not started here.  In a process that has not started it, names and ids are not known unless
NVML is asked, which takes tens of milliseconds and is done only on request.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import torch

from sdc_guard.evidence.machine import or_unknown

NOT_INITIALISED = "not initialised"
MAX_GPUS = 64
_DRIVER = "/proc/driver/nvidia"


def cuda() -> dict[str, Any]:
    """Versions of the libraries and the driver, and the names of the devices in use."""
    built = torch.version.cuda
    return {
        "version": built,
        "hip": torch.version.hip,
        "driver": or_unknown(_driver) if os.path.exists(_DRIVER) else None,
        "cudnn": or_unknown(torch.backends.cudnn.version) if built else None,
        "nccl": or_unknown(lambda: ".".join(map(str, torch.cuda.nccl.version()))) if built
        else None,
        "devices": or_unknown(_names),
    }


def _driver() -> str:
    with open(f"{_DRIVER}/version", encoding="utf-8") as file:
        return file.readline().strip()


def _names() -> Any:
    if torch.version.cuda is None:
        return []
    if not torch.cuda.is_initialized():
        return NOT_INITIALISED
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def gpus(*, ask: bool = False) -> list[dict[str, Any]]:
    """One record for each GPU that torch has started, joined with NVML's by UUID; with ``ask``
    every GPU that NVML lists.

    ``uuid`` and ``pci`` say which one it is, ``state`` how it is now (clocks in MHz, power in W,
    temperature in degrees C, errors); the rest can change a number.
    """
    seen = or_unknown(_by_torch) if torch.version.cuda and torch.cuda.is_initialized() else []
    if not isinstance(seen, list):
        seen = []
    if not seen and not ask:
        return []
    listed = or_unknown(_by_nvml)
    by_uuid = {gpu["uuid"]: gpu for gpu in listed} if isinstance(listed, list) else {}
    if not seen:
        return list(by_uuid.values())
    return [{**by_uuid.get(gpu["uuid"], {}), **gpu} for gpu in seen]


def _by_torch() -> list[dict[str, Any]]:
    found = []
    for i in range(min(torch.cuda.device_count(), MAX_GPUS)):
        properties = torch.cuda.get_device_properties(i)
        uuid = str(getattr(properties, "uuid", f"number {i}"))
        found.append({
            "uuid": uuid if uuid.startswith(("GPU-", "MIG-", "number")) else f"GPU-{uuid}",
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "num_sms": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
        })
    return found


def _by_nvml() -> list[dict[str, Any]]:
    # By name, since the package is optional and its own name is not that of its module.
    nvml: Any = importlib.import_module("pynvml")
    nvml.nvmlInit()
    try:
        return [_record(nvml, nvml.nvmlDeviceGetHandleByIndex(i))
                for i in range(min(nvml.nvmlDeviceGetCount(), MAX_GPUS))]
    finally:
        nvml.nvmlShutdown()


def _record(nvml: Any, handle: Any) -> dict[str, Any]:
    def ask(name: str, *arguments: Any) -> Any:
        return or_unknown(lambda: _plain(getattr(nvml, name)(handle, *arguments)))

    def clock(kind: str) -> Any:
        return ask("nvmlDeviceGetClockInfo", getattr(nvml, kind, 0))

    def errors(kind: str) -> Any:
        return ask("nvmlDeviceGetTotalEccErrors", getattr(nvml, kind, 0),
                   getattr(nvml, "NVML_AGGREGATE_ECC", 1))

    power_mw = ask("nvmlDeviceGetPowerUsage")
    return {
        "uuid": ask("nvmlDeviceGetUUID"),
        "name": ask("nvmlDeviceGetName"),
        "pci": or_unknown(lambda: _plain(nvml.nvmlDeviceGetPciInfo(handle).busId)),
        "vbios": ask("nvmlDeviceGetVbiosVersion"),
        "ecc": or_unknown(lambda: bool(nvml.nvmlDeviceGetEccMode(handle)[0])),
        "mig": or_unknown(lambda: bool(nvml.nvmlDeviceGetMigMode(handle)[0])),
        "power_limit_w": or_unknown(lambda: ask("nvmlDeviceGetEnforcedPowerLimit") / 1000),
        "state": {
            "sm_mhz": clock("NVML_CLOCK_SM"),
            "memory_mhz": clock("NVML_CLOCK_MEM"),
            "temperature_c": ask("nvmlDeviceGetTemperature", 0),
            "power_w": power_mw / 1000 if isinstance(power_mw, (int, float)) else power_mw,
            "throttle_reasons": ask("nvmlDeviceGetCurrentClocksThrottleReasons"),
            "ecc_corrected": errors("NVML_MEMORY_ERROR_TYPE_CORRECTED"),
            "ecc_uncorrected": errors("NVML_MEMORY_ERROR_TYPE_UNCORRECTED"),
        },
    }


def _plain(value: Any) -> Any:
    """NVML's older bindings give bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

