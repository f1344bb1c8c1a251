"""What a number depends on beside its operands: machine, libraries, threads, flags, variables."""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch

from sdc_guard.evidence.standalone.switches import numeric_flags

UNKNOWN = "unknown"
VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_VISIBLE_DEVICES",
    "DNNL_DEFAULT_FPMATH_MODE",
    "GOMP_CPU_AFFINITY",
    "KMP_AFFINITY",
    "LD_PRELOAD",
    "MKL_CBWR",
    "MKL_DYNAMIC",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_DYNAMIC",
    "OMP_NUM_THREADS",
    "OMP_PROC_BIND",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_NUM_THREADS",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_BLAS_PREFER_CUBLASLT",
)
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
_COMPARED = ("torch", "numpy", "cpu_capability", "cpu", "cuda", "parallel", "threads", "variables")


def _or_unknown(get: Callable[[], Any]) -> Any:
    try:
        return get()
    except Exception:  # one field that cannot be read must not cost the others
        return UNKNOWN


def _cpu() -> dict[str, str]:
    """Model, stepping and microcode of the first processor that ``/proc/cpuinfo`` lists.

    Only its start is read: the kernel renders the file as it is read, core by core.
    """
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        block = file.read(_CPUINFO_BYTES).partition("\n\n")[0]
    found = {}
    for line in block.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in _CPUINFO_FIELDS:
            found[_CPUINFO_FIELDS[key.strip()]] = value.strip()
    return found or {"name": platform.processor() or UNKNOWN}


def _driver() -> str:
    with open("/proc/driver/nvidia/version", encoding="utf-8") as file:
        return file.readline().strip()


def _devices() -> Any:
    """Names of the CUDA devices; asking must not start CUDA in a process that has not."""
    if torch.version.cuda is None:
        return []
    if not torch.cuda.is_initialized():
        return "not initialised"
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _cuda() -> dict[str, Any]:
    return {
        "version": torch.version.cuda,
        "hip": torch.version.hip,
        "driver": _or_unknown(_driver) if os.path.exists("/proc/driver/nvidia") else None,
        "cudnn": _or_unknown(torch.backends.cudnn.version) if torch.version.cuda else None,
        "devices": _or_unknown(_devices),
    }


def _parallel() -> list[str]:
    """The lines of ``parallel_info`` that name a library or the backend."""
    words = ("OpenMP", "Math Kernel Library", "MKL-DNN", "backend")
    lines = torch.__config__.parallel_info().splitlines()
    return [line.strip() for line in lines if any(word in line for word in words)]


@cache
def _fixed() -> dict[str, Any]:
    return {
        "python": sys.version,
        "platform": _or_unknown(platform.platform),
        "host": _or_unknown(socket.gethostname),
        "torch": torch.__version__,
        "torch_git": _or_unknown(lambda: torch.version.git_version),
        "numpy": np.__version__,
        "cpu": _or_unknown(_cpu),
        "cpu_count": os.cpu_count(),
        "cpu_capability": _or_unknown(torch.backends.cpu.get_cpu_capability),
        "parallel": _or_unknown(_parallel),
    }


def collect_environment() -> dict[str, Any]:
    """Everything that may change a number, as plain JSON values.

    A field that cannot be read is ``"unknown"``; nothing is raised, and CUDA is not started.  The
    fields that cannot change in a process are read once.
    """
    return {
        **_fixed(),
        "cuda": _or_unknown(_cuda),
        "affinity": _or_unknown(lambda: sorted(os.sched_getaffinity(0))),
        "threads": {
            "intra_op": _or_unknown(torch.get_num_threads),
            "inter_op": _or_unknown(torch.get_num_interop_threads),
        },
        "flags": _or_unknown(numeric_flags),
        "variables": {name: os.environ.get(name) for name in VARIABLES},
    }


def environment_differences(then: dict[str, Any], here: dict[str, Any]) -> tuple[str, ...]:
    """The fields that can change a number and differ, as ``"field: value then, value here"``.

    Flags and intra-op threads are left out: a replay sets them as they were.
    """
    lines = []
    for field in _COMPARED:
        old, new = then.get(field, UNKNOWN), here.get(field, UNKNOWN)
        if isinstance(old, dict) and isinstance(new, dict):
            keys = sorted({*old, *new} - {"intra_op"})
            pairs = [(f"{field}.{key}", old.get(key), new.get(key)) for key in keys]
        else:
            pairs = [(field, old, new)]
        lines += [f"{name}: {a!r} then, {b!r} here" for name, a, b in pairs if a != b]
    return tuple(lines)
