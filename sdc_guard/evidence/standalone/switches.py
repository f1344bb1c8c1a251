"""The process-wide switches that change numbers: read them, set them, put them back."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

_FLAGS = (
    "cuda.matmul.fp32_precision",
    "cuda.matmul.allow_fp16_reduced_precision_reduction",
    "cuda.matmul.allow_bf16_reduced_precision_reduction",
    "cuda.matmul.allow_fp16_accumulation",
    "cudnn.enabled",
    "cudnn.benchmark",
    "cudnn.deterministic",
    "cudnn.conv.fp32_precision",
    "cudnn.rnn.fp32_precision",
    "mkldnn.enabled",
    "mkldnn.deterministic",
    "mkldnn.matmul.fp32_precision",
    "mkldnn.conv.fp32_precision",
    "mkldnn.rnn.fp32_precision",
)
_SDP_KINDS = ("flash", "mem_efficient", "math", "cudnn")


def _backend(path: str) -> tuple[Any, str]:
    owner: Any = torch.backends
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, name


def _flushes_subnormals() -> bool:
    smallest = float.fromhex("0x1p-1074")
    return smallest * 1.0 == 0.0 or smallest + smallest == 0.0


def _flag_table() -> dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]]:
    table: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
        "deterministic_algorithms": (
            torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
        "float32_matmul_precision": (
            torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        "flush_denormal": (_flushes_subnormals, torch.set_flush_denormal),
    }
    for kind in _SDP_KINDS:
        cuda = torch.backends.cuda
        if hasattr(cuda, f"enable_{kind}_sdp"):
            table[f"cuda.{kind}_sdp"] = (getattr(cuda, f"{kind}_sdp_enabled"),
                                         getattr(cuda, f"enable_{kind}_sdp"))

    def entry(path: str) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
        return lambda: getattr(*_backend(path)), lambda value: setattr(*_backend(path), value)

    return table | {path: entry(path) for path in _FLAGS}


def numeric_flags() -> dict[str, Any]:
    """Every process-wide switch that changes numbers, by name; those absent here are left out."""
    flags = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, (get, _) in _flag_table().items():
            with contextlib.suppress(Exception):  # mixed old and new precision calls make it raise
                flags[name] = get()
    return flags


def _set_flags(wanted: dict[str, Any]) -> None:
    """Set the flags that differ, in the table's order: setting one may change a later one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, (get, put) in _flag_table().items():
            if name in wanted:
                try:
                    here = get()
                except Exception:  # mixed old and new precision calls make it raise
                    here = None
                if here != wanted[name]:
                    put(wanted[name])


@contextlib.contextmanager
def settings(flags: dict[str, Any], num_threads: int) -> Iterator[None]:
    """Set the flags that differ and the thread count (0: leave it), without autograd and autocast,
    which act above the recorded call; put all back at the end."""
    flags_before, threads_before = numeric_flags(), torch.get_num_threads()
    try:
        _set_flags(flags)
        if num_threads:
            torch.set_num_threads(num_threads)
        with torch.no_grad(), torch._C._DisableAutocast():
            yield
    finally:
        torch.set_num_threads(threads_before)
        _set_flags(flags_before)
