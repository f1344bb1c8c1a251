"""The row checksum against its parts in float64: every share of the limit by itself, and altered
copies that get one wrong."""

from __future__ import annotations

import math
import os
import platform
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.compiled import float_arithmetic, ptx_of
from tests.kernels.test_operand_sums import wide_range
from tests.kernels.variants import load_variant

pytest.importorskip("triton", reason="triton has no wheel for this platform")

from sdc_guard_kernels import product_checksum as module
from sdc_guard_kernels.operand_sums import by_rows, operand_sums, sums_plan
from sdc_guard_kernels.product_checksum import Numbers, working_dtype
from sdc_guard_kernels.verdict import Verdict, new_records, read

SHARES = ("abs_share", "a_share", "b_share", "addend_share", "result_share", "constant")
HUGE = 1e300


def numbers(alpha: float = 1.0, beta: float = 0.0, **shares: float) -> Numbers:
    made = dict.fromkeys(SHARES, 0.0) | shares
    return Numbers(alpha, beta, **made, largest_element=HUGE, largest_row=HUGE, factor_reach=0.0)


def verdict(
    a: Tensor, b: Tensor, c: Tensor, made: Numbers, addend: Tensor | None = None,
    kernels: ModuleType = module, **options: float,
) -> Verdict:
    records = new_records(1, c.device)
    kernels.product_checksum(
        a, operand_sums(b).rows, c, made.tensor(c.device), records[0], addend=addend, **options)
    return read(records)[0]


def wide(x: Tensor) -> np.ndarray:
    return np.asarray(x.double().cpu().numpy())


def broken_promise(
    a: Tensor, b: Tensor, c: Tensor, made: Numbers, addend: Tensor | None = None,
    kernels: ModuleType = module,
) -> str:
    """Empty if the record is what the definition and the kernel's own derived error allow."""
    d = np.zeros(c.shape) if addend is None else np.broadcast_to(wide(addend), tuple(c.shape))
    wide_a, wide_b, wide_c = wide(a), wide(b), wide(c)
    b_abs = np.abs(wide_b).sum(-1)
    size = (np.abs(wide_a) @ b_abs[..., None])[..., 0]
    a_size, b_size = np.abs(wide_a).sum(-1), b_abs.sum(-1)[..., None] + np.zeros(a.shape[:-1])
    d_size, c_size = np.abs(d).sum(-1), np.abs(wide_c).sum(-1)
    expected = made.alpha * (wide_a @ wide_b.sum(-1)[..., None])[..., 0] + made.beta * d.sum(-1)
    defect = np.abs(expected - wide_c.sum(-1))
    work = working_dtype(*(t.dtype for t in (a, b, c) + (() if addend is None else (addend,))))
    batches = a.shape[0] if a.dim() == 3 else 1
    plan = kernels.checksum_plan(batches, *a.shape[-2:], c.shape[-1], work, a_by_rows=by_rows(a))
    sums = sums_plan(b.shape[0] if b.dim() == 3 else 1, *b.shape[-2:], working_dtype(b.dtype),
                     columns=False)
    e = (1 + plan.inner_error) * (1 + sums.row_error) - 1
    f = plan.outer_error
    ours = (a.shape[-1] + c.shape[-1] + 16) * 2.0**-52
    own = abs(made.alpha) * ((e + ours) * size + plan.underflow)
    own = own + (f + ours) * (abs(made.beta) * d_size + c_size)
    limit = (made.abs_share * size + made.a_share * a_size + made.b_share * b_size
             + made.addend_share * d_size + made.result_share * c_size + made.constant)
    slack = max(e, f) + ours + 2.0**-23
    with np.errstate(divide="ignore", invalid="ignore"):
        low = np.maximum(defect - own, 0.0) / limit * (1 - slack)
        high = (defect + own) / limit * (1 + slack) + 2.0**-149
    found = verdict(a, b, c, made, addend, kernels)
    flat = high.reshape(-1)
    if not low.max() <= found.worst_share <= high.max():
        return f"share {found.worst_share}, not in {low.max()} ... {high.max()}"
    if not flat[found.place] >= low.max():
        return f"place {found.place}"
    if not (low > 1).sum() <= found.num_over <= (high > 1).sum():
        return f"{found.num_over} over, not {(low > 1).sum()} ... {(high > 1).sum()}"
    return ""


