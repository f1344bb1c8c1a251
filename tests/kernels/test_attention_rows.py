"""Rows of attention and of its gradients: the host's reference and limits, and altered copies.

The host's float64 reference (NumPy and BLAS) is tested against exact arithmetic by itself; here
results are made to miss it by a known share of its limit, which the kernels must find again.
"""

from __future__ import annotations

import math
import platform
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sdc_guard.calls import BoundCall
from sdc_guard.ops import _kernel_attention as adapter
from sdc_guard.ops.attention import backward_samples, forward_samples
from tests.kernels.compiled import float_arithmetic, ptx_of
from tests.kernels.variants import load_variant

pytest.importorskip("triton", reason="triton has no wheel for this platform")

import sdc_guard_kernels
from sdc_guard_kernels import attention_gradients as gradients_module
from sdc_guard_kernels import attention_rows as rows_module
from tests.kernels.offered import bound, drawn, flipped, judged, off_by, on_device, some_slow

DTYPES = (torch.float32, torch.bfloat16, pytest.param(torch.float64, marks=pytest.mark.slow),
          pytest.param(torch.float16, marks=pytest.mark.slow))
ROWS = 3
aten = torch.ops.aten
FORWARD = aten._scaled_dot_product_flash_attention_for_cpu.default
BACKWARD = aten._scaled_dot_product_flash_attention_for_cpu_backward.default


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "NUM_ROWS", ROWS)


