"""Which device this is, which versions run on it, and its clocks as ``nvidia-smi`` reads them."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess

import torch

from sdc_guard.bench.gpu.figures import Clocks, Device
from sdc_guard.bench.gpu.job import Measured, Setting, Telling

DEVICE = "device"
UNKNOWN = "unknown"
_FIELDS = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "temperature.gpu",
           "power.draw")


def expected(setting: Setting) -> tuple[str, ...]:
    """The device itself."""
    return (DEVICE,)


def measure(telling: Telling) -> None:
    """Tells the :class:`Device`."""
    telling.attempt(DEVICE, lambda: _device(telling.setting))


def _device(setting: Setting) -> Device:
    versions = {"torch": str(torch.__version__), "triton": _version("triton")}
    if setting.device != "cuda":
        return Device(
            name=f"{platform.machine()} CPU, Triton's interpreter", capability="none",
            num_multiprocessors=0, memory_bytes=0, cuda="none", cudnn="none", **versions)
    torch.cuda.init()
    found = torch.cuda.get_device_properties(0)
    return Device(
        name=found.name, capability=f"{found.major}.{found.minor}",
        num_multiprocessors=found.multi_processor_count, memory_bytes=found.total_memory,
        cuda=str(torch.version.cuda), cudnn=str(torch.backends.cudnn.version()), **versions)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return UNKNOWN


def tell_clocks(telling: Telling, after: str) -> None:
    """Tell the clocks right after a job, while the device is still warm; nothing on a CPU."""
    if telling.setting.device == "cuda":
        telling.send(Measured(f"clocks after {after}", Clocks(after=after, text=clocks())))


def clocks() -> str:
    """The first device's clocks, temperature and power, as ``field value`` pairs."""
    query = ["nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader", "-i", "0"]
    try:
        line = subprocess.run(query, capture_output=True, text=True, check=True,
                              timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN
    values = [value.strip() for value in line.split(",")]
    return ", ".join(f"{f} {v}" for f, v in zip(_FIELDS, values, strict=False)) or UNKNOWN
