"""What a number depends on beside its operands: machine, libraries, threads, flags, variables."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import socket
import sys
from functools import cache
from typing import Any

import numpy as np
import torch

from sdc_guard.evidence import gpus, machine
from sdc_guard.evidence.machine import or_unknown
from sdc_guard.evidence.standalone.switches import numeric_flags
from sdc_guard.evidence.variables import NAMED as VARIABLES
from sdc_guard.evidence.variables import numeric_variables

__all__ = ["VARIABLES", "collect_environment"]
_BUILT = re.compile(r"\b(BLAS_INFO|LAPACK_INFO|BUILD_TYPE|CXX_COMPILER|USE_[A-Z]+)=([^,\s]+)")
_KEPT = {"BLAS_INFO", "LAPACK_INFO", "BUILD_TYPE", "USE_CUDA", "USE_CUDNN", "USE_MKL", "USE_MKLDNN",
         "USE_NCCL", "USE_NNPACK", "USE_OPENMP", "USE_ROCM"}
_CXX_FLAGS = re.compile(r"CXX_FLAGS=(.*?), [A-Z_]+=", flags=re.DOTALL)


def _parallel() -> list[str]:
    """The lines of ``parallel_info`` that name a library or the backend."""
    words = ("OpenMP", "Math Kernel Library", "MKL-DNN", "backend")
    lines = torch.__config__.parallel_info().splitlines()
    return [line.strip() for line in lines if any(word in line for word in words)]


def _build() -> dict[str, str]:
    """How torch was built: its compiler, libraries, and a digest of the flags and of the whole."""
    text = torch.__config__.show()
    lines = [line.strip(" -") for line in text.splitlines()[1:]]
    flags = _CXX_FLAGS.search(text)
    return {
        "compiler": next((line for line in lines if line.startswith(("GCC", "clang", "MSVC"))),
                         machine.UNKNOWN),
        "mkl": next((line for line in lines if "Math Kernel Library" in line), ""),
        "onednn": next((line for line in lines if "MKL-DNN" in line), ""),
        "cxx_flags_sha256": _digest(flags.group(1)) if flags else machine.UNKNOWN,
        "sha256": _digest(re.sub(r"CPU capability usage: \w+", "", text)),
        **{name.lower(): value for name, value in _BUILT.findall(text) if name in _KEPT},
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def _fixed() -> dict[str, Any]:
    return {
        "python": sys.version,
        "platform": or_unknown(platform.platform),
        "host": or_unknown(socket.gethostname),
        "torch": torch.__version__,
        "torch_git": or_unknown(lambda: torch.version.git_version),
        "build": or_unknown(_build),
        "numpy": np.__version__,
        "cpu": or_unknown(machine.cpu),
        "cpu_count": os.cpu_count(),
        "cpu_capability": or_unknown(torch.backends.cpu.get_cpu_capability),
        "topology": or_unknown(machine.topology),
        "container": or_unknown(machine.container),
        "parallel": or_unknown(_parallel),
    }


def collect_environment(*, ask_gpus: bool = False) -> dict[str, Any]:
    """Everything that may change a number, as plain JSON values.

    A field that cannot be read is ``"unknown"``; nothing is raised, and CUDA is not started.  The
    fields that cannot change in a process are read once.  With ``ask_gpus`` NVML is asked for the
    GPUs although this process has not started CUDA.
    """
    return {
        **_fixed(),
        "memory": or_unknown(machine.memory),
        "cuda": or_unknown(gpus.cuda),
        "gpus": or_unknown(lambda: gpus.gpus(ask=ask_gpus)),
        "affinity": or_unknown(lambda: sorted(os.sched_getaffinity(0))),
        "threads": {
            "intra_op": or_unknown(torch.get_num_threads),
            "inter_op": or_unknown(torch.get_num_interop_threads),
        },
        "flags": or_unknown(numeric_flags),
        "variables": or_unknown(numeric_variables),
    }
