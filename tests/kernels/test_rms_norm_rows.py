"""RMS-norm rows and columns: the norm kernels without a mean, and broken copies of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdc_guard.ops._registry import lookup
from tests.kernels.compiled import ptx_of
from tests.kernels.fused_rms_norm import on_a_cpu
from tests.kernels.variants import load_variant

pytest.importorskip("triton", reason="triton has no wheel for this platform")

from sdc_guard_kernels import norm_backward_rows as backward_module
from sdc_guard_kernels import norm_parameter_gradients as parameter_module
from sdc_guard_kernels import norm_rows as forward_module
from tests.kernels.judging import (
    DTYPES,
    complaints,
    made,
    on_device,
    row_signature,
    verdicts,
    with_value,
)

aten = torch.ops.aten
FORWARD, BACKWARD = aten._fused_rms_norm, aten._fused_rms_norm_backward
MODULES = {"norm_rows": forward_module, "norm_backward_rows": backward_module,
           "norm_parameter_gradients": parameter_module}


@pytest.fixture(autouse=True)
def _backward() -> Iterator[None]:
    with on_a_cpu():
        yield


def gradient(x: Any, shape: list[int], weight: Any, eps: float | None, mask: list[bool]) -> Any:
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(9)).to(x.dtype)
    rstd = FORWARD(x, shape, weight, eps)[1]
    return (BACKWARD.default, (grad, x, shape, rstd, weight, mask), {})


def samples(dtype: torch.dtype) -> list[Any]:
    """The op's own, and gradients of the same: 65 rows, and one matrix for each row."""
    spec = lookup("aten._fused_rms_norm")
    assert spec is not None
    assert spec.samples is not None
    forward = spec.samples(torch.Generator().manual_seed(3), dtype)
    first, _, wide = (args for _, args, _ in forward)
    return [*forward[::2], gradient(*first, [True, True]), gradient(*wide, [True, False])]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_right_calls_pass_and_flips_are_found(dtype: torch.dtype) -> None:
    found = [complaints(sample, faults=dtype is torch.float32) for sample in samples(dtype)]
    assert not any(found), found


