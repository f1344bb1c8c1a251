"""Softmax rows: the ops' own samples, exact references, special values, and broken kernels."""

from __future__ import annotations

import math
import sys
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

from sdc_guard_kernels import rows as addressing
from sdc_guard_kernels import softmax_backward_rows as backward_module
from sdc_guard_kernels import softmax_rows as forward_module
from sdc_guard_kernels.rows import c_order, rows_of, tile_of
from sdc_guard_kernels.verdict import Verdict
from tests.kernels.judging import (
    DTYPES,
    complaints,
    judged_by_host,
    on_device,
    references,
    row_signature,
    verdicts,
    with_value,
)

aten = torch.ops.aten
FORWARD = ("aten._softmax", "aten._log_softmax", "aten._safe_softmax")
BACKWARD = ("aten._softmax_backward_data", "aten._log_softmax_backward_data")


def samples(name: str, dtype: torch.dtype) -> list[Any]:
    spec = lookup(name)
    assert spec is not None
    assert spec.samples is not None
    return spec.samples(torch.Generator().manual_seed(3), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD])
def test_right_calls_pass_and_flips_are_found(name: str, dtype: torch.dtype) -> None:
    faults = dtype is torch.float32
    found = [complaints(sample, faults=faults and k in (0, 2), transposed=k == 2)
             for k, sample in enumerate(samples(name, dtype)[:3])]
    assert len(found) == 3
    assert not any(found), found


def verdict_of(op: Any, operands: tuple[Any, ...], result: Tensor) -> Verdict:
    form = form_of(op.default)
    spec = lookup(form.packet)
    assert spec is not None
    with np.errstate(all="ignore"):
        found = verdicts(spec, BoundCall(form, form.bind(operands, {})), (result,))
    assert found is not None
    return found[0][1]


def exact(row: list[float], *, logarithm: bool) -> list[float]:
    """By the definition, each row's sum by ``math.fsum``."""
    top = max(row)
    total = math.fsum(math.exp(x - top) for x in row)
    if logarithm:
        return [x - top - math.log(total) for x in row]
    return [math.exp(x - top) / total for x in row]


@settings(max_examples=12)
@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    cols=st.integers(1, 70),
    dim=st.integers(0, 3),
    order=st.permutations(range(4)),
    gap=st.integers(1, 3),
    offset=st.integers(0, 3),
    expanded=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    logarithm=st.booleans(),
    spread=st.sampled_from([0.0, 1e-3, 3.0, 200.0]),
    seed=st.integers(0, 2**31),
)
def test_any_strides_and_offset(
    sizes: list[int], cols: int, dim: int, order: list[int], gap: int, offset: int,
    expanded: bool, dtype: torch.dtype, logarithm: bool, spread: float, seed: int,
) -> None:
    dim = dim % (len(sizes) + 1)
    shape = (*sizes[:dim], cols, *sizes[dim:])
    generator = torch.Generator().manual_seed(seed)
    x = strided(shape, order, gap, offset, dtype)
    x.copy_(spread * torch.randn(shape, generator=generator, dtype=torch.float64))
    if expanded and len(sizes) > 1:
        other = 0 if dim else 1
        x = x.narrow(other, 0, 1).expand(shape)
    lines = x.double().movedim(dim, -1).reshape(-1, cols).tolist()
    found = [exact(line, logarithm=logarithm) for line in lines]
    expected = torch.tensor(found, dtype=torch.float64).reshape(
        x.movedim(dim, -1).shape).movedim(-1, dim)
    result = strided(shape, order[::-1], gap, 1, dtype)
    result.copy_(expected)
    op = aten._log_softmax if logarithm else aten._softmax
    right = verdict_of(op, (x, dim, False), result)
    assert right.num_over == 0
    assert right.worst_share <= 1.0

    place = int(torch.randint(0, result.numel(), (1,), generator=generator))
    index = np.unravel_index(place, shape)
    value = expected[tuple(int(i) for i in index)]
    wrong = with_value((result,), 0, place, (value + 0.5 + value.abs()).to(dtype))
    assert verdict_of(op, (x, dim, False), wrong[0])[1:] == (place, 1)


def strided(
    shape: tuple[int, ...], order: list[int], gap: int, offset: int, dtype: torch.dtype
) -> Tensor:
    """Zeros whose dimensions lie in memory in some order, with gaps and NaN between them."""
    strides, step = [0] * len(shape), gap
    for d in order:
        if d < len(shape):
            strides[d], step = step, step * (shape[d] + gap)
    memory = torch.full((offset + step,), torch.nan, dtype=dtype)
    return memory.as_strided(shape, strides, offset).zero_()


@pytest.mark.parametrize(("op", "cols", "dtype"), [
    (aten._softmax, 4095, torch.float32), (aten._log_softmax, 4097, torch.bfloat16),
    (aten._softmax, 8193, torch.float64), (aten._log_softmax, 50257, torch.bfloat16)])
