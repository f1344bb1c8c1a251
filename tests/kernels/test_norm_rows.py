"""Layer-norm rows and columns: the op's own samples, exact references, and broken kernels."""

from __future__ import annotations

import math
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sdc_guard.calls import BoundCall, form_of
from sdc_guard.ops._registry import lookup
from tests.kernels.compiled import ptx_of
from tests.kernels.variants import load_variant

pytest.importorskip("triton", reason="triton has no wheel for this platform")

from sdc_guard_kernels import norm_backward_rows as backward_module
from sdc_guard_kernels import norm_parameter_gradients as parameter_module
from sdc_guard_kernels import norm_rows as forward_module
from sdc_guard_kernels.verdict import Verdict
from tests.kernels.judging import DTYPES, complaints, on_device, row_signature, verdicts, with_value

aten = torch.ops.aten
FORWARD, BACKWARD = "aten.native_layer_norm", "aten.native_layer_norm_backward"


def samples(name: str, dtype: torch.dtype) -> list[Any]:
    spec = lookup(name)
    assert spec is not None
    assert spec.samples is not None
    return spec.samples(torch.Generator().manual_seed(3), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [FORWARD, BACKWARD])
def test_right_calls_pass_and_flips_are_found(name: str, dtype: torch.dtype) -> None:
    faults = dtype is torch.float32
    found = [complaints(sample, faults=faults) for sample in samples(name, dtype)[:4:3]]
    assert len(found) == 2
    assert not any(found), found


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [FORWARD, BACKWARD])
def test_right_calls_of_other_layouts_pass(name: str, dtype: torch.dtype) -> None:
    # A transposed one takes thirteen programs, which the interpreter runs one by one.
    found = [complaints(sample) for sample in samples(name, dtype)]
    assert not any(found), found


def verdicts_of(op: Any, operands: tuple[Any, ...], held: tuple[Tensor | None, ...]
                ) -> list[Verdict]:
    form = form_of(op.default)
    spec = lookup(form.packet)
    assert spec is not None
    with np.errstate(all="ignore"):
        found = verdicts(spec, BoundCall(form, form.bind(operands, {})), held)  # type: ignore[arg-type]
    assert found is not None
    return [verdict for _, verdict in found]


def exact_row(row: list[float], eps: float) -> tuple[list[float], float, float]:
    """Normalised elements, mean and reciprocal deviation; all but the root in rationals."""
    values = [Fraction(x) for x in row]
    mean = sum(values, Fraction(0)) / len(values)
    variance = sum(((x - mean) ** 2 for x in values), Fraction(0)) / len(values)
    rstd = 1 / math.sqrt(variance + Fraction(eps))
    return [float(x - mean) * rstd for x in values], float(mean), rstd


