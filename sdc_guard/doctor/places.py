"""Devices, cores and threads: where a call runs, and where it can be repeated for its cause."""

from __future__ import annotations

import os
from collections.abc import Iterator

import psutil

from sdc_guard.doctor.line import PASS, WARN, Line

HOT_C = 90.0
BUSY = 1.5
GIB = 1 << 30
MIN_FREE_BYTES = 2 * GIB


def lines() -> Iterator[Line]:
    """Devices, cores, threads, memory, load."""
    yield devices()
    yield from gpu_health()
    yield second_place()
    yield threads()
    yield memory()
    yield load()


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def devices() -> Line:
    """What torch sees."""
    import torch

    if not torch.cuda.is_available():
        return Line(PASS, "devices", "CPU only")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Line(PASS, "devices", f"CPU and {', '.join(names)}")


def gpu_health() -> Iterator[Line]:
    """Of each GPU in use, its ECC: off, or with errors that it could not correct."""
    import torch

    from sdc_guard.evidence.gpus import gpus

    if not torch.cuda.is_available():
        return
    for gpu in gpus(ask=True):
        name = f"{gpu['name']} {gpu['uuid']}"
        errors = gpu.get("state", {}).get("ecc_uncorrected", 0)
        if gpu.get("ecc") is False:
            yield Line(WARN, "gpu", f"{name}: ECC is off", "turn it on: nvidia-smi -e 1, and reset")
        elif isinstance(errors, int) and errors:
            yield Line(WARN, "gpu", f"{name}: {errors} uncorrected memory errors in its life",
                       "see whether the count grows; if so, take it out of service")
        elif "ecc" not in gpu:
            yield Line(PASS, "gpu", f"{name}: ECC unknown, nvidia-ml-py is not installed")
        else:
            yield Line(PASS, "gpu", f"{name}: ECC {gpu['ecc']}, VBIOS {gpu.get('vbios')}")


def second_place() -> Line:
    """Causes are told by the identical call somewhere else."""
    import torch

    cores = num_cores()
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = f"; {num_gpus} GPUs: one more than the suspect" if num_gpus > 1 else ""
    if cores < 2 or not hasattr(os, "sched_setaffinity"):
        return Line(WARN, "cores", f"{cores}, and no second place to repeat a call{gpus}",
                    "allow two or more cores (taskset, cgroup), or causes stay \"unknown\"")
    if num_gpus == 1:
        return Line(WARN, "cores", f"{cores}, and one GPU: what it computes has no second place",
                    "causes of findings on the GPU stay \"unknown\" unless a bundle is replayed on "
                    "another machine")
    return Line(PASS, "cores", f"{cores}: a wrong call can be repeated on another core{gpus}")


def threads() -> Line:
    """Not more of them than cores."""
    import torch

    count, cores = torch.get_num_threads(), num_cores()
    if count > cores:
        return Line(WARN, "threads", f"{count} threads on {cores} cores",
                    f"set OMP_NUM_THREADS={cores}; more threads than cores only cost time")
    return Line(PASS, "threads", f"{count} on {cores} cores")


def memory() -> Line:
    """What is free, and what its controllers have counted."""
    from sdc_guard.evidence.machine import memory as found

    free_bytes = psutil.virtual_memory().available
    ecc = found()["ecc"]
    text = f"{free_bytes / GIB:.1f} GiB free, ECC {ecc if isinstance(ecc, str) else 'counted'}"
    if isinstance(ecc, dict) and ecc["uncorrected"]:
        return Line(WARN, "memory", f"{ecc['uncorrected']} uncorrected memory errors since start",
                    "test the memory; findings here may be its fault")
    if free_bytes < MIN_FREE_BYTES:
        return Line(WARN, "memory", text, "give the guard a smaller memory_budget, or free some")
    return Line(PASS, "memory", text)


def load() -> Line:
    """Heat and other work: neither changes a number on sound hardware."""
    per_core = psutil.getloadavg()[0] / (psutil.cpu_count() or 1)
    sensors = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
    hottest_c = max((s.current for group in sensors.values() for s in group), default=None)
    heat = "temperature unknown" if hottest_c is None else f"{hottest_c:.0f} degrees C"
    text = f"{per_core:.1f} processes per core, {heat}"
    if hottest_c is not None and hottest_c >= HOT_C:
        return Line(WARN, "load", text, "cool it: chips at their limit compute wrong values first")
    if per_core > BUSY:
        return Line(WARN, "load", text, "times, and a budget's share, are noisy on a busy machine")
    return Line(PASS, "load", text)
