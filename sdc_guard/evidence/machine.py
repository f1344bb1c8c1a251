"""What of the machine can change a number, or explains one: processor, memory, container.

All of it is read from files of the kernel; one that is not there leaves its field out or unknown.
Written for Linux; elsewhere little is found, and nothing is raised.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

UNKNOWN = "unknown"
CPUS = Path("/sys/devices/system/cpu")
NODES = Path("/sys/devices/system/node")
EDAC = Path("/sys/devices/system/edac/mc")
CGROUP = Path("/sys/fs/cgroup")
PODMAN = Path("/run/.containerenv")
DOCKER = Path("/.dockerenv")
MAX_CPUS_READ = 512
MAX_FILE_BYTES = 4096
_CPUINFO_BYTES = 16 << 10
_CPUINFO_FIELDS = {
    "vendor_id": "vendor",
    "cpu family": "family",
    "model": "model",
    "model name": "name",
    "stepping": "stepping",
    "microcode": "microcode",
    "CPU implementer": "vendor",
    "CPU part": "model",
    "CPU revision": "stepping",
}
_ISA = ("avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16",
        "avx512_fp16", "amx_tile", "amx_bf16", "amx_fp16", "amx_int8", "asimd", "asimdhp",
        "asimddp", "bf16", "sve", "sve2", "svebf16", "sme")


def or_unknown(get: Callable[[], Any]) -> Any:
    """What ``get`` gives, ``"unknown"`` where it raises: one field must not cost the others."""
    try:
        return get()
    except Exception:
        return UNKNOWN


def cpu() -> dict[str, Any]:
    """Model, stepping, microcode, instruction sets of the first processor in ``/proc/cpuinfo``,
    and whether it is a virtual machine's.

    Only its start is read: the kernel renders the file as it is read, core by core.
    """
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        block = file.read(_CPUINFO_BYTES).partition("\n\n")[0]
    found: dict[str, Any] = {}
    flags: set[str] = set()
    for line in block.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in _CPUINFO_FIELDS:
            found[_CPUINFO_FIELDS[key.strip()]] = value.strip()
        elif key.strip() in ("flags", "Features"):
            flags = set(value.split())
    if not found:
        return {"name": platform.processor() or UNKNOWN}
    if flags:
        found["isa"] = " ".join(name for name in _ISA if name in flags)
        found["is_virtual"] = "hypervisor" in flags
    return found


def topology() -> dict[str, Any]:
    """Sockets, NUMA nodes, hardware threads per core, and what sets the clock."""
    found = {
        "online": _text(CPUS / "online"),
        "numa_nodes": _text(NODES / "online"),
        "sockets": _num_sockets(),
        "smt_active": _text(CPUS / "smt" / "active"),
        "governor": _text(CPUS / "cpu0" / "cpufreq" / "scaling_governor"),
        "boost": _boost(),
    }
    return {name: value for name, value in found.items() if value is not None}


def _num_sockets() -> int | None:
    packages = {_text(path / "topology" / "physical_package_id")
                for path in sorted(CPUS.glob("cpu[0-9]*"))[:MAX_CPUS_READ]}
    return len(packages - {None}) or None


def _boost() -> str | None:
    no_turbo = _text(CPUS / "intel_pstate" / "no_turbo")
    if no_turbo is not None:
        return "off" if no_turbo == "1" else "on"
    boost = _text(CPUS / "cpufreq" / "boost")
    return None if boost is None else "on" if boost == "1" else "off"


def memory() -> dict[str, Any]:
    """Bytes in all, and errors that the memory controllers have counted.  ``ecc`` is ``"unknown"``
    where the kernel shows no controller: with or without ECC."""
    found: dict[str, Any] = {"total_bytes": or_unknown(_total_bytes), "ecc": UNKNOWN}
    controllers = sorted(EDAC.glob("mc[0-9]*"))
    if controllers:
        found["ecc"] = {"controllers": len(controllers), **{
            name: sum(int(_text(path / file) or 0) for path in controllers)
            for name, file in (("corrected", "ce_count"), ("uncorrected", "ue_count"))}}
    return found


def _total_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def container() -> dict[str, Any]:
    """Limits of the control group, and what kind of container this is; empty outside of one."""
    found = {
        "cpu_limit": _cpu_limit(),
        "memory_limit_bytes": _memory_limit(),
        "kind": _kind(),
        "image": _image(),
    }
    return {name: value for name, value in found.items() if value is not None}


def _cpu_limit() -> float | None:
    """Cores' worth of time."""
    words = (_text(CGROUP / "cpu.max") or "").split()
    if len(words) != 2:
        words = [_text(CGROUP / "cpu" / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
    if not all(word.isdigit() for word in words) or int(words[1]) == 0:  # "max", or -1
        return None
    return int(words[0]) / int(words[1])


def _memory_limit() -> int | None:
    for path in (CGROUP / "memory.max", CGROUP / "memory" / "memory.limit_in_bytes"):
        text = _text(path) or ""
        if text.isdigit() and int(text) < 1 << 60:  # version 1 writes "no limit" as 2^63
            return int(text)
    return None


def _kind() -> str | None:
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    if PODMAN.exists():
        return "podman"
    if DOCKER.exists():
        return "docker"
    return os.environ.get("container") or None  # noqa: SIM112 -- as systemd and podman write it


def _image() -> str | None:
    """Podman writes the image's name; NVIDIA's images name their release."""
    match = re.search(r'^image="([^"]+)"', _text(PODMAN) or "", flags=re.MULTILINE)
    if match:
        return match.group(1)
    release = os.environ.get("NVIDIA_PYTORCH_VERSION")
    return f"nvidia pytorch {release}" if release else None


def _text(path: Path) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(MAX_FILE_BYTES).strip()
    except OSError:
        return None
