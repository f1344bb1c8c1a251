"""What the compiler makes of the kernels: the interpreter accepts code that it would refuse.

Compiling to PTX needs no device.  The bound of ``row_sum`` assumes additions rounded to nearest,
subnormals kept, and no contraction; the instructions say whether that holds.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.meta.tree import ROOT

pytest.importorskip("triton", reason="triton has no wheel for this platform")

pytestmark = pytest.mark.skipif(
    platform.system() != "Linux", reason="triton compiles for a device on Linux only"
)

COMPILE = """
import importlib.util, sys
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

spec = importlib.util.spec_from_file_location("kernel_file", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
pointer, compensated, fuse = sys.argv[2], sys.argv[3] == "1", sys.argv[4] == "1"
work = tl.float32 if compensated else tl.float64
constants = dict(SPLIT_COLS=65536, BLOCK_ROWS=8, LANES=128, COMPENSATED=compensated, WORK=work)
signature = dict(
    x_ptr=pointer, sum_ptr="*fp64", abs_sum_ptr="*fp64", num_rows="i32", num_cols="i32",
    stride_row="i64", stride_col="i32", num_splits="i32", **dict.fromkeys(constants, "constexpr"),
)
source = ASTSource(fn=module._row_sum_kernel, signature=signature, constexprs=constants)
compiled = triton.compile(
    source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": fuse}
)
print(compiled.asm["ptx"])
"""

ROW_SUM = ROOT / "kernels" / "sdc_guard_kernels" / "row_sum.py"


def ptx_of(file: Path, folder: Path, *, pointer: str, compensated: bool, fuse: bool = False) -> str:
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(file), pointer, str(int(compensated)), str(int(fuse))],
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(folder / "cache")},
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


@pytest.mark.parametrize(
    ("pointer", "compensated", "expected"),
    [
        ("*fp32", True, {"add.rn.f32", "sub.rn.f32", "add.rn.f64"}),
        ("*bf16", False, {"add.rn.f64"}),
    ],
)
def test_only_rounded_additions(
    pointer: str, compensated: bool, expected: set[str], tmp_path: Path
) -> None:
    ptx = ptx_of(ROW_SUM, tmp_path, pointer=pointer, compensated=compensated)
    found = {
        name.replace("add.f", "add.rn.f").replace("sub.f", "sub.rn.f")
        for name in float_arithmetic(ptx)
    }
    assert found == expected


def test_a_contracted_product_would_be_seen(tmp_path: Path) -> None:
    source = ROW_SUM.read_text(encoding="utf-8")
    changed = tmp_path / "contracted.py"
    changed.write_text(source.replace("new = total + x", "new = total + x * magnitude"), "utf-8")
    ptx = ptx_of(changed, tmp_path, pointer="*bf16", compensated=False, fuse=True)
    assert "fma.rn.f64" in float_arithmetic(ptx)