@settings(max_examples=12)
@given(
    rows=st.integers(1, 9),
    cols=st.integers(2, 70),
    row_stride=st.integers(1, 90),
    col_stride=st.integers(1, 4),
    offset=st.integers(0, 5),
    dtype=st.sampled_from(DTYPES),
    shift=st.sampled_from([0.0, 1.0, 300.0]),
    weighted=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_any_strides_and_offset(
    rows: int, cols: int, row_stride: int, col_stride: int, offset: int, dtype: torch.dtype,
    shift: float, weighted: bool, seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    size = 1 + offset + (rows - 1) * row_stride + (cols - 1) * col_stride
    memory = (shift + torch.randn(size, generator=generator, dtype=torch.float64)).to(dtype)
    x = memory.as_strided((rows, cols), (row_stride, col_stride), offset)
    weight = torch.randn(2 * cols, generator=generator).to(dtype)[::2] if weighted else None
    bias = torch.randn(cols, generator=generator).to(dtype) if weighted else None
    found = [exact_row(row, 1e-3) for row in x.double().tolist()]
    y = torch.tensor([f[0] for f in found], dtype=torch.float64)
    if weight is not None and bias is not None:
        y = y * weight.double() + bias.double()
    stats = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    held = (y.to(dtype).t().contiguous().t(),
            torch.tensor([f[1] for f in found], dtype=torch.float64).to(stats)[:, None],
            torch.tensor([f[2] for f in found], dtype=torch.float64).to(stats)[:, None])
    operands = (x, [cols], weight, bias, 1e-3)
    for verdict in verdicts_of(aten.native_layer_norm, operands, held):
        assert verdict.num_over == 0
        assert verdict.worst_share <= 1.0
    place = int(torch.randint(0, rows * cols, (1,), generator=generator))
    value = y.flatten()[place]
    # Far outside what rounding may do to elements of a row that is nearly constant.
    wrong = with_value(held, 0, place, (value + 30.0 + value.abs()).to(dtype))
    wrong = with_value(wrong, 2, place // cols, held[2][place // cols, 0] * 3)
    found_wrong = verdicts_of(aten.native_layer_norm, operands, wrong)
    assert found_wrong[0][1:] == (place, 1)
    assert found_wrong[2][1:] == (place // cols, 1)


def test_rows_of_several_chunks() -> None:
    x = torch.randn(2, 5000, generator=torch.Generator().manual_seed(1)) + 5.0
    x[:, 4096:] -= 9.0  # the chunks have means of their own
    weight = torch.randn(5000, generator=torch.Generator().manual_seed(2))
    sample = (aten.native_layer_norm.default, (x, [5000], weight, None, 1e-5), {})
    assert complaints(sample) == []
    _, mean, rstd = aten.native_layer_norm(x, [5000], weight, None, 1e-5)
    grad = torch.randn(2, 5000, generator=torch.Generator().manual_seed(3))
    assert complaints((aten.native_layer_norm_backward.default, (
        grad, x, [5000], mean, rstd, weight, None, [True, False, False]), {})) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_rows_that_cannot_be_judged_are_left_out(dtype: torch.dtype) -> None:
    x = torch.randn(6, 40, generator=torch.Generator().manual_seed(1)).to(dtype)
    x[1, 3], x[2, 4] = torch.nan, torch.inf
    x[3], x[4] = torch.finfo(dtype).max, 0.0
    weight = torch.ones(40, dtype=dtype)
    weight[7] = torch.nan
    operands = (x, [40], weight, None, 1e-5)
    held = aten.native_layer_norm(*operands)
    assert [v.num_over for v in verdicts_of(aten.native_layer_norm, operands, held)] == [0, 0, 0]
    # A number where the weight's NaN must be, in each of the three rows that can be judged.
    wrong = (held[0].nan_to_num(nan=0.25), held[1], held[2])
    assert verdicts_of(aten.native_layer_norm, operands, wrong)[0].num_over == 3


def test_half_parameter_gradients_must_be_added_up_in_float32() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(700, 8, generator=generator).bfloat16()
    grad = torch.rand(700, 8, generator=generator).bfloat16()
    _, mean, rstd = aten.native_layer_norm(x, [8], None, None, 1e-5)
    weight = torch.ones(8).bfloat16()
    terms = grad.double() * (x.double() - mean.double()) * rstd.double()
    right = (None, terms.sum(0).bfloat16(), grad.double().sum(0).bfloat16())
    operands = (grad, x, [8], mean, rstd, weight, weight, [False, True, True])
    op = aten.native_layer_norm_backward
    assert [v.num_over for v in verdicts_of(op, operands, right)] == [0, 0]
    one_by_one = torch.zeros(8).bfloat16()
    for row in grad:
        one_by_one += row
    assert verdicts_of(op, operands, (None, right[1], one_by_one))[1].num_over == 8


@pytest.mark.parametrize("name", [FORWARD, BACKWARD])
def test_one_column(name: str) -> None:
    x = torch.randn(5, 1, generator=torch.Generator().manual_seed(1))
    one = torch.ones(1)
    y, mean, rstd = aten.native_layer_norm(x, [1], one, one, 1e-5)
    operands = (x, [1], one, one, 1e-5)
    if name == FORWARD:
        assert [v.num_over for v in verdicts_of(
            aten.native_layer_norm, operands, (y, mean, rstd))] == [0, 0, 0]
    else:
        given_ = (x, x, [1], mean, rstd, one, one, [True] * 3)
        held = aten.native_layer_norm_backward(*given_)
        assert [v.num_over for v in verdicts_of(
            aten.native_layer_norm_backward, given_, held)] == [0, 0, 0]


BREAKS: dict[str, tuple[str, tuple[str, str]]] = {
    "last column lost": ("norm_rows", ("(col < num_cols)", "(col < num_cols - 1)")),
    "merge of chunks lost": ("norm_rows", ("squares += step * step", "squares += 0.0 * step")),
    "masked columns count": ("norm_rows", (
        "tl.where(exists, x - mean_here[:, None], 0.0)", "x - mean_here[:, None]")),
    "means of the wrong rows": ("norm_rows", (
        "r2, mean_stride_0, mean_stride_1, mean_stride_2)",
        "r2, mean_stride_0, mean_stride_1, 0 * mean_stride_2)")),
    "wrong index": ("norm_rows", ("(col * i_stride_col)", "(col * y_stride_col)")),
    "weight of another column": ("norm_rows", (
        "weight_ptr + col * weight_stride", "weight_ptr + (num_cols - 1 - col) * weight_stride")),
    "gradient's last column lost": ("norm_backward_rows", (
        "col_exists = col < num_cols", "col_exists = col < num_cols - 1")),
    "mean gradient lost": ("norm_backward_rows", (" - mean_gradient\n", "\n")),
    "moment overwritten": ("norm_backward_rows", ("moment += tl.sum(a *", "moment = tl.sum(a *")),
    "weight forgotten": ("norm_backward_rows", (
        "a = a * weight[None, :]", "a = a + 0.0 * weight[None, :]")),
    "last rows lost": ("norm_parameter_gradients", (
        "row_exists = row < num_rows", "row_exists = row < num_rows - 1")),
    "last columns not launched": ("norm_parameter_gradients", (
        "_column_sums_kernel[(columns,", "_column_sums_kernel[(1,")),
    "first split read for all": ("norm_parameter_gradients", ("at += num_cols", "at += 0")),
    "split's rows summed from the front": ("norm_parameter_gradients", (
        "row = split * SPLIT_ROWS + start", "row = 0 * split + start")),
}
MODULES = {"norm_rows": forward_module, "norm_backward_rows": backward_module,
           "norm_parameter_gradients": parameter_module}


def breaking_samples(kernel: str) -> list[Any]:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(7, 4100, generator=generator)
    x[:, 4096:] += 50.0
    x = x[:2] if kernel != "norm_parameter_gradients" else torch.randn(300, 70, generator=generator)
    n = x.shape[1]
    weight, bias = torch.randn(2, n, generator=generator)
    small = torch.randn(9, 40, generator=generator)
    operands = [(x, [n], weight, bias, 1e-5), (small, [40], weight[:40], bias[:40], 1e-5)]
    found: list[Any] = []
    for args in operands:
        if kernel == "norm_rows":
            found.append((aten.native_layer_norm.default, args, {}))
            continue
        _, mean, rstd = aten.native_layer_norm(*args)
        grad = torch.randn(args[0].shape, generator=generator)
        mask = [kernel == "norm_backward_rows"] + [kernel == "norm_parameter_gradients"] * 2
        found.append((aten.native_layer_norm_backward.default,
                      (grad, *args[:2], mean, rstd, *args[2:4], mask), {}))
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
    found = [complaints(s, transposed=True, faults=k > 0)
             for k, s in enumerate(breaking_samples(kernel))]
    assert not any(found), found


BLOCKS: dict[str, Any] = {"WORK": "tl.float32", "END_COL": 256, "BLOCK_ROWS": 2, "BLOCK_COLS": 128}


@pytest.mark.parametrize(("kernel", "function", "constants"), [
    ("norm_rows", "_norm_rows_kernel",
     {"HAS_MEAN": True, "HAS_WEIGHT": True, "HAS_BIAS": True, **BLOCKS}),
    pytest.param("norm_backward_rows", "_norm_backward_rows_kernel",
                 {"HAS_MEAN": True, "HAS_WEIGHT": True, **BLOCKS}, marks=pytest.mark.slow),
    pytest.param("norm_parameter_gradients", "_column_sums_kernel",
                 {"HAS_MEAN": True, "SPLIT_ROWS": 128, "BLOCK_ROWS": 32, "BLOCK_COLS": 64},
                 marks=pytest.mark.slow),
    pytest.param("norm_parameter_gradients", "_judge_columns_kernel",
                 {"NUM_SPLITS": 4, "HAS_WEIGHT": True, "HAS_BIAS": True, "BLOCK_COLS": 64},
                 marks=pytest.mark.slow),
])
@pytest.mark.slow
def test_it_compiles(
    kernel: str, function: str, constants: dict[str, Any], tmp_path: Path
) -> None:
    module = MODULES[kernel]
    assert module.__file__ is not None
    ptx = ptx_of(Path(module.__file__), function, tmp_path,
                 signature=row_signature(module, function, "*bf16"), constants=constants)
    # Sums are in float64 although the operands are not; roots and quotients are rounded rightly.
    assert "add.rn.f64" in ptx or "add.f64" in ptx
    assert "sqrt.approx" not in ptx
    assert "sqrt.rn.f64" in ptx or kernel != "norm_rows"
    assert "mul.wide.s32" in ptx or "mul.lo.s64" in ptx or "mad.lo.s64" in ptx


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [FORWARD, BACKWARD])
def test_on_the_device(name: str, dtype: torch.dtype) -> None:
    found = [complaints(on_device(sample)) for sample in samples(name, dtype)]
    assert not any(found), found


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", MODULES)
def test_several_chunks_and_splits_on_the_device(kernel: str) -> None:
    found = [complaints(on_device(sample)) for sample in breaking_samples(kernel)]
    assert not any(found), found