def test_rows_of_several_chunks(op: Any, cols: int, dtype: torch.dtype) -> None:
    x = (4 * torch.randn(2, cols, generator=torch.Generator().manual_seed(1))).to(dtype)
    x[1] = x[1].sort().values  # each chunk has a larger maximum than the one before
    result = op(x, 1, False)
    assert verdict_of(op, (x, 1, False), result).num_over == 0
    wrong = with_value((result,), 0, 2 * cols - 1, result[1, -1] * 1.5)[0]
    assert verdict_of(op, (x, 1, False), wrong)[1:] == (2 * cols - 1, 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["_softmax", "_log_softmax", "_safe_softmax"])
def test_rows_without_a_softmax(name: str, dtype: torch.dtype) -> None:
    op = getattr(aten, name)
    x = torch.randn(7, 9, generator=torch.Generator().manual_seed(1)).to(dtype)
    x[1, 3] = -torch.inf
    x[2] = -torch.inf
    x[3, 4] = torch.nan
    x[4, 5] = torch.inf
    x[5, :4] = torch.finfo(dtype).max
    x[6] = torch.finfo(dtype).tiny / 4
    operands = (x, 1) if name == "_safe_softmax" else (x, 1, False)
    result = op(*operands)
    assert verdict_of(op, operands, result).num_over == 0
    spec = lookup(f"aten.{name}")
    assert spec is not None
    form = form_of(op.default)
    call = BoundCall(form, form.bind(operands, {}))
    reference = references(spec, call, (result,))[0]
    assert reference is not None
    judged = judged_by_host(result, reference)
    # A number where NaN is right, or where nothing but 0 is, is wrong.
    if name != "_log_softmax":
        judged |= np.isnan(reference.expected)
    everything = torch.full_like(result, 0.7)
    assert verdict_of(op, operands, everything).num_over == judged.sum()


@pytest.mark.parametrize("name", ["_softmax_backward_data", "_log_softmax_backward_data"])
def test_gradients_that_are_not_finite_are_not_judged(name: str) -> None:
    op = getattr(aten, name)
    g = torch.randn(5, 9, generator=torch.Generator().manual_seed(1))
    x = torch.randn(5, 9, generator=torch.Generator().manual_seed(2))
    x[4, 2] = -torch.inf
    y = x.log_softmax(1) if "log" in name else x.softmax(1)
    g[1, 3], g[2, 4], g[3] = torch.nan, torch.inf, 3e38
    operands = (g, y, 1, torch.float32)
    result = op(*operands)
    assert verdict_of(op, operands, result).num_over == 0
    wrong = torch.full_like(result, torch.nan)
    # The sums of row 3 may leave the range; a masked element of row 4 has a gradient.
    assert verdict_of(op, operands, wrong).num_over == 18


def test_subnormal_bfloat16_gradients_are_read_right() -> None:
    g = (torch.randn(4, 9, generator=torch.Generator().manual_seed(1)) * 2.0**-128).bfloat16()
    y = torch.zeros(4, 9).bfloat16().log_softmax(1)
    operands = (g, y, 1, torch.bfloat16)
    result = aten._log_softmax_backward_data(*operands)
    assert verdict_of(aten._log_softmax_backward_data, operands, result).num_over == 0


def test_addresses_are_64_bits_wide() -> None:
    # 4 GiB of address space of which two pages are touched.
    x = torch.empty(2**31 + 64, dtype=torch.float16).as_strided((2, 8), (2**31, 1), 0)
    x[0], x[1] = 1.0, torch.arange(8)
    result = aten._softmax(x.clone(), 1, False)
    assert verdict_of(aten._softmax, (x, 1, False), result).num_over == 0
    result[1] = 0.125
    assert verdict_of(aten._softmax, (x, 1, False), result).num_over == 8


def test_rows_are_merged_where_strides_allow() -> None:
    contiguous = rows_of((4, 5, 6, 7), (3,), [c_order((4, 5, 6, 7))] * 2)
    assert contiguous is not None
    assert contiguous.sizes == (1, 1, 120)
    middle = rows_of((4, 5, 6, 7), (1,), [c_order((4, 5, 6, 7))])
    assert middle is not None
    assert (middle.sizes, middle.num_cols) == ((1, 4, 42), 5)
    assert tile_of(middle).block_rows >= 32
    assert rows_of((3, 4, 5, 6), (2, 3), [(120, 30, 7, 1)]) is None
    assert rows_of((2,) * 5, (4,), [(100, 49, 24, 11, 1)]) is None


