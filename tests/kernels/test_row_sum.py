"""row_sum against ``math.fsum`` within its derived bound, and altered copies that break it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.variants import load_variant

pytest.importorskip("triton", reason="triton has no wheel for this platform")

from sdc_guard_kernels import row_sum as module
from sdc_guard_kernels.row_sum import ACCUMULATORS, error_coefficient, row_sum

U64 = 2.0**-53
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.narrow(1, 0, 150).contiguous(),
    "transposed": lambda x: x.t(),
    "columns at an offset": lambda x: x[3:, 7:140],
    "every third column": lambda x: x[:, ::3],
    "one row repeated": lambda x: x[5].expand(9, -1),
    "one column repeated": lambda x: x[:, 5:6].expand(-1, 140),
    "overlapping windows": lambda x: x.as_strided((11, 137), (1, 1), 4),
}


def wide_range(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    """Random signs over 2^-6 ... 2^6: terms that round when added, and large cancellation."""
    generator = torch.Generator().manual_seed(seed)
    exponent = torch.randint(-6, 7, shape, generator=generator, dtype=torch.float64)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * 2.0**exponent).to(dtype)


def worst_share_of_bound(
    got: module.RowSum, x_RK: Tensor, *, accumulator: str
) -> tuple[float, float]:
    """Largest |error| / bound over the rows, for sum and abs_sum; infinite where got is not finite.

    ``math.fsum`` is the exact sum rounded once, so its own half ulp is part of the bound.
    """
    factor = error_coefficient(x_RK.shape[1], x_RK.dtype, accumulator=accumulator) + U64
    worst = [0.0, 0.0]
    for r, row in enumerate(x_RK.tolist()):
        limit = factor * math.fsum(map(abs, row))
        for i, values in enumerate((row, [abs(v) for v in row])):
            error = abs(got[i][r].item() - math.fsum(values))
            share = error / limit if limit else error
            worst[i] = max(worst[i], share if math.isfinite(share) else math.inf)
    return worst[0], worst[1]


@pytest.mark.parametrize("accumulator", ACCUMULATORS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_within_the_bound_for_any_layout(layout: str, dtype: torch.dtype, accumulator: str) -> None:
    x_RK = LAYOUTS[layout](wide_range(19, 161, dtype=dtype))
    got = row_sum(x_RK, accumulator=accumulator)
    assert max(worst_share_of_bound(got, x_RK, accumulator=accumulator)) <= 1.0


@settings(max_examples=25)
@given(
    rows=st.integers(1, 20),
    cols=st.integers(1, 300),
    row_stride=st.integers(0, 310),
    col_stride=st.integers(0, 5),
    offset=st.integers(0, 9),
)
def test_any_strides_and_offset(
    rows: int, cols: int, row_stride: int, col_stride: int, offset: int
) -> None:
    size = 1 + offset + (rows - 1) * row_stride + (cols - 1) * col_stride
    x_RK = wide_range(size).as_strided((rows, cols), (row_stride, col_stride), offset)
    got = row_sum(x_RK)
    assert max(worst_share_of_bound(got, x_RK, accumulator="float64")) <= 1.0


@pytest.mark.parametrize("accumulator", ACCUMULATORS)
@pytest.mark.parametrize(("num_cols", "split_cols"), [(700, 128), (128 * 129 + 1, 128)])
def test_rows_of_several_splits(
    num_cols: int, split_cols: int, accumulator: str, tmp_path: Path
) -> None:
    changes = ("SPLIT_COLS = 65536", f"SPLIT_COLS = {split_cols}")
    split_module = load_variant(module, tmp_path, changes)
    x_RK = wide_range(3, num_cols, dtype=torch.float32)
    got = split_module.row_sum(x_RK, accumulator=accumulator)
    factor = split_module.error_coefficient(num_cols, torch.float32, accumulator=accumulator)
    for r, row in enumerate(x_RK.tolist()):
        scale = math.fsum(map(abs, row))
        assert abs(got.sum[r].item() - math.fsum(row)) <= (factor + U64) * scale
        assert abs(got.abs_sum[r].item() - scale) <= (factor + U64) * scale


def test_the_compensated_bound_is_far_below_plain_float32() -> None:
    plain_float32 = 8191 * 2.0**-24
    compensated = error_coefficient(8192, torch.float32, accumulator="compensated")
    assert compensated < 1e-4 * plain_float32


def test_the_float64_bound_is_not_inflated() -> None:
    x_RK = wide_range(40, 2000)
    share, _ = worst_share_of_bound(row_sum(x_RK), x_RK, accumulator="float64")
    assert 1e-3 < share <= 1.0


def test_nothing_outside_the_view_is_read() -> None:
    memory = torch.full((40, 400), torch.nan, dtype=torch.float32)
    memory[7:18, 20:331] = wide_range(11, 311, dtype=torch.float32)
    x_RK = memory[7:18, 20:331]
    got = row_sum(x_RK)
    assert max(worst_share_of_bound(got, x_RK, accumulator="float64")) <= 1.0


def test_addresses_are_64_bits_wide() -> None:
    # 4 GiB of address space of which two pages are touched.
    x_RK = torch.empty(2**31 + 64, dtype=torch.float16).as_strided((2, 8), (2**31, 1), 0)
    x_RK[0] = 1.0
    x_RK[1] = 3.0
    assert row_sum(x_RK).sum.tolist() == [8.0, 24.0]


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    x_RK = wide_range(30, 500, dtype=torch.float32)
    whole, part = row_sum(x_RK), row_sum(x_RK[11:17])
    assert whole.sum[11:17].view(torch.int64).tolist() == part.sum.view(torch.int64).tolist()
    again = row_sum(x_RK)
    assert again.sum.view(torch.int64).tolist() == whole.sum.view(torch.int64).tolist()


# The interpreter computes with NumPy, which warns of the inf - inf in a compensation.
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("accumulator", ACCUMULATORS)
def test_non_finite_rows_stay_visible(accumulator: str) -> None:
    x_RK = torch.ones(4, 10)
    x_RK[1, 3] = torch.nan
    x_RK[2, 4] = torch.inf
    got = row_sum(x_RK, accumulator=accumulator)
    assert torch.isfinite(got.sum).tolist() == [True, False, False, True]
    assert torch.isfinite(got.abs_sum).tolist() == [True, False, False, True]


def test_empty_matrices() -> None:
    assert row_sum(torch.empty(3, 0)).sum.tolist() == [0.0, 0.0, 0.0]
    assert row_sum(torch.empty(0, 3)).sum.shape == (0,)


def test_errors_name_the_value() -> None:
    with pytest.raises(ValueError, match=r"takes a matrix, got shape \(2, 3, 4\)"):
        row_sum(torch.zeros(2, 3, 4))
    with pytest.raises(TypeError, match=r"torch\.int64"):
        row_sum(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="'float16', not one of"):
        row_sum(torch.zeros(2, 3), accumulator="float16")
    with pytest.raises(ValueError, match="'float16', not one of"):
        error_coefficient(8, torch.float32, accumulator="float16")


BREAKS: dict[str, tuple[str, str]] = {
    "last column lost": ("col < num_cols)", "col < num_cols - 1)"),
    "wrong offset": ("col[None, :] * stride_col", "(col[None, :] + 1) * stride_col"),
    "strides swapped": ("row[:, None] * stride_row", "row[:, None] * stride_col"),
    "masked elements count": ("other=0.0", "other=1.0"),
    "compensation lost": ("+ total_error.to(tl.float64)", "- total_error.to(tl.float64)"),
    "sign kept": ("tl.abs(x)", "x"),
    "last program not launched": (
        "triton.cdiv(num_rows, BLOCK_ROWS)",
        "triton.cdiv(num_rows, BLOCK_ROWS) - 1",
    ),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_the_check_sees_a_broken_kernel(broken: str, tmp_path: Path) -> None:
    x_RK = wide_range(40, 400, dtype=torch.float32)[2:21, 3:300]
    same = load_variant(module, tmp_path).row_sum(x_RK, accumulator="compensated")
    assert max(worst_share_of_bound(same, x_RK, accumulator="compensated")) <= 1.0
    wrong_module: ModuleType = load_variant(module, tmp_path, BREAKS[broken])
    wrong = wrong_module.row_sum(x_RK, accumulator="compensated")
    assert max(worst_share_of_bound(wrong, x_RK, accumulator="compensated")) > 1.0


@pytest.mark.gpu
@pytest.mark.parametrize("accumulator", ACCUMULATORS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_on_the_device(dtype: torch.dtype, accumulator: str) -> None:
    for x_RK in (wide_range(70, 3001, dtype=dtype), wide_range(3001, 70, dtype=dtype).t()):
        got = row_sum(x_RK.cuda().as_strided(x_RK.shape, x_RK.stride()), accumulator=accumulator)
        on_host = module.RowSum(got.sum.cpu(), got.abs_sum.cpu())
        assert max(worst_share_of_bound(on_host, x_RK, accumulator=accumulator)) <= 1.0


@pytest.mark.gpu
def test_a_row_longer_than_a_split_on_the_device() -> None:
    x_RK = wide_range(2, 200_003, dtype=torch.float32)
    got = row_sum(x_RK.cuda())
    on_host = module.RowSum(got.sum.cpu(), got.abs_sum.cpu())
    assert max(worst_share_of_bound(on_host, x_RK, accumulator="float64")) <= 1.0
