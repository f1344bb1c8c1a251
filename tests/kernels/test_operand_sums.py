"""operand_sums against ``math.fsum`` within its derived bounds, and altered copies of it."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.compiled import float_arithmetic, ptx_of
from tests.kernels.drawn import wide_range
from tests.kernels.variants import load_variant

pytest.importorskip("triton", reason="triton has no wheel for this platform")

from sdc_guard_kernels import operand_sums as module
from sdc_guard_kernels.operand_sums import operand_sums

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.narrow(1, 0, 48).contiguous(),
    "transposed": lambda x: x.t(),
    "columns at an offset": lambda x: x[3:, 7:60],
    "every third column": lambda x: x[:, ::3],
    "one row repeated": lambda x: x[5].expand(9, -1),
    "one column repeated": lambda x: x[:, 5:6].expand(-1, 40),
    "overlapping windows": lambda x: x.as_strided((11, 37), (1, 1), 4),
    "batches": lambda x: x.as_strided((3, 9, 20), (500, 41, 2), 1),
}
SMALL = (("WIDEST_ROW_BLOCK = 1024", "WIDEST_ROW_BLOCK = 16"),
         ("WIDEST_BLOCK_WITH_COLUMNS = 512", "WIDEST_BLOCK_WITH_COLUMNS = 16"),
         ("MOST_ROWS = 128", "MOST_ROWS = 16"), ("FEWEST_PROGRAMS = 256", "FEWEST_PROGRAMS = 8"),
         ("FOLD_BLOCK = 256", "FOLD_BLOCK = 32"))
"""Several tiles and spans in a small matrix."""


def worst_share(x: Tensor, *, columns: bool, kernels: ModuleType = module) -> float:
    """Largest |error| / bound of all sums of x; infinite where a result is not finite.

    ``math.fsum`` is the exact sum rounded once, so its own half ulp is part of the bound.
    """
    found = kernels.operand_sums(x, columns=columns)
    batched = x if x.dim() == 3 else x[None]
    work = kernels.working_dtype(x.dtype)
    plan = kernels.sums_plan(*batched.shape, work, columns=columns)
    sides = [(found.rows, batched, plan.row_error)]
    if columns:
        sides.append((found.columns, batched.transpose(1, 2), plan.column_error))
    worst = 0.0
    for got, lines, factor in sides:
        assert got.dtype is work
        assert got.shape == (3 if x.dtype is torch.float16 else 2, *lines.shape[:2])
        for b, matrix in enumerate(lines.double().tolist()):
            for r, line in enumerate(matrix):
                size = math.fsum(map(abs, line))
                limit = (factor + 2.0**-53) * size
                for kind, exact in enumerate((math.fsum(line), size)):
                    error = abs(got[kind, b, r].item() - exact)
                    share = error / limit if limit else error
                    worst = max(worst, share if math.isfinite(share) else math.inf)
                if len(got) == 3 and got[2, b, r].item() != max(map(abs, line), default=0.0):
                    return math.inf
    return worst


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_within_the_bound_for_any_layout(layout: str, dtype: torch.dtype) -> None:
    assert worst_share(LAYOUTS[layout](wide_range(19, 83, dtype=dtype)), columns=True) <= 1.0


@settings(max_examples=12)
@given(
    rows=st.integers(1, 33), cols=st.integers(1, 70), row_stride=st.integers(0, 80),
    col_stride=st.integers(0, 5), offset=st.integers(0, 9), columns=st.booleans(),
)
def test_any_strides_and_offset(
    rows: int, cols: int, row_stride: int, col_stride: int, offset: int, columns: bool
) -> None:
    size = 1 + offset + (rows - 1) * row_stride + (cols - 1) * col_stride
    x = wide_range(size, dtype=torch.float32)
    view = x.as_strided((rows, cols), (row_stride, col_stride), offset)
    assert worst_share(view, columns=columns) <= 1.0


@pytest.mark.parametrize("columns", [False, True])
def test_several_tiles_and_spans(columns: bool, tmp_path: Path) -> None:
    small = load_variant(module, tmp_path, *SMALL)
    x = wide_range(2, 37, 40, dtype=torch.float16)
    plan = small.sums_plan(2, 37, 40, torch.float32, columns=columns)
    assert plan.col_tiles * plan.col_spans == 3
    assert not columns or (plan.row_tiles > 1 and plan.row_spans > 1)
    assert worst_share(x, columns=columns, kernels=small) <= 1.0


def test_the_bound_is_far_below_that_of_a_product() -> None:
    plan = module.sums_plan(1, 8192, 8192, torch.float32, columns=True)
    assert max(plan.row_error, plan.column_error) < 0.01 * 8192 * 2.0**-24


def test_nothing_outside_the_view_is_read() -> None:
    memory = torch.full((40, 90), torch.nan)
    memory[7:18, 20:71] = wide_range(11, 51, dtype=torch.float32)
    assert worst_share(memory[7:18, 20:71], columns=True) <= 1.0


def test_addresses_are_64_bits_wide() -> None:
    # 4 GiB of address space of which two pages are touched.
    x = torch.empty(2**31 + 64, dtype=torch.bfloat16).as_strided((2, 8), (2**31, 1), 0)
    x[0] = 1.0
    x[1] = 3.0
    found = operand_sums(x, columns=True)
    assert found.rows[0].tolist() == [[8.0, 24.0]]
    assert found.columns is not None
    assert found.columns[0].tolist() == [[4.0] * 8]


def test_subnormals_are_summed_exactly() -> None:
    x = torch.full((3, 20), 2.0**-149)
    assert operand_sums(x).rows[0].tolist() == [[20 * 2.0**-149] * 3]


def test_non_finite_rows_stay_visible() -> None:
    x = torch.ones(4, 10, dtype=torch.float16)
    x[1, 3] = torch.nan
    x[2, 4] = torch.inf
    found = operand_sums(x, columns=True)
    assert torch.isfinite(found.rows[1]).tolist() == [[True, False, False, True]]
    assert found.columns is not None
    assert torch.isfinite(found.columns[1]).tolist() == [[c not in (3, 4) for c in range(10)]]


def test_empty_operands() -> None:
    assert operand_sums(torch.empty(3, 0), columns=True).rows.tolist() == [[[0.0] * 3]] * 2
    found = operand_sums(torch.empty(0, 3), columns=True)
    assert found.rows.shape == (2, 1, 0)
    assert found.columns is not None
    assert found.columns.tolist() == [[[0.0] * 3]] * 2
    assert operand_sums(torch.empty(0, 2, 3)).rows.shape == (2, 0, 2)


def test_errors_name_the_value() -> None:
    with pytest.raises(ValueError, match=r"got shape \(3,\)"):
        operand_sums(torch.zeros(3))
    with pytest.raises(TypeError, match=r"torch\.int64"):
        operand_sums(torch.zeros(2, 3, dtype=torch.int64))


BREAKS: dict[str, tuple[str, str]] = {
    "last column lost": ("(col < num_cols)[None, :]", "(col < num_cols - 1)[None, :]"),
    "rows repeated": ("row_tile * BLOCK_R + lane_r", "lane_r"),
    "strides swapped": ("row[:, None] * stride_row", "row[:, None] * stride_col"),
    "masked elements count": ("mask=exists, other=0.0", "mask=exists, other=1.0"),
    "sign kept": ("abs_total += tl.sum(tl.abs(grouped)", "abs_total += tl.sum(grouped"),
    "lost accumulate": ("col_total += tl.sum(stacked", "col_total = tl.sum(stacked"),
    "batch lost": ("x_ptr += batch * stride_batch", "x_ptr += 0"),
    "last part lost": ("range(NUM_PARTS)", "range(NUM_PARTS - 1)"),
    "last span not launched": ("plan.row_spans * plan.col_spans,)", "plan.row_spans - 1,)"),
    "lower precision": (".to(WORK)\n", ".to(tl.bfloat16).to(WORK)\n"),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_the_check_sees_a_broken_kernel(broken: str, tmp_path: Path) -> None:
    x = wide_range(2, 39, 43, dtype=torch.float32)[:, 2:, 3:]
    wrong = load_variant(module, tmp_path, *SMALL, BREAKS[broken])
    assert worst_share(x, columns=True, kernels=wrong) > 1.0


@pytest.mark.skipif(platform.system() != "Linux", reason="triton compiles on Linux only")
@pytest.mark.slow
def test_it_compiles_to_additions_that_keep_subnormals(tmp_path: Path) -> None:
    assert module.__file__ is not None
    names = ("num_rows", "num_cols", "stride_batch", "stride_row", "stride_col", "row_spans",
             "col_spans", "row_kind_stride", "col_kind_stride")
    ptx = ptx_of(
        Path(module.__file__), "_sums_kernel", tmp_path, enable_fp_fusion=True,
        signature={"x_ptr": "*bf16", "rows_ptr": "*fp64", "cols_ptr": "*fp64",
                   **dict.fromkeys(names, "i64")},
        constants={"ROW_TILES": 4, "COL_TILES": 1, "BLOCK_R": 16, "BLOCK_C": 64, "GROUP": 8,
                   "GROUP_AXIS": 2, "ROW_GROUP": 4, "COLUMNS": True, "LARGEST": False,
                   "WORK": "tl.float32"},
    )
    found = {name.replace("add.f", "add.rn.f") for name in float_arithmetic(ptx)}
    assert found == {"add.rn.f32", "add.rn.f64"}
    assert ".ftz" not in ptx


@pytest.mark.gpu
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_on_the_device(dtype: torch.dtype, columns: bool) -> None:
    whole = wide_range(700, 640, dtype=dtype).cuda()
    for x in (whole, whole[:, :601], whole[:, 1:602].t()):
        assert worst_share(x, columns=columns) <= 1.0
