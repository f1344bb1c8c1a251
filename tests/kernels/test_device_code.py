"""What the compiler makes of the kernels: the interpreter accepts code that it would refuse.

Compiling to PTX needs no device.  The bound of ``row_sum`` assumes additions rounded to nearest,
subnormals kept, and no contraction; the instructions say whether that holds.
"""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from tests.kernels.compiled import float_arithmetic, ptx_of
from tests.meta.tree import ROOT

pytest.importorskip("triton", reason="triton has no wheel for this platform")

pytestmark = pytest.mark.skipif(
    platform.system() != "Linux", reason="triton compiles for a device on Linux only"
)

ROW_SUM = ROOT / "kernels" / "sdc_guard_kernels" / "row_sum.py"


def row_sum_ptx(
    file: Path, folder: Path, *, pointer: str, compensated: bool, fuse: bool = False
) -> str:
    return ptx_of(
        file,
        "_row_sum_kernel",
        folder,
        signature={
            "x_ptr": pointer, "sum_ptr": "*fp64", "abs_sum_ptr": "*fp64", "num_rows": "i32",
            "num_cols": "i32", "stride_row": "i64", "stride_col": "i32", "num_splits": "i32",
        },
        constants={
            "SPLIT_COLS": 65536, "BLOCK_ROWS": 8, "LANES": 128, "COMPENSATED": compensated,
            "WORK": "tl.float32" if compensated else "tl.float64",
        },
        enable_fp_fusion=fuse,
    )


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
    ptx = row_sum_ptx(ROW_SUM, tmp_path, pointer=pointer, compensated=compensated)
    found = {
        name.replace("add.f", "add.rn.f").replace("sub.f", "sub.rn.f")
        for name in float_arithmetic(ptx)
    }
    assert found == expected


def test_a_contracted_product_would_be_seen(tmp_path: Path) -> None:
    source = ROW_SUM.read_text(encoding="utf-8")
    changed = tmp_path / "contracted.py"
    changed.write_text(source.replace("new = total + x", "new = total + x * magnitude"), "utf-8")
    ptx = row_sum_ptx(changed, tmp_path, pointer="*bf16", compensated=False, fuse=True)
    assert "fma.rn.f64" in float_arithmetic(ptx)
