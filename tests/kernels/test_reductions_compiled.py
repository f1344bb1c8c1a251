"""What the compiler makes of the reductions: instructions that the bounds assume, wide loads.

Compiling to PTX needs no device.
"""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Any

import pytest

from tests.kernels.compiled import float_arithmetic, ptx_of
from tests.meta.tree import ROOT

pytest.importorskip("triton", reason="triton has no wheel for this platform")

pytestmark = pytest.mark.skipif(
    platform.system() != "Linux", reason="triton compiles for a device on Linux only"
)

KERNELS = ROOT / "kernels" / "sdc_guard_kernels"
SIZES = {"num_kept": "i32", "num_reduced": "i32", "num_kept_blocks": "i32", "num_splits": "i32",
         "low_bits": "i64", "record_ptr": "*i64"}
TILE = {"BLOCK_KEPT": 4, "BLOCK_REDUCED": 512, "ITERATIONS": 8, "REDUCED_AXIS": 1,
        "INDEX": "tl.int32"}
FOLD = {"BLOCK_KEPT": 16, "BLOCK_SPLITS": 64, "ITERATIONS": 2, "INDEX": "tl.int32"}
ONE, TWO = ("i32",), ("i32", "i64")


def compiled(
    file: str, kernel: str, folder: Path, constants: dict[str, Any], **signature: Any
) -> str:
    return ptx_of(KERNELS / file, kernel, folder, signature=signature, constants=constants)


def sized(*names: str) -> dict[str, str]:
    return {name: SIZES[name] for name in names}


@pytest.mark.slow
def test_sums_are_rounded_additions_of_both_orders(tmp_path: Path) -> None:
    ptx = compiled(
        "reductions.py", "_check_kernel", tmp_path,
        {**TILE, "TERM": "product", "COMPENSATED": True, "WORK": "tl.float32", "ROOT": False},
        x_ptr="*bf16", y_ptr="*bf16", held_ptr="*bf16", limit_ptr="*fp64", **sized(
            "record_ptr", "num_kept", "num_reduced", "num_kept_blocks"),
        kept_sizes=ONE, x_kept=ONE, y_kept=ONE, held_kept=ONE, place_kept=ONE, reduced_sizes=TWO,
        x_reduced=TWO, y_reduced=TWO)
    found = {re.sub(r"^(add|sub|mul)\.f", r"\1.rn.f", name) for name in float_arithmetic(ptx)}
    assert found == {"add.rn.f32", "sub.rn.f32", "mul.rn.f32", "add.rn.f64", "sub.rn.f64",
                     "mul.rn.f64", "div.rn.f64"}
    assert "mul.wide" in ptx or "mul.lo.s64" in ptx


def test_the_fold_of_a_norm_takes_an_exactly_rounded_root(tmp_path: Path) -> None:
    ptx = compiled(
        "reductions.py", "_fold_check_kernel", tmp_path, {**FOLD, "ROOT": True},
        sums_ptr="*fp64", held_ptr="*fp32", limit_ptr="*fp64", **sized(
            "record_ptr", "num_kept", "num_splits"),
        kept_sizes=TWO, held_kept=TWO, place_kept=TWO)
    assert "sqrt.rn.f64" in ptx
    assert not {name for name in float_arithmetic(ptx) if name.startswith(("fma", "mad"))}


def test_counts_compile_to_integers(tmp_path: Path) -> None:
    ptx = compiled(
        "exact_counts.py", "_check_kernel", tmp_path, {**TILE, "NONZERO": True, "RULE": "all"},
        x_ptr="*bf16", held_ptr="*u8", **sized("record_ptr", "num_kept", "num_reduced",
                                               "num_kept_blocks", "low_bits"),
        kept_sizes=TWO, x_kept=TWO, held_kept=TWO, place_kept=TWO, reduced_sizes=ONE, x_reduced=ONE)
    # The share of the record, in two roundings; nothing else is computed in a float.
    assert {name.split(".")[0] for name in float_arithmetic(ptx)} <= {"div", "mul"}


@pytest.mark.parametrize(("pointer", "wide"), [
    pytest.param("*bf16", False, marks=pytest.mark.slow), ("*fp64", True)])
def test_extremes_compare_integers(pointer: str, wide: bool, tmp_path: Path) -> None:
    ptx = compiled(
        "extremes.py", "_check_kernel", tmp_path,
        {**TILE, "FLOAT": True, "WIDE": wide, "LEAST": not wide, "ABS": wide,
         "KEY": "tl.int64" if wide else "tl.int32", "LOWEST": -(2**63) if wide else -(2**31)},
        x_ptr=pointer, held_ptr=pointer, **sized("record_ptr", "num_kept", "num_reduced",
                                                 "num_kept_blocks"),
        kept_sizes=ONE, x_kept=ONE, held_kept=ONE, place_kept=ONE, reduced_sizes=TWO, x_reduced=TWO)
    assert "max.s64" in ptx if wide else "max.s32" in ptx
    assert not re.search(r"\b(?:max|min)\.(?:\w+\.)*f(?:32|64)", ptx)
