"""PTX of a kernel, for which no device is needed; in a process without the interpreter."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.meta.tree import ROOT

COMPILE = """
import importlib.util, json, sys
import triton.language as tl
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

job = json.loads(sys.argv[1])
spec = importlib.util.spec_from_file_location("kernel_file", job["file"])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
constants = {
    name: getattr(tl, value[3:]) if isinstance(value, str) and value.startswith("tl.") else value
    for name, value in job["constants"].items()
}
# JSON has no tuples; an argument that is one has a type for each of its elements.
types = {n: tuple(t) if isinstance(t, list) else t for n, t in job["signature"].items()}
signature = {**types, **dict.fromkeys(constants, "constexpr")}
kernel = getattr(module, job["kernel"])
order = {name: signature[name] for name in kernel.arg_names}
source = ASTSource(fn=kernel, signature=order, constexprs=constants)
compiled = triton.compile(
    source, target=GPUTarget("cuda", job["capability"], 32), options=job["options"]
)
print(compiled.asm["ptx"])
"""


def ptx_of(
    file: Path, kernel: str, folder: Path, *, signature: dict[str, str | tuple[str, ...]],
    constants: dict[str, Any], capability: int = 90, **options: Any,
) -> str:
    """PTX of a ``@triton.jit`` function of a file.

    Args:
        signature: triton types of the other arguments, such as ``"*bf16"``, ``"i64"``, ``"fp64"``,
            tuples of them for tuples.
        constants: values of the ``tl.constexpr`` arguments; ``"tl.float32"`` names a type.
        options: of the compiler; ``enable_fp_fusion=False`` unless given.
    """
    job = {"file": str(file), "kernel": kernel, "signature": signature, "constants": constants,
           "capability": capability, "options": {"enable_fp_fusion": False, **options}}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, json.dumps(job)],
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(folder / "cache"),
             "PYTHONPATH": os.pathsep.join([str(ROOT / "kernels"), *sys.path])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def float_arithmetic(ptx: str) -> set[str]:
    """Every floating-point arithmetic instruction, with its modifiers."""
    return set(re.findall(r"\b(?:add|sub|mul|fma|mad|div)\.(?:\w+\.)*f(?:16|32|64)\b", ptx))