FORWARD_BREAKS: dict[str, tuple[str, str]] = {
    "last column lost": ("(col < num_cols)", "(col < num_cols - 1)"),
    "wrong stride": ("(col * y_stride_col)", "(col * x_stride_col)"),
    "maximum of the first chunk kept": ("top = new_top", "top = tl.where(start > 0, top, new_top)"),
    "sum not rescaled": ("total * tl.exp(top - finite_top)", "total"),
    "wrong index": ("(col * i_stride_col)", "(col * y_stride_col)"),
    "last program not launched": ("(tile.num_programs,)", "(max(tile.num_programs - 1, 1),)"),
    "result's rounding forgotten": ("error + result_u * (expected + error)", "error"),
    "storage roundoff forgotten": ("limits.phi + limits.storage_u", "limits.phi"),
    "NaN rows judged": ("(num_undefined == 0) & (empty == 0)", "(empty == 0)"),
}
BACKWARD_BREAKS: dict[str, tuple[str, str]] = {
    "last column lost": ("(col < num_cols)", "(col < num_cols - 1)"),
    "wrong stride": ("(col * y_stride_col)", "(col * dx_stride_col)"),
    "sum lost": ("total += tl.sum(term, axis=1)", "total = tl.sum(term, axis=1)"),
    "wrong sum": ("term = term * widened(y)", "term = term + widened(y)"),
    "half of the limit": ("(error + result_u", "(0.5 * error + 0.5 * result_u"),
    "absolute values lost": ("tl.sum(tl.abs(term), axis=1)", "tl.abs(tl.sum(term, axis=1))"),
}


def breaking_samples(names: tuple[str, ...]) -> list[Any]:
    """Two layouts, several chunks and programs, and every special row, for each op."""
    found: list[Any] = []
    for name in names:
        for dtype in (torch.float32, torch.bfloat16):
            found += samples(name, dtype)[2:3]
        wide = 3 * torch.randn(2, 4200, generator=torch.Generator().manual_seed(5))
        wide[1] = wide[1].sort().values
        special = torch.randn(4, 8, generator=torch.Generator().manual_seed(6))
        special[1, 2], special[2, 3] = torch.nan, -torch.inf
        op = getattr(aten, name.removeprefix("aten."))
        if name in FORWARD:
            found += [(op.default, (x, 1, False), {}) for x in (wide, special)]
        else:
            y = wide.log_softmax(1) if "log" in name else wide.softmax(1)
            found.append((op.default, (wide.flip(1), y, 1, torch.float32), {}))
    return found


@pytest.mark.parametrize("broken", FORWARD_BREAKS)
def test_the_tests_see_a_broken_kernel(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = load_variant(forward_module, tmp_path, FORWARD_BREAKS[broken])
    monkeypatch.setitem(sys.modules, "sdc_guard_kernels.softmax_rows", variant)
    with np.errstate(all="ignore"):
        assert any(complaints(s, transposed=True) for s in breaking_samples(FORWARD[:2]))


@pytest.mark.parametrize("broken", BACKWARD_BREAKS)
def test_the_tests_see_a_broken_gradient_kernel(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = load_variant(backward_module, tmp_path, BACKWARD_BREAKS[broken])
    monkeypatch.setitem(sys.modules, "sdc_guard_kernels.softmax_backward_rows", variant)
    with np.errstate(all="ignore"):
        assert any(complaints(s, transposed=True) for s in breaking_samples(BACKWARD))


@pytest.mark.slow
def test_the_breaking_samples_are_right() -> None:
    with np.errstate(all="ignore"):
        found = [complaints(s, transposed=True) for s in breaking_samples(FORWARD[:2] + BACKWARD)]
    assert not any(found), found


@pytest.mark.parametrize(("file", "kernel", "constants", "pointer"), [
    (forward_module, "_softmax_rows_kernel", {"LOGARITHM": False, "SAFE": True}, "*bf16"),
    pytest.param(backward_module, "_softmax_backward_rows_kernel", {"LOGARITHM": True}, "*fp64",
                 marks=pytest.mark.slow),
])
@pytest.mark.slow
def test_it_compiles(
    file: Any, kernel: str, constants: dict[str, Any], pointer: str, tmp_path: Path
) -> None:
    assert file.__file__ is not None
    work = "tl.float32" if pointer == "*bf16" else "tl.float64"
    ptx = ptx_of(
        Path(file.__file__), kernel, tmp_path,
        signature=row_signature(file, kernel, pointer),
        constants={**constants, "WORK": work, "END_COL": 256, "BLOCK_ROWS": 2, "BLOCK_COLS": 128})
    # The error of float32's exponential rests on this instruction, float64's on libdevice.
    assert ("ex2.approx.f32" in ptx or "ex2.approx.ftz.f32" in ptx) == (work == "tl.float32")
    assert "fma.rn.f64" in ptx


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD])
def test_on_the_device(name: str, dtype: torch.dtype) -> None:
    found = [complaints(on_device(sample)) for sample in samples(name, dtype)]
    assert not any(found), found


@pytest.mark.gpu
def test_a_large_vocabulary_on_the_device() -> None:
    x = (4 * torch.randn(64, 50257, device="cuda")).bfloat16()
    result = aten._log_softmax(x, 1, False)
    assert verdict_of(aten._log_softmax, (x, 1, False), result).num_over == 0
    assert addressing.TILE < 50257
