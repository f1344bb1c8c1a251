"""The environment variables that can change a number.  Values that may be secrets, or only say
where files lie, are left out."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

NAMED = (
    "ATEN_CPU_CAPABILITY",
    "CUBLASLT_WORKSPACE_SIZE",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_MODULE_LOADING",
    "CUDA_VISIBLE_DEVICES",
    "CUDNN_CONV_WSCAP_DBG",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "GOMP_CPU_AFFINITY",
    "HIP_VISIBLE_DEVICES",
    "KMP_AFFINITY",
    "KMP_DETERMINISTIC_REDUCTION",
    "LD_PRELOAD",
    "MALLOC_CONF",
    "MKL_CBWR",
    "MKL_DYNAMIC",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_NUM_THREADS",
    "NCCL_ALGO",
    "NCCL_NVLS_ENABLE",
    "NCCL_PROTO",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_DYNAMIC",
    "OMP_NUM_THREADS",
    "OMP_PLACES",
    "OMP_PROC_BIND",
    "OMP_SCHEDULE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
    "OPENBLAS_NUM_THREADS",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TORCHINDUCTOR_MAX_AUTOTUNE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_BLAS_PREFER_CUBLASLT",
    "TORCH_COMPILE_DISABLE",
    "XLA_FLAGS",
)
"""Recorded always, None where they are not set."""
PREFIXES = ("ATEN_", "CUBLAS", "CUDA_", "CUDNN_", "DNNL_", "GOMP_", "HIP_", "KMP_", "MIOPEN_",
            "MKL_", "NCCL_", "NVIDIA_TF32", "OMP_", "ONEDNN_", "OPENBLAS_", "PYTORCH_", "RCCL_",
            "ROCBLAS_", "TORCHINDUCTOR_", "TORCH_", "TRITON_", "XLA_")
"""Others of these families are recorded where they are set."""
MAX_VALUE_CHARS = 200
MAX_VARIABLES = 200
_LEFT_OUT = re.compile(
    r"(?:^|_)(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD|AUTH|CREDENTIALS?|HOME|ROOT|DIR|PATH|FILE|URL|URI"
    r"|ADDR|HOST|ENDPOINT|ID)(?:$|_)|_CACHE|_LOG")
_IN_A_URL = re.compile(r"://[^/@\s]*@")


def numeric_variables(environ: Mapping[str, str] | None = None) -> dict[str, str | None]:
    """By name; long values are cut, and credentials in a URL are taken out."""
    given = os.environ if environ is None else environ
    found: dict[str, str | None] = {name: _shown(given.get(name)) for name in NAMED}
    others = sorted(name for name in given if name.startswith(PREFIXES)
                    and name not in found and not _LEFT_OUT.search(name.upper()))
    return found | {name: _shown(given[name]) for name in others[:MAX_VARIABLES]}


def _shown(value: str | None) -> str | None:
    if value is None:
        return None
    text = _IN_A_URL.sub("://***@", value)
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]} ... (cut)"