def case(
    seed: int, m: int, k: int, n: int, *, batch: int = 0, dtype: torch.dtype = torch.float32,
    flipped: bool = False, addend: str = "none",
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Factors at an offset in larger memory of NaN, a result that is wrong in every row, and an
    addend: full, one row or one column."""
    lead = (batch,) if batch else ()

    def made(rows: int, cols: int, turned: bool, offset: int) -> Tensor:
        shape = (*lead, cols, rows) if turned else (*lead, rows, cols)
        memory = torch.full((*lead, shape[-2] + 5, shape[-1] + 3), torch.nan, dtype=dtype)
        view = memory[..., offset: offset + shape[-2], 2: 2 + shape[-1]]
        view.copy_(wide_range(*shape, dtype=dtype, seed=seed + offset))
        return view.transpose(-1, -2) if turned else view

    a, b = made(m, k, flipped, 1), made(k, n, not flipped, 2)
    d = {"none": None, "full": made(m, n, flipped, 3), "row": wide_range(n, dtype=dtype),
         "column": wide_range(m, 1, dtype=dtype)}[addend]
    c = made(m, n, seed % 2 == 0, 4)
    return a, b, c, d


@settings(max_examples=15)
@given(
    seed=st.integers(0, 99), m=st.integers(1, 40), k=st.integers(0, 40), n=st.integers(1, 40),
    batch=st.integers(0, 3), flipped=st.booleans(), share=st.sampled_from(SHARES),
    addend=st.sampled_from(["none", "full", "row", "column"]),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_every_part_of_the_limit(
    seed: int, m: int, k: int, n: int, batch: int, flipped: bool, share: str, addend: str,
    dtype: torch.dtype,
) -> None:
    a, b, c, d = case(seed, m, k, n, batch=batch, dtype=dtype, flipped=flipped, addend=addend)
    beta = 0.0 if d is None else -1.5
    made = numbers(0.75, beta, constant=2.0**-20) if share == "constant" else numbers(
        0.75, beta, **{share: 0.5, "constant": 1.0})
    assert broken_promise(a, b, c, made, d) == ""


@pytest.mark.parametrize(("m", "k", "n"), [(16, 512, 513), (17, 513, 16), (33, 1025, 3)])
def test_at_the_edges_of_blocks(m: int, k: int, n: int) -> None:
    a, b, c, d = case(1, m, k, n, dtype=torch.bfloat16, flipped=m == 33, addend="full")
    assert broken_promise(a, b, c, numbers(1.0, 1.0, abs_share=1e-3), d) == ""


def test_one_matrix_for_all_batches() -> None:
    a, b = wide_range(3, 5, 7, dtype=torch.float32), wide_range(7, 6, dtype=torch.float32)
    c = (a.double() @ b.double()).float()
    assert verdict(a, b, c, numbers(abs_share=1e-5)).num_over == 0
    c[2, 4, 1] += 100.0
    found = verdict(a, b, c, numbers(abs_share=1e-5))
    assert (found.num_over, found.place) == (1, 2 * 5 + 4)


def test_a_result_that_is_not_finite_is_over_any_limit_unless_something_may_overflow() -> None:
    a, b = torch.ones(4, 3), torch.ones(3, 5)
    c = a @ b
    c[1, 2], c[3, 0] = torch.nan, -torch.inf
    made = numbers(abs_share=1.0, result_share=1.0)
    found = verdict(a, b, c, made)
    assert (found.num_over, found.place, found.worst_share) == (2, 1, math.inf)
    for limited in ("largest_element", "largest_row"):
        assert verdict(a, b, c, made._replace(**{limited: 14.0})).num_over == 0
        assert verdict(a, b, c, made._replace(**{limited: 16.0})).num_over == 2
    assert verdict(a, b, c, made._replace(factor_reach=HUGE)).num_over == 0
    # A finite row is judged all the same: an overflow would show.
    c[:] = 9.0
    assert verdict(a, b, c, made._replace(abs_share=0.1, result_share=0.0, largest_row=14.0)
                   ).num_over == 4


def test_the_elements_of_a_float16_row_are_told_from_its_sum() -> None:
    a, b = torch.full((1, 8), 90.0, dtype=torch.float16), torch.ones(8, 50, dtype=torch.float16)
    c = a @ b
    c[0, 3] = torch.inf
    made = numbers(abs_share=1.0)._replace(largest_element=32752.0)
    assert (np.abs(wide(a)) @ np.abs(wide(b))).sum() > 32752.0
    assert verdict(a, b, c, made).num_over == 1


def test_what_is_not_finite_by_definition_is_not_judged() -> None:
    a, b = torch.ones(4, 3), torch.ones(3, 5)
    a[2, 1] = torch.inf
    c = torch.zeros(4, 5)
    assert verdict(a, b, c, numbers(constant=1.0)).num_over == 3
    assert verdict(a, b, c, numbers(constant=math.inf)).num_over == 0
    assert verdict(a, b * 3e38, c, numbers(constant=1.0)).num_over == 0


def test_a_share_of_the_rows() -> None:
    a, b = torch.zeros(64, 4), torch.zeros(4, 400)
    c = torch.full((64, 400), 1.0)
    c[:48] = 0.0
    made = numbers(constant=1.0)
    assert verdict(a, b, c, made, row_share=1.0, seed=5).num_over == 16
    # Two blocks of four, from each of them on in turn.
    seen = [verdict(a, b, c, made, row_share=0.5, seed=2**62 + s).num_over for s in range(4)]
    assert sorted(seen) == [0, 0, 16, 16]


def test_addresses_are_64_bits_wide() -> None:
    # 4 GiB of address space of which two pages are touched.
    a = torch.empty(2**31 + 64, dtype=torch.bfloat16).as_strided((2, 8), (2**31, 1), 0)
    a[0], a[1] = 1.0, 3.0
    b, c = torch.ones(8, 2), torch.tensor([[8.0, 8.0], [24.0, 24.0]])
    assert verdict(a, b, c, numbers(constant=0.5)) == Verdict(0.0, 0, 0)


def test_nothing_to_judge_and_errors() -> None:
    empty = torch.empty(0, 3)
    assert verdict(empty, torch.ones(3, 5), torch.empty(0, 5), numbers()) == Verdict(0.0, 0, 0)
    with pytest.raises(ValueError, match=r"no product: a \(2, 3\)"):
        verdict(torch.ones(2, 3), torch.ones(3, 5), torch.ones(3, 5), numbers())
    with pytest.raises(ValueError, match=r"\(4,\) does not broadcast to \(2, 5\)"):
        verdict(torch.ones(2, 3), torch.ones(3, 5), torch.ones(2, 5), numbers(), torch.ones(4))


SMALL_BLOCKS = ("WIDEST_BLOCK = 512", "WIDEST_BLOCK = 32")
BREAKS: dict[str, tuple[str, str]] = {
    "last inner element lost": ("inner_exists = inner < num_inner",
                                "inner_exists = inner < num_inner - 1"),
    "next tile not masked": ("(after < num_inner)[None, :]", "(after > 0)[None, :]"),
    "stale tile": ("after = inner + BLOCK_K", "after = inner"),
    "last column lost": ("(after < num_cols)[None, :]", "(after < num_cols - 1)[None, :]"),
    "last block not launched": ("_checksum_kernel[(looked_at,)]",
                                "_checksum_kernel[(max(1, looked_at - 1),)]"),
    "rows of another batch": ("row[:, None] * a_stride_row", "row[:, None] * a_stride_batch"),
    "sums of another batch": ("batch * sums_stride_batch", "0 * sums_stride_batch"),
    "lost accumulate": (
        "        result += tl.sum(", "        result = tl.sum("),
    "lower precision": ("a = widened(a_next).to(WORK)", "a = a_next.to(tl.float8e5).to(WORK)"),
    "addend of one row": ("kind = ADDEND if addend_strides[1] else ADDEND_ROW",
                          "kind = ADDEND_ROW"),
    "sign kept": ("magnitude = tl.abs(a)", "magnitude = a"),
    "place within the batch": ("batch * num_rows + row, judged", "row, judged"),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_the_check_sees_a_broken_kernel(broken: str, tmp_path: Path) -> None:
    wrong = load_variant(module, tmp_path, SMALL_BLOCKS, BREAKS[broken])
    a, b, c, d, made = wrong_at_the_end()
    assert broken_promise(a, b, c, made, d, wrong) != ""


def test_the_unbroken_kernel_keeps_its_promise(tmp_path: Path) -> None:
    a, b, c, d, made = wrong_at_the_end()
    assert broken_promise(a, b, c, made, d, load_variant(module, tmp_path, SMALL_BLOCKS)) == ""


def wrong_at_the_end() -> tuple[Tensor, Tensor, Tensor, Tensor, Numbers]:
    """Two tiles of each kind, right but for the last element."""
    a, b, _, d = case(3, 18, 41, 50, batch=2, dtype=torch.bfloat16, addend="full")
    assert d is not None
    c = (0.75 * (a.double() @ b.double()) - 1.5 * d.double()).float()
    c[1, 17, 49] += 40.0 * c.abs().max()
    return a, b, c, d, numbers(0.75, -1.5, abs_share=1e-4)


@pytest.mark.skipif(platform.system() != "Linux", reason="triton compiles on Linux only")
@pytest.mark.slow
def test_it_compiles_without_flushing_subnormals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    assert module.__file__ is not None
    names = ("num_rows num_inner num_cols num_blocks all_blocks first_block a_stride_batch "
             "a_stride_row a_stride_inner sums_stride_batch sums_stride_kind c_stride_batch "
             "c_stride_row c_stride_col addend_stride_batch addend_stride_row addend_stride_col")
    ptx = ptx_of(
        Path(module.__file__), "_checksum_kernel", tmp_path, enable_fp_fusion=True,
        signature={"a_ptr": "*bf16", "sums_ptr": "*fp32", "c_ptr": "*bf16", "addend_ptr": "*bf16",
                   "numbers_ptr": "*fp64", "record_ptr": "*i64",
                   **dict.fromkeys(names.split(), "i64")},
        constants={"TILES_K": 1, "TILES_N": 1, "BLOCK_M": 16, "BLOCK_K": 64, "BLOCK_N": 64,
                   "A_GROUP": 8, "A_AXIS": 2, "C_GROUP": 4, "C_AXIS": 1,
                   "ADDEND_KIND": 2, "USE_LARGEST": True, "WORK": "tl.float32"},
    )
    assert {"fma.rn.f32", "add.f64"} <= float_arithmetic(ptx)
    assert ".ftz" not in ptx
    assert "approx" not in ptx


@pytest.mark.gpu
@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64],
                         ids=str)
def test_on_the_device(dtype: torch.dtype, flipped: bool) -> None:
    for m, k, n in ((256, 1024, 768), (70, 601, 333)):
        a, b, c, d = case(5, m, k, n, batch=2, dtype=dtype, flipped=flipped, addend="full")
        on_device = [t.cuda() if t is not None else None for t in (a, b, c, d)]
        made = numbers(0.75, -1.5, abs_share=1e-3)
        assert broken_promise(*on_device[:3], made, on_device[3]) == ""  # type: ignore[arg-type]