def operands(
    batch: int, heads: int, shared: int, queries: int, keys: int, size: int, *,
    dtype: torch.dtype = torch.float32, layout: int = 0, seed: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value; layout 1 has heads behind the sequence, 2 takes every second element
    of a larger tensor, 3 has one image for all."""
    generator = torch.Generator().manual_seed(seed)

    def draw(num_heads: int, length: int) -> Tensor:
        x = torch.randn(batch, num_heads, length, size, generator=generator).to(dtype)
        if layout == 1:
            return x.transpose(1, 2).contiguous().transpose(1, 2)
        if layout == 2:
            return torch.stack((x, x + 50), -1).flatten(-2)[..., ::2]
        return x[:1].expand(x.shape) if layout == 3 else x

    return draw(heads, queries), draw(shared, keys), draw(shared, keys)


def made(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[BoundCall, tuple[Tensor, ...]]:
    call = bound(FORWARD, (q, k, v, 0.0, causal), {"attn_mask": mask, "scale": scale})
    return call, call.run()


def backward_of(call: BoundCall, held: tuple[Tensor, ...]) -> tuple[BoundCall, tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(9)
    grad = torch.randn(held[0].shape, generator=generator).to(held[0].dtype)
    back = bound(BACKWARD, (grad, call["query"], call["key"], call["value"], *held, 0.0,
                            call["is_causal"]),
                 {"attn_mask": call["attn_mask"], "scale": call["scale"]})
    return back, back.run()


def assert_found(call: BoundCall, held: tuple[Tensor, ...], elements: list[int]) -> None:
    """The kernels expect what the host expects, and their limit is the host's; ``elements`` per
    sampled row, for each record."""
    for _, verdict in off_by(call, held, 0.98):
        assert 0.96 < verdict.worst_share < 1.0
        assert verdict.num_over == 0
    over = [verdict.num_over for _, verdict in off_by(call, held, -1.02)]
    assert over == elements


@pytest.mark.parametrize("layout", range(4))
def test_values_and_limits_are_those_of_the_host(layout: int) -> None:
    dtype = (torch.bfloat16, torch.float32)[layout % 2]
    q, k, v = operands(2, 2, 2, 5, 70, 6, dtype=dtype, layout=layout)
    mask = torch.randn(5, 70, generator=torch.Generator().manual_seed(2)).to(dtype)
    call, held = made(q, k, v, causal=layout == 1, mask=mask if layout % 2 == 0 else None,
                      scale=0.7 if layout == 2 else None)
    assert_found(call, held, [6 * ROWS, ROWS])
    back, gradients = backward_of(call, held)
    # A causal mask hides keys 5 ... 69, whose gradients are 0 within a limit of underflow.
    assert_found(back, gradients, [6 * ROWS] * 3)


@settings(max_examples=3)
@given(
    batch=st.integers(1, 2), shared=st.integers(1, 2), queries=st.integers(1, 5),
    keys=st.integers(1, 40), size=st.integers(1, 18), causal=st.booleans(),
)
def test_any_shape(
    batch: int, shared: int, queries: int, keys: int, size: int, causal: bool
) -> None:
    q, k, v = operands(batch, shared, shared, queries, keys, size)
    call, held = made(q, k, v, causal=causal)
    rows, key_rows = (min(ROWS, batch * shared * n) for n in (queries, keys))
    if causal:
        assert all(verdict.num_over == 0 for _, verdict in judged(call, held) or [])
        return
    assert_found(call, held, [rows * size, rows])
    back, gradients = backward_of(call, held)
    assert_found(back, gradients, [rows * size, key_rows * size, key_rows * size])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_silent_on_aten_and_loud_on_a_flipped_bit(dtype: torch.dtype) -> None:
    for make in (forward_samples, backward_samples):
        for i, (op, args, kwargs) in enumerate(make(torch.Generator().manual_seed(3), dtype)[::2]):
            call = bound(op, args, kwargs)
            held = call.run()
            verdicts = judged(call, held)
            assert verdicts
            assert all(v.num_over == 0 for _, v in verdicts)
            check, _ = verdicts[i % len(verdicts)]
            size = held[check.output].shape[-1] if check.unit == "row" else 1
            seed = 2 if make is backward_samples and check.output else 1
            row = drawn(seed, ROWS, held[check.output].numel() // size)[-1]
            wrong = dict(judged(call, flipped(held, check.output, row * size)) or [])
            assert (wrong[check].place, wrong[check].num_over) == (row, 1)


def test_shared_keys() -> None:
    # The CPU's kernel wants equal heads; its result on repeated keys is the shared result.
    q, k, v = operands(2, 4, 2, 3, 9, 5)
    call, held = made(q, *(x.repeat_interleave(2, 1) for x in (k, v)))
    shared = call.replaced(key=k, value=v)
    assert_found(shared, held, [5 * ROWS, ROWS])
    back, gradients = backward_of(call, held)
    folded = (gradients[0], *(x.unflatten(1, (2, 2)).sum(2) for x in gradients[1:]))
    assert_found(back.replaced(key=k, value=v), folded, [5 * ROWS] * 3)


def test_non_finite_numbers_masks_and_empty_rows() -> None:
    q, k, v = operands(1, 1, 1, 3, 4, 5)
    mask = torch.zeros(3, 4)
    mask[1] = -torch.inf
    call, held = made(q, k, v, mask=mask)
    assert [verdict.num_over for _, verdict in judged(call, held) or []] == [0, 0]
    for bad in (torch.nan, torch.inf):
        wrong = flipped(held, 0, 2)
        wrong[0].view(-1)[2] = bad  # in row 0
        wrong[0].view(-1)[7] = 1.0  # in the row without keys, which is 0
        verdicts = judged(call, wrong)
        assert verdicts
        assert (verdicts[0][1].num_over, verdicts[0][1].worst_share) == (2, math.inf)
        for operand in ("query", "key", "value"):
            image = call[operand].clone()
            image.view(-1)[0] = bad
            over = [v.num_over for _, v in judged(call.replaced(**{operand: image}), held) or []]
            assert over == [0, 0] or operand == "query"
    big = call.replaced(query=q * 1e30, key=k * 1e30)
    assert [verdict.num_over for _, verdict in judged(big, held) or []] == [0, 0]
    tiny = call.replaced(value=v * 1e-42)
    assert [verdict.num_over for _, verdict in judged(tiny, tiny.run()) or []] == [0, 0]


def test_dropout_and_truth_masks_are_left_out() -> None:
    q, k, v = operands(1, 1, 1, 3, 4, 8)
    call, held = made(q, k, v)
    assert judged(call.replaced(dropout_p=0.5), held) is None
    assert judged(call.replaced(attn_mask=torch.ones(3, 4, dtype=torch.bool)), held) is None
    wide = operands(1, 1, 1, 2, 2, 1000)
    assert judged(*made(*wide)) is None


ROW_MUTANTS: dict[str, tuple[str, str]] = {
    "last key lost": ("exists = n < num_keys", "exists = n < num_keys - 1"),
    "last block dropped": ("while start < num_keys:", "while start < num_keys - 1:"),
    "causal mask off by one": ("(n <= m)", "(n < m)"),
    "mask ignored": ("* scale + mask", "* scale"),
    "wrong stride": ("+ m * tl.load(table_ptr + 9)", "+ m * tl.load(table_ptr + 8)"),
    "accumulates the last block alone": ("out += tl.sum", "out = tl.sum"),
    "another head": ("shared = h //", "shared = (h + 1) % heads //"),
    "low precision": ("p = tl.where(counts, tl.exp(-distance), 0.0)",
                      "p = tl.where(counts, tl.exp((-distance).to(tl.float16).to(tl.float64)), 0)"),
}
GRADIENT_MUTANTS: dict[str, tuple[str, str]] = {
    "last query lost": ("exists = index < sharing * queries",
                        "exists = index < sharing * queries - 1"),
    "last key lost": ("exists = n < num_keys", "exists = n < num_keys - 1"),
    "row sums forgotten": ("difference = dp - d", "difference = dp"),
    "causal mask off by one": ("(n <= m)", "(n < m)"),
    "accumulates the last block alone": ("dv += tl.sum", "dv = tl.sum"),
    "stale pointer": ("tl.load(query_ptr + at, mask=wide", "tl.load(key_ptr + at, mask=wide"),
}


def mutant_case() -> tuple[BoundCall, tuple[Tensor, ...]]:
    # 129 queries and keys: one in the second block.
    q, k, v = operands(1, 2, 2, 129, 129, 4, layout=1)
    mask = torch.randn(129, 129, generator=torch.Generator().manual_seed(2))
    # All see the last key best, and the last query sees it too well.
    q[:, :, -1], k[:, :, -1] = 2.0, 2.0
    return made(q, k, v, mask=mask)


@pytest.mark.parametrize("mutant", some_slow(ROW_MUTANTS))
def test_a_broken_kernel_of_rows_is_seen(
    mutant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = load_variant(rows_module, tmp_path, ROW_MUTANTS[mutant])
    monkeypatch.setattr(sdc_guard_kernels, "attention_rows", broken)
    monkeypatch.setattr(adapter, "NUM_ROWS", 4)
    call, held = mutant_case()
    if "causal" in mutant:
        call, held = made(*(call[n] for n in ("query", "key", "value")), causal=True)
    verdicts = [verdict for _, verdict in off_by(call, held, 0.0)]
    assert any(v.num_over > 0 for v in verdicts)


@pytest.mark.parametrize("mutant", some_slow(GRADIENT_MUTANTS))
def test_a_broken_kernel_of_gradients_is_seen(
    mutant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = load_variant(gradients_module, tmp_path, GRADIENT_MUTANTS[mutant])
    monkeypatch.setattr(sdc_guard_kernels, "attention_gradients", broken)
    monkeypatch.setattr(adapter, "NUM_ROWS", 4)
    call, held = mutant_case()
    if "causal" in mutant:
        call, held = made(*(call[n] for n in ("query", "key", "value")), causal=True)
    back, gradients = backward_of(call, held)
    assert any(verdict.num_over > 0 for _, verdict in off_by(back, gradients, 0.0))


@pytest.mark.skipif(platform.system() != "Linux", reason="triton compiles on Linux only")
@pytest.mark.slow
def test_it_compiles_to_64_bit_arithmetic(tmp_path: Path) -> None:
    assert rows_module.__file__ is not None
    ptx = ptx_of(
        Path(rows_module.__file__), "_attention_rows_kernel", tmp_path,
        signature={**dict.fromkeys(("query_ptr", "key_ptr", "value_ptr", "mask_ptr", "out_ptr"),
                                   "*bf16"),
                   "lse_ptr": "*fp32", "table_ptr": "*i64", "factor_ptr": "*fp64",
                   "out_record_ptr": "*i64", "lse_record_ptr": "*i64", "seed": "i64",
                   "num_samples": "i32"},
        constants={"CAUSAL": True, "HAS_MASK": True, "HAS_LSE": True, "BLOCK_N": 16,
                   "BLOCK_D": 16, "BLOCK_V": 16}, num_warps=8)
    assert {name.rpartition(".")[2] for name in float_arithmetic(ptx)} == {"f64"}


@pytest.mark.slow
@pytest.mark.skipif(platform.system() != "Linux", reason="triton compiles on Linux only")
def test_gradients_compile_to_64_bit_arithmetic(tmp_path: Path) -> None:
    assert gradients_module.__file__ is not None
    pointers = ("query_ptr", "key_ptr", "value_ptr", "mask_ptr", "out_ptr", "grad_ptr", "dk_ptr",
                "dv_ptr")
    ptx = ptx_of(
        Path(gradients_module.__file__), "_key_rows_kernel", tmp_path,
        signature={**dict.fromkeys(pointers, "*bf16"), "lse_ptr": "*fp32", "table_ptr": "*i64",
                   "factor_ptr": "*fp64", "dk_record_ptr": "*i64", "dv_record_ptr": "*i64",
                   "seed": "i64", "num_samples": "i32"},
        constants={"CAUSAL": True, "HAS_MASK": True, "HAS_DK": True, "HAS_DV": True, "BLOCK": 16,
                   "BLOCK_D": 16, "BLOCK_V": 16}, num_warps=8)
    assert {name.rpartition(".")[2] for name in float_arithmetic(ptx)} == {"f64"}


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_on_the_device(dtype: torch.dtype, causal: bool) -> None:
    q, k, v = (x.cuda() for x in operands(2, 4, 4, 200, 200, 64, dtype=dtype))
    call = bound(aten._scaled_dot_product_flash_attention.default, (q, k, v, 0.0, causal), {})
    held = call.run()
    verdicts = judged(call, held, device="cuda")
    assert verdicts
    assert all(verdict.num_over == 0 for _, verdict in verdicts)
    row = drawn(1, ROWS, 2 * 4 * 200)[1]
    wrong = judged(call, flipped(held, 0, row * 64), device="cuda")
    assert wrong
    assert (wrong[0][1].place, wrong[0][1].num_over) == (row, 1)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_rows_of_host_results_on_the_device(dtype: torch.dtype) -> None:
    for make in (forward_samples, backward_samples):
        for op, args, kwargs in make(torch.Generator().manual_seed(3), dtype):
            call: Any = bound(op, args, kwargs)
            held = tuple(t.cuda() for t in call.run())
            verdicts = judged(on_device(call), held, device="cuda")
            assert verdicts
            assert all(verdict.num_over == 0 for _, verdict in verdicts)