@settings(max_examples=10)
@given(
    rows=st.integers(1, 9),
    cols=st.integers(1, 70),
    row_stride=st.integers(1, 90),
    col_stride=st.integers(0, 3),
    offset=st.integers(0, 5),
    dtype=st.sampled_from(DTYPES),
    size=st.sampled_from([1.0, 1e-30, 1e3]),
    weighted=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_any_strides_and_offset(
    rows: int, cols: int, row_stride: int, col_stride: int, offset: int, dtype: torch.dtype,
    size: float, weighted: bool, seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    num = 1 + offset + (rows - 1) * row_stride + (cols - 1) * col_stride
    memory = (size * torch.randn(num, generator=generator, dtype=torch.float64)).to(dtype)
    x = memory.as_strided((rows, cols), (row_stride, col_stride), offset)
    weight = torch.randn(2 * cols, generator=generator).to(dtype)[::2] if weighted else None
    spec, call, held = made((FORWARD.default, (x, [cols], weight, 1e-3), {}))
    exact = x.double()
    rstd = (exact.square().mean(-1, keepdim=True) + 1e-3).rsqrt()
    y = exact * rstd * (1.0 if weight is None else weight.double())
    held = (y.to(dtype).t().contiguous().t(), rstd.to(held[1].dtype))
    with np.errstate(all="ignore"):
        found = verdicts(spec, call, held)
        place = int(torch.randint(0, rows * cols, (1,), generator=generator))
        wrong = with_value(held, 0, place, (y.flatten()[place] + 2.0).to(dtype))
        wrong = with_value(wrong, 1, place // cols, held[1][place // cols, 0] * 1.01)
        found_wrong = verdicts(spec, call, wrong)
    assert found is not None
    assert found_wrong is not None
    assert [v.num_over for _, v in found] == [0, 0]
    assert [v[1:] for _, v in found_wrong] == [(place, 1), (place // cols, 1)]
    sample = gradient(x, [cols], weight, 1e-3, [True, weighted])
    with np.errstate(all="ignore"):
        assert [v.num_over for _, v in verdicts(*made(sample)) or ()] == [0] * (1 + weighted)


def test_half_rows_are_judged_however_long() -> None:
    """Their intermediates are kept in fp32, so it is that which must hold them."""
    x = torch.randn(2, 9000, generator=torch.Generator().manual_seed(1)).half()
    for sample in ((FORWARD.default, (x, [9000], None, None), {}),
                   gradient(x, [9000], None, None, [True, False])):
        spec, call, held = made(sample)
        wrong = with_value(held, 0, 9017, held[0][1, 17] + 1)
        found = verdicts(spec, call, wrong)
        assert found is not None
        assert found[0][1][1:] == (9017, 1)


def test_rows_that_cannot_be_judged_are_left_out() -> None:
    x = torch.randn(6, 40, generator=torch.Generator().manual_seed(1))
    x[1, 3], x[2, 4], x[3], x[4] = torch.nan, torch.inf, 3e38, 0.0
    for sample in ((FORWARD.default, (x, [40], None, 1e-5), {}),
                   gradient(x, [40], None, 1e-5, [True, False])):
        with np.errstate(all="ignore"):
            found = verdicts(*made(sample))
        assert found is not None
        assert not any(v.num_over for _, v in found)


BREAKS: dict[str, tuple[str, tuple[str, str]]] = {
    "last column lost": ("norm_rows", ("(col < num_cols)", "(col < num_cols - 1)")),
    "squares of the last chunk": ("norm_rows", (
        "squares += tl.sum(x * x", "squares = tl.sum(x * x")),
    "plain sum": ("norm_rows", ("tl.sum(x * x, axis=1)", "tl.sum(x, axis=1)")),
    "eps forgotten": ("norm_rows", ("variance + eps, 1.0)", "variance, 1.0)")),
    "roots of the wrong rows": ("norm_rows", (
        "r2, rstd_stride_0, rstd_stride_1, rstd_stride_2)",
        "r2, rstd_stride_0, rstd_stride_1, 0 * rstd_stride_2)")),
    "root taken for a mean": ("norm_backward_rows", (
        "mean = tl.zeros((BLOCK_ROWS,), dtype=tl.float64)", "mean = rstd")),
    "moment overwritten": ("norm_backward_rows", ("moment += tl.sum(a *", "moment = tl.sum(a *")),
    "moment lost": ("norm_backward_rows", (
        "slope = rstd * rstd * rstd * (moment / n)", "slope = 0.0 * moment")),
    "last rows lost": ("norm_parameter_gradients", (
        "row_exists = row < num_rows", "row_exists = row < num_rows - 1")),
    "roots of the first row": ("norm_parameter_gradients", (
        "r1 * rstd_stride_1 + r2 * rstd_stride_2", "r1 * rstd_stride_1 + 0 * r2")),
    "first split read for all": ("norm_parameter_gradients", ("at += num_cols", "at += 0")),
}


def breaking_samples(kernel: str) -> list[Any]:
    generator = torch.Generator().manual_seed(4)
    long = torch.randn(2, 4100, generator=generator)
    long[:, 4096:] += 50.0
    deep = torch.randn(300, 70, generator=generator)
    small = 0.01 * torch.randn(9, 40, generator=generator)
    weight = torch.randn(4100, generator=generator)
    found = []
    for x in (long if kernel != "norm_parameter_gradients" else deep, small):
        n = x.shape[1]
        if kernel == "norm_rows":
            found.append((FORWARD.default, (x, [n], weight[:n], 1e-4), {}))
        else:
            mask = [kernel == "norm_backward_rows", kernel != "norm_backward_rows"]
            found.append(gradient(x, [n], weight[:n], 1e-4, mask))
    return found


@pytest.mark.parametrize("broken", BREAKS)
def test_the_tests_see_a_broken_kernel(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, change = BREAKS[broken]
    variant = load_variant(MODULES[kernel], tmp_path, change)
    monkeypatch.setitem(sys.modules, f"sdc_guard_kernels.{kernel}", variant)
    with np.errstate(all="ignore"):
        assert any(complaints(s, transposed=True) for s in breaking_samples(kernel)[::-1])


@pytest.mark.slow
@pytest.mark.parametrize("kernel", MODULES)
def test_the_breaking_samples_are_right(kernel: str) -> None:
    found = [complaints(s, transposed=True, faults=False) for s in breaking_samples(kernel)]
    assert not any(found), found


BLOCKS: dict[str, Any] = {"WORK": "tl.float32", "END_COL": 256, "BLOCK_ROWS": 2, "BLOCK_COLS": 128}


@pytest.mark.parametrize(("kernel", "function", "constants"), [
    ("norm_rows", "_norm_rows_kernel", {"HAS_WEIGHT": True, "HAS_BIAS": False, **BLOCKS}),
    pytest.param("norm_backward_rows", "_norm_backward_rows_kernel",
                 {"HAS_WEIGHT": True, **BLOCKS}, marks=pytest.mark.slow),
    pytest.param("norm_parameter_gradients", "_column_sums_kernel",
                 {"SPLIT_ROWS": 128, "BLOCK_ROWS": 32, "BLOCK_COLS": 64}, marks=pytest.mark.slow),
])
@pytest.mark.slow
def test_it_compiles(
    kernel: str, function: str, constants: dict[str, Any], tmp_path: Path
) -> None:
    module = MODULES[kernel]
    assert module.__file__ is not None
    ptx = ptx_of(Path(module.__file__), function, tmp_path,
                 signature=row_signature(module, function, "*bf16"),
                 constants={"HAS_MEAN": False, **constants})
    assert "add.rn.f64" in ptx or "add.f64" in ptx
    assert "sqrt.approx" not in ptx


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_on_the_device(dtype: torch.dtype) -> None:
    """The device's own results and its own backward."""
    found = [complaints(on_device(sample)) for sample in samples(dtype)]
    assert not any(found), found


@pytest.mark.gpu
@pytest.mark.parametrize("num_cols", [48, 50, 4100, 30001])
def test_lengths_that_take_other_kernels_on_the_device(num_cols: int) -> None:
    """Rows of a multiple of 4 and others are read by different kernels."""
    x = (2 + torch.randn(5, num_cols, generator=torch.Generator().manual_seed(1))).cuda()
    spec, call, held = made((FORWARD.default, (x, [num_cols], None, None), {}))
    found = verdicts(spec, call, held)
    assert found is not None
    assert [v.num_over for _, v in found] == [0, 0]
