"""The kernel behind the device probe: each answer is the dot product of its own pair of rows."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.compiled import ptx_of
from tests.kernels.variants import load_variant

pytest.importorskip("triton", reason="triton has no wheel for this platform")

from sdc_guard_kernels import accumulator_probe as module
from sdc_guard_kernels.accumulator_probe import DTYPES, TILES, paired_dots

KERNEL = Path(module.__file__)
# Triton's interpreter keeps bfloat16 as integers, and its dot multiplies those.
IN_INTERPRETER = tuple(d for d in DTYPES if d is not torch.bfloat16)


def integers(*shape: int, seed: int) -> Tensor:
    """Small enough that every sum of their products is exact in any order and format."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-4, 5, shape, generator=generator).float()


def right(a: Tensor, b: Tensor) -> list[int]:
    return [sum(int(x) * int(y) for x, y in zip(u, v, strict=True))
            for u, v in zip(a.float().tolist(), b.float().tolist(), strict=True)]


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("dtype", IN_INTERPRETER, ids=str)
def test_exact_for_integers(dtype: torch.dtype, tile: int) -> None:
    a, b = (integers(tile + 3, 100, seed=s).to(dtype) for s in (1, 2))
    assert paired_dots(a, b, tile=tile).tolist() == right(a, b)


@settings(max_examples=20)
@given(
    pairs=st.integers(1, 40), length=st.integers(1, 128), stride=st.integers(0, 200),
    col_stride=st.integers(0, 3), offset=st.integers(0, 7), tile=st.sampled_from(TILES),
)
def test_any_strides(
    pairs: int, length: int, stride: int, col_stride: int, offset: int, tile: int
) -> None:
    size = 1 + offset + (pairs - 1) * stride + (length - 1) * col_stride
    a = integers(size, seed=3).as_strided((pairs, length), (stride, col_stride), offset)
    b = integers(length, pairs, seed=4).t()
    assert paired_dots(a, b, tile=tile).tolist() == right(a, b)


def test_a_row_that_is_not_finite_stays_alone() -> None:
    a, b = (integers(20, 32, seed=s) for s in (5, 6))
    a[3, 4], b[7, 9] = torch.nan, torch.inf
    a[7, 9] = 2.0
    got = paired_dots(a, b, tile=16)
    assert torch.isfinite(got).tolist() == [t not in (3, 7) for t in range(20)]
    keep = [t for t in range(20) if t not in (3, 7)]
    assert got[keep].tolist() == right(a[keep], b[keep])


def test_empty_and_errors() -> None:
    assert paired_dots(torch.zeros(0, 8), torch.zeros(0, 8)).shape == (0,)
    with pytest.raises(ValueError, match=r"\(2, 8\) and \(2, 9\)"):
        paired_dots(torch.zeros(2, 8), torch.zeros(2, 9))
    with pytest.raises(ValueError, match=r"at most 128 columns"):
        paired_dots(torch.zeros(2, 129), torch.zeros(2, 129))
    with pytest.raises(TypeError, match=r"torch\.float64"):
        paired_dots(torch.zeros(2, 8).double(), torch.zeros(2, 8).double())
    with pytest.raises(ValueError, match="tile 8"):
        paired_dots(torch.zeros(2, 8), torch.zeros(2, 8), tile=8)


BREAKS: dict[str, tuple[str, str]] = {
    "last row lost": ("row < num_pairs)[:, None]", "row < num_pairs - 1)[:, None]"),
    "last column lost": ("(col < length)", "(col < length - 1)"),
    "masked elements count": ("other=0.0", "other=1.0"),
    "stride of the other operand": ("row[:, None] * stride_b_row", "row[:, None] * stride_a_row"),
    "beside the diagonal": ("lane[:, None] == lane[None, :]",
                            "lane[:, None] == (lane[None, :] + 1) % TILE"),
    "last program not launched": ("triton.cdiv(num_pairs, tile)",
                                  "triton.cdiv(num_pairs, tile) - 1"),
    "operands of fewer bits": ("tl.dot(a, tl.trans(b)",
                               "tl.dot(a.to(tl.float8e5).to(tl.float32), tl.trans(b)"),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_kernel_is_found(broken: str, tmp_path: Path) -> None:
    a = 9.0 + integers(37, 70, seed=7)[2:, 3:50]
    b = integers(35, 60, seed=8)[:, 7:54]
    same = load_variant(module, tmp_path).paired_dots(a, b, tile=16)
    assert same.tolist() == right(a, b)
    wrong = load_variant(module, tmp_path, BREAKS[broken]).paired_dots(a, b, tile=16)
    assert wrong.tolist() != right(a, b)


@pytest.mark.skipif(
    platform.system() != "Linux", reason="triton compiles for a device on Linux only")
@pytest.mark.parametrize(("pointer", "tile", "precision", "instruction"), [
    ("*fp8e4nv", 64, "ieee", "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3"),
    ("*fp32", 16, "tf32", "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"),
])
def test_the_matrix_unit_is_what_adds(
    pointer: str, tile: int, precision: str, instruction: str, tmp_path: Path
) -> None:
    ptx = ptx_of(
        KERNEL, "_paired_dots_kernel", tmp_path,
        signature={
            "a_ptr": pointer, "b_ptr": pointer, "out_ptr": "*fp32", "num_pairs": "i32",
            "length": "i32", "stride_a_row": "i64", "stride_a_col": "i64", "stride_b_row": "i64",
            "stride_b_col": "i64",
        },
        constants={"TILE": tile, "LENGTH": 128, "PRECISION": precision})
    assert instruction in ptx
    assert "fma.rn.f32" not in ptx
    assert "ftz" not in ptx


@pytest.mark.gpu
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_on_the_device(dtype: torch.dtype, tile: int) -> None:
    a, b = (integers(203, 128, seed=s).to(dtype) for s in (9, 10))
    for precision in module.PRECISIONS:
        got = paired_dots(a.cuda(), b.cuda(), tile=tile, precision=precision)
        assert got.tolist() == right(a, b)
