"""Gradients of embedding tables: right ones pass, in any layout; wrong ones and broken kernels are
found, and so is an addition in the storage format."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sdc_guard.calls import BoundCall
from sdc_guard.ops import lookup
from tests.kernels.compiled import ptx_of
from tests.kernels.judging import row_signature
from tests.kernels.offered import bound, drawn, flipped, judged, on_device, some_slow
from tests.kernels.variants import load_variant

pytest.importorskip("triton", reason="triton has no wheel for this platform")

from sdc_guard_kernels import embedding_gradient_rows as module
from sdc_guard_kernels.verdict import Verdict

aten = torch.ops.aten
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def call_of(gradient: Tensor, index: Tensor, size: int, padding: int = -1) -> BoundCall:
    return bound(aten.embedding_dense_backward.default, (gradient, index, size, padding, False), {})


def result_of(call: BoundCall, *, reverse: bool = False) -> Tensor:
    """By the definition, added in fp32 or wider and rounded once."""
    gradient, index = call["grad_output"], call["indices"]
    wide = torch.promote_types(gradient.dtype, torch.float32)
    kept = (index != call["padding_idx"]).flatten()
    terms = gradient.reshape(-1, gradient.shape[-1]).to(wide)[kept]
    rows = index.flatten()[kept].long()
    if reverse:
        terms, rows = terms.flip(0), rows.flip(0)
    table = torch.zeros(call["num_weights"], gradient.shape[-1], dtype=wide)
    return table.index_add_(0, rows, terms).to(gradient.dtype)


def verdicts(call: BoundCall, held: Tensor, seed: int = 1, device: str = "cpu"
             ) -> dict[str, Verdict]:
    found = judged(call, (held,), seed=seed, device=device)
    assert found is not None
    return {check.witness: verdict for check, verdict in found}


def over(call: BoundCall, held: Tensor, seed: int = 1) -> dict[str, int]:
    return {name: verdict.num_over for name, verdict in verdicts(call, held, seed).items()}


NONE = {"checksum": 0, "invariant": 0, "sample": 0}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_samples_of_the_op_pass(dtype: torch.dtype) -> None:
    spec = lookup("aten.embedding_dense_backward")
    assert spec is not None
    assert spec.samples is not None
    taken = 0
    for op, args, kwargs in spec.samples(torch.Generator().manual_seed(1), dtype):
        call = bound(op, args, kwargs)
        # For half formats ATen's CPU kernel adds in their own format, which breaks the contract.
        held = call.run()[0] if dtype.itemsize > 2 else result_of(call)
        found = judged(call, (held,))
        assert (found is None) == call["scale_grad_by_freq"]
        taken += found is not None
        assert not any(v.num_over for _, v in found or ())
    assert taken >= 3


@settings(max_examples=6)
@given(
    shape=st.lists(st.integers(1, 5), min_size=0, max_size=3),
    cols=st.integers(1, 70),
    size=st.integers(1, 45),
    stride=st.integers(0, 3),
    offset=st.integers(0, 4),
    dtype=st.sampled_from(DTYPES),
    index_dtype=st.sampled_from([torch.int32, torch.int64]),
    padded=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_any_layout_and_a_flip_anywhere(
    shape: list[int], cols: int, size: int, stride: int, offset: int, dtype: torch.dtype,
    index_dtype: torch.dtype, padded: bool, seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(shape), generator=generator).tolist()
    index = torch.randint(0, size, [2 * n for n in shape], generator=generator).to(index_dtype)
    index = index[tuple(slice(1, None, 2) for _ in shape)]
    num = offset + index.numel() * cols * max(stride, 1) + cols
    memory = torch.randn(num, generator=generator, dtype=torch.float64).to(dtype)
    wide = [shape[d] for d in order]
    strides = [0] * len(shape)
    for place, d in enumerate(order):
        strides[d] = stride * cols * int(np.prod(wide[place + 1:], dtype=int))
    gradient = memory.as_strided((*shape, cols), (*strides, 1), offset)
    call = call_of(gradient, index, size, 0 if padded else -1)
    held = result_of(call, reverse=True).t().contiguous().t()
    assert over(call, held, seed) == NONE
    place = int(torch.randint(0, held.numel(), (1,), generator=generator))
    row, col = divmod(place, cols)
    wrong = flipped((held,), 0, place)[0]
    named = index.flatten().tolist()
    chances = {named[i] for i in drawn(seed, module.NUM_SAMPLES, len(named))}
    times = (row in named) and not (padded and row == 0)
    found = verdicts(call, wrong, seed)
    assert found["checksum"][1:] == (col, 1)
    assert found["invariant"].num_over == (not times)
    assert (found["sample"].num_over > 0) == (times and row in chances)
    if not times:
        assert found["invariant"].place == place
    if found["sample"].num_over:
        assert found["sample"].place == place


def test_padding_and_unused_rows_must_be_zero() -> None:
    gradient = torch.ones(6, 5)
    index = torch.tensor([0, 1, 1, 3, 0, 0])
    call = call_of(gradient, index, 70, 0)
    held = result_of(call)
    assert over(call, held) == NONE
    for row in (0, 2, 69):
        wrong = held.clone()
        wrong[row, 4] = 2.0**-149
        assert over(call, wrong) == {"checksum": 0, "invariant": 1, "sample": 0}
        wrong[row] = torch.nan
        assert over(call, wrong) == {"checksum": 5, "invariant": 5, "sample": 0}
    assert verdicts(call, wrong)["invariant"].place == 345


def test_an_addition_in_the_storage_format_is_found() -> None:
    """It stagnates: the kernel of a CPU, and what the limit is for."""
    generator = torch.Generator().manual_seed(1)
    gradient = torch.rand(1500, 9, generator=generator).bfloat16()
    call = call_of(gradient, torch.randint(0, 2, (1500,), generator=generator), 4)
    assert over(call, result_of(call)) == NONE
    found = over(call, call.run()[0])
    assert found["checksum"] == 9
    assert found["sample"] >= 9
    assert found["invariant"] == 0


def test_a_row_of_one_term_is_exact_and_one_of_two_rounds_once() -> None:
    generator = torch.Generator().manual_seed(2)
    gradient = torch.randn(3, 40, generator=generator)
    call = call_of(gradient, torch.tensor([1, 0, 1]), 2)
    held = result_of(call)
    assert over(call, held) == NONE
    wrong = held.clone()
    wrong[0, 7] = torch.nextafter(wrong[0, 7], torch.tensor(9.0))
    assert over(call, wrong)["sample"] == 1
    wrong = held.clone()
    for _ in range(3):
        wrong[1] = torch.nextafter(wrong[1], torch.tensor(torch.inf))
    # Every position is drawn: this row twice.
    assert over(call, wrong)["sample"] == 80


def test_what_cannot_be_judged_is_left_out() -> None:
    gradient = torch.randn(12, 6, generator=torch.Generator().manual_seed(3))
    gradient[2, 1], gradient[3, 2], gradient[4, 3] = torch.nan, torch.inf, 3e38
    gradient[5, 3] = 3e38
    call = call_of(gradient, torch.arange(12) % 3, 3)
    assert over(call, result_of(call)) == NONE
    assert judged(call_of(gradient[:0], torch.zeros(0, dtype=torch.int64), 3),
                  (torch.zeros(3, 6),)) is None


def long_call() -> BoundCall:
    """Several blocks of indices, of rows of the table and of columns."""
    generator = torch.Generator().manual_seed(4)
    index = torch.randint(0, 150, (300,), generator=generator)
    index[::4], index[1::2] = 7, 9
    gradient = torch.randn(300, 2 * 70, generator=generator)[:, ::2]
    return call_of(gradient, index, 160, 7)


BREAKS: dict[str, tuple[str, str]] = {
    "padding counts": (" & (index != padding)", ""),
    "last term lost": ("mask=i < num_terms, other=-1)", "mask=i < num_terms - 1, other=-1)"),
    "rows of the gradient mixed up": (
        "(i % R2) * g_stride_2\n        g =", "i * g_stride_col\n        g ="),
    "last rows of the table lost": ("row_exists = row < num_weights", "row_exists = row < 128"),
    "sum overwritten": ("gradient_sum += g", "gradient_sum = g"),
    "splits lost": ("at += num_cols", "at += 0"),
    "only one block is scanned": ("start += SCAN", "start += num_terms"),
    "drawn sum overwritten": (
        "  total += tl.sum(g, axis=0)", "  total = tl.sum(g, axis=0)"),
    "drawn columns by the wrong stride": (
        "(col * g_stride_col)[None, :],\n                                mask=chosen",
        "col[None, :],\n                                mask=chosen"),
    "all rows unused": ("num[:, None] == 0.0", "num[:, None] >= 0.0"),
    "last columns not launched": (
        "_judge_columns_kernel[(columns,)]", "_judge_columns_kernel[(1,)]"),
    "roundings of terms not counted": (
        "weight = rounds * ((num - 1.0) * u", "weight = rounds * (0.0 * u"),
}


def failures() -> list[str]:
    """What is wrong with the kernels on one long call: right, and wrong in some places."""
    call = long_call()
    held = result_of(call)
    texts = [f"{name} of a right result" for name, num in over(call, held).items() if num]
    unused = held.clone()
    unused[155, 68] = 1.0
    if over(call, unused) != {"checksum": 1, "invariant": 1, "sample": 0}:
        texts.append("an unused row")
    every = held + 0.01
    every[7], every[150:] = 0.0, 0.0
    found = over(call, every)
    if found["checksum"] != 70 or found["sample"] < 70:
        texts.append("every row")
    return texts


def test_the_long_call_is_judged_rightly() -> None:
    assert failures() == []


@pytest.mark.parametrize("broken", some_slow(BREAKS, 2))
def test_the_tests_see_a_broken_kernel(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = load_variant(module, tmp_path, BREAKS[broken])
    monkeypatch.setitem(sys.modules, module.__name__, variant)
    assert failures() != []


CONSTANTS: dict[str, dict[str, Any]] = {
    "_column_sums_kernel": {"SPLIT_TERMS": 128, "SPLIT_RESULTS": 256, "BLOCK_ROWS": 32,
                            "BLOCK_COLS": 64},
    "_drawn_rows_kernel": {"SCAN": 256, "SCAN_ROWS": 64, "BLOCK_COLS": 64},
}


@pytest.mark.parametrize("kernel", CONSTANTS)
@pytest.mark.slow
def test_it_compiles(kernel: str, tmp_path: Path) -> None:
    assert module.__file__ is not None
    signature = {**row_signature(module, kernel, "*bf16"), "index_ptr": "*i64",
                 "counts_ptr": "*i32"}
    if kernel == "_drawn_rows_kernel":
        signature["seed"] = "i64"
    ptx = ptx_of(Path(module.__file__), kernel, tmp_path, signature=signature,
                 constants=CONSTANTS[kernel])
    assert "add.rn.f64" in ptx or "add.f64" in ptx
    atomic = [line for line in ptx.splitlines() if "atom." in line or "red." in line]
    assert atomic
    assert not any(".f32" in line or ".f64" in line for line in atomic)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_on_the_device(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(5)
    index = torch.randint(0, 5000, (4, 3000), generator=generator)
    index[:, ::3] = 11
    gradient = torch.randn(4, 3000, 200, generator=generator).to(dtype)
    call = on_device(call_of(gradient, index, 6000, 17))
    held = call.run()[0]
    assert {n: v.num_over for n, v in verdicts(call, held, device="cuda").items()} == NONE
    held[5500, 3] = 1.0
    found = verdicts(call, held, device="cuda")
    assert found["checksum"][1:] == (3, 1)
    assert found["invariant"][1:] == (5500 * 200 + 3, 1)
