"""Every kernel as a device would get it: compiled for the launches of a training step, without one.

    PYTHONPATH=.:kernels python -m tests.kernels.compile_all [--out reports/kernels/compiled.md]

The checks that ops offer are launched on operands of realistic sizes (of which nothing is read),
and each launch is compiled instead of run, with the specialisation that the launch would have.
``ptxas -v`` says what a kernel takes; the PTX is searched for what is not IEEE arithmetic:
operations that flush subnormals, approximate divisions, roots and elementary functions, and TF32.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from sdc_guard.ops import lookup
from tests.kernels.launches import CASES, Case, direct_launches
from tests.kernels.offered import Noted
from tests.kernels.smallest import SMALLEST

SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024}
"""Most shared memory of a program, by compute capability (CUDA programming guide, table of
technical specifications)."""
SUSPECT = (r"\.ftz\b", r"\b(?:div|rcp|sqrt|rsqrt)\.(?:approx|full)[.\w]*", r"\btf32\b",
           r"\b(?:ex2|lg2|sin|cos|tanh)\.approx[.\w]*")
"""What a bound that assumes IEEE arithmetic has to allow for by name."""
DTYPES = (torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, slots=True)
class Compiled:
    """One kernel of one launch, as ``ptxas -v`` tells it."""

    kernel: str
    case: str
    capability: int
    registers: int
    spilled_bytes: int
    shared_bytes: int
    warps: int
    suspects: tuple[str, ...]


class _NoDevice:
    """A driver that has a target and nothing else."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return self._target.arch

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


@contextmanager
def launches_compiled(
    capability: int, take: Callable[[str, Any], None]
) -> Iterator[None]:
    """Inside, a launch compiles for a capability and hands the kernel's name and what was compiled
    to ``take``; nothing runs."""
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        found = run(self, *args, grid=grid, warmup=True, **kwargs)
        take(f"{self.fn.__module__.rpartition('.')[2]}.{self.fn.__name__}", found)

    JITFunction.run = compile_only
    driver.set_active(_NoDevice(capability))
    try:
        yield
    finally:
        JITFunction.run = run


def told(kernel: str, case: str, capability: int, found: Any) -> Compiled:
    """What ``ptxas -v`` says of a compiled kernel."""
    ptx = found.asm["ptx"]
    target = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)
    assert target is not None
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        done = subprocess.run(
            [get_ptxas(capability).path, "-v", f"--gpu-name={target[1]}", "-o", os.devnull,
             file.name],
            capture_output=True, text=True, check=True)
    registers = max(map(int, re.findall(r"Used (\d+) registers", done.stderr)))
    spilled = sum(map(int, re.findall(r"(\d+) bytes spill", done.stderr)))
    suspects = {name for pattern in SUSPECT for name in re.findall(r"[\w.]*" + pattern, ptx)}
    return Compiled(kernel, case, capability, registers, spilled, int(found.metadata.shared),
                    int(found.metadata.num_warps), tuple(sorted(suspects)))


def _launch(case: Case, dtype: torch.dtype) -> None:
    call, held = case.made(dtype)
    spec = lookup(call.form.packet)
    assert spec is not None
    assert spec.kernel is not None
    run = spec.kernel(call, held)
    if run is not None:
        run(call, held, Noted())


def compile_cases(capability: int, only: str = "") -> list[Compiled]:
    """All cases in all dtypes; a kernel that was compiled before is left out."""
    rows: list[Compiled] = []
    seen: set[str] = set()
    where = ""

    def take(kernel: str, found: Any) -> None:
        if found.hash not in seen:
            seen.add(found.hash)
            rows.append(told(kernel, where, capability, found))

    with launches_compiled(capability, take):
        for case in (*CASES, *SMALLEST):
            for dtype in case.dtypes:
                where = f"{case.name}, {str(dtype).removeprefix('torch.')}"
                if only in where:
                    _launch(case, dtype)
        for name, launch in direct_launches():
            where = name
            if only in where:
                launch()
    return rows


def page(rows: list[Compiled], command: str) -> str:
    """The table."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True,
                            text=True, check=True).stdout.strip()
    lines = [
        "# What the kernels take on a device", "",
        f"`{command}` at {commit}, with triton {triton.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}; no device is needed, and none was used.  "
        "`ptxas -v` tells registers for each thread and bytes spilled (stores and loads).", "",
        "| kernel | launch | sm | warps | registers | spilled B | shared B | not IEEE |",
        "|---|---|---:|---:|---:|---:|---:|---|"]
    lines += [
        f"| {r.kernel} | {r.case} | {r.capability} | {r.warps} | {r.registers} | {r.spilled_bytes} "
        f"| {r.shared_bytes} | {', '.join(r.suspects) or '-'} |" for r in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--capabilities", default="80,90")
    chosen = parser.parse_args()
    rows = [r for c in chosen.capabilities.split(",") for r in compile_cases(int(c), chosen.only)]
    text = page(rows, "python -m tests.kernels.compile_all")
    if chosen.out is None:
        sys.stdout.write(text)
    else:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(text, encoding="utf-8")
    over = [r for r in rows if r.shared_bytes > SHARED_BYTES[r.capability]]
    sys.exit(f"too much shared memory: {over}" if over else 0)


if __name__ == "__main__":
    main()
