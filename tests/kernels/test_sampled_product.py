"""Sampled elements against exact dot products, the place that the device draws against Philox in
Python integers, and altered copies."""

from __future__ import annotations

import math
import os
import platform
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.compiled import float_arithmetic, ptx_of
from tests.kernels.test_product_checksum import case
from tests.kernels.variants import load_variant

pytest.importorskip("triton", reason="triton has no wheel for this platform")

from sdc_guard_kernels import sampled_product as module
from sdc_guard_kernels.sampled_product import SampleNumbers, own_error
from sdc_guard_kernels.verdict import Verdict, new_records, read

MASK = 0xFFFFFFFF
PLAIN = SampleNumbers(1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1e300, 0.0)


def philox(seed: int, counter: int) -> tuple[int, int]:
    """The first two words of Philox 4x32-10 (Salmon et al. 2011)."""
    words, keys = [counter, 0, 0, 0], [seed & MASK, seed >> 32]
    for _ in range(10):
        first, second = 0xD2511F53 * words[0], 0xCD9E8D57 * words[2]
        words = [(second >> 32) ^ words[1] ^ keys[0], second & MASK,
                 (first >> 32) ^ words[3] ^ keys[1], first & MASK]
        keys = [(keys[0] + 0x9E3779B9) & MASK, (keys[1] + 0xBB67AE85) & MASK]
    return words[0], words[1]


def drawn(seed: int, sample: int, num_elements: int) -> int:
    high, low = philox(seed, sample)
    return ((high & 0x7FFFFFFF) << 32 | low) % num_elements


def sampled(
    a: Tensor, b: Tensor, c: Tensor, made: SampleNumbers, *, seed: int, num_samples: int = 3,
    addend: Tensor | None = None, kernels: object = module,
) -> Verdict:
    records = new_records(1, c.device)
    kernels.sampled_product(  # type: ignore[attr-defined]
        a, b, c, made.tensor(c.device), records[0], seed=seed, num_samples=num_samples,
        addend=addend)
    return read(records)[0]


def broken_promise(
    a: Tensor, b: Tensor, c: Tensor, made: SampleNumbers, *, seed: int, num_samples: int = 3,
    addend: Tensor | None = None, kernels: object = module,
) -> str:
    """Empty if the record is what exact arithmetic on the drawn elements allows."""
    found = sampled(a, b, c, made, seed=seed, num_samples=num_samples, addend=addend,
                    kernels=kernels)
    full = None if addend is None else addend.expand(c.shape)
    ranges = []
    for sample in range(num_samples):
        place = drawn(seed, sample, c.numel())
        row, col = place // c.shape[-1] % c.shape[-2], place % c.shape[-1]
        at = (place // c.shape[-1] // c.shape[-2],) if c.dim() == 3 else ()
        left = [Fraction(x) for x in a[*at, row].double().tolist()]
        right = [Fraction(x) for x in b[*at, :, col].double().tolist()]
        terms = [x * y for x, y in zip(left, right, strict=True)]
        start = Fraction(0) if full is None else Fraction(full[*at, row, col].double().item())
        expected = Fraction(made.alpha) * sum(terms) + Fraction(made.beta) * start
        size = sum(map(abs, terms), Fraction(0))
        error = (Fraction(made.abs_share) * size + Fraction(made.a_share) * sum(map(abs, left))
                 + Fraction(made.b_share) * sum(map(abs, right)) + Fraction(made.constant)
                 + Fraction(made.addend_share) * abs(start))
        limit = (error + Fraction(made.result_roundoff) * (abs(expected) + error)
                 + Fraction(made.result_constant))
        defect = abs(expected - Fraction(c[*at, row, col].double().item()))
        own = Fraction(own_error(len(terms))) * (size + abs(start))
        slack = Fraction(own_error(len(terms)) + 2.0**-23)
        ranges.append((max(defect - own, Fraction(0)) / limit * (1 - slack),
                       (defect + own) / limit * (1 + slack), place))
    low = max(r[0] for r in ranges)
    if not low <= Fraction(found.worst_share) <= max(r[1] for r in ranges):
        return f"share {found.worst_share}, not from {float(low)} on"
    if found.place not in [place for _, high, place in ranges if high >= low]:
        return f"place {found.place}"
    over = sum(lo > 1 for lo, _, _ in ranges), sum(hi > 1 for _, hi, _ in ranges)
    return "" if over[0] <= found.num_over <= over[1] else f"{found.num_over} over, not {over}"


@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**63 - 1), m=st.integers(1, 9), k=st.integers(0, 40),
    n=st.integers(1, 9), batch=st.integers(0, 3), flipped=st.booleans(),
    share=st.sampled_from(["abs_share", "a_share", "b_share", "addend_share", "constant"]),
    addend=st.sampled_from(["none", "full", "row", "column"]),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_every_part_of_the_limit(
    seed: int, m: int, k: int, n: int, batch: int, flipped: bool, share: str, addend: str,
    dtype: torch.dtype,
) -> None:
    a, b, c, d = case(seed % 50, m, k, n, batch=batch, dtype=dtype, flipped=flipped, addend=addend)
    made = PLAIN._replace(alpha=0.75, result_roundoff=2.0**-9, result_constant=0.25, **{share: 0.5})
    if d is not None:
        made = made._replace(beta=-1.5)
    assert broken_promise(a, b, c, made, seed=seed, addend=d) == ""


def test_the_words_of_philox() -> None:
    # Known answer of the generator's authors, for a counter and a key of 0.
    assert philox(0, 0) == (0x6627E8D5, 0xE169C58D)


@pytest.mark.parametrize("num_inner", [1023, 1024, 1025])
def test_at_the_edges_of_blocks(num_inner: int) -> None:
    a, b, c, _ = case(1, 2, num_inner, 2, dtype=torch.bfloat16)
    assert broken_promise(a, b, c, PLAIN._replace(abs_share=1e-3), seed=4) == ""


def test_samples_are_spread_and_each_seed_has_its_own() -> None:
    places = {drawn(seed, i, 10) for seed in range(4) for i in range(32)}
    assert places == set(range(10))
    a, b = torch.ones(30, 2), torch.ones(2, 40)
    c = torch.zeros(30, 40)
    made = PLAIN._replace(constant=1.0)
    found = {sampled(a, b, c, made, seed=s, num_samples=1).place for s in range(5)}
    assert found == {drawn(s, 0, 1200) for s in range(5)}
    assert len(found) == 5
    assert sampled(a, b, c, made, seed=3, num_samples=5).num_over == 5


def test_a_nan_is_over_any_limit_unless_something_may_overflow() -> None:
    a, b, c = torch.full((1, 3), 2.0), torch.full((3, 1), 2.0), torch.full((1, 1), torch.nan)
    made = PLAIN._replace(abs_share=1.0)
    found = sampled(a, b, c, made, seed=1)
    assert (found.num_over, found.worst_share) == (3, math.inf)
    # The sizes add up to 12, with the limit to 24; the larger factor is 2.
    for largest, over in ((24.0, 0), (24.5, 3)):
        assert sampled(a, b, c, made._replace(largest=largest), seed=1).num_over == over
    for reach, over in ((13.0, 0), (12.0, 3)):
        bound = made._replace(largest=25.0, factor_reach=reach)
        assert sampled(a, b, c, bound, seed=1).num_over == over
    a[0, 1] = torch.inf
    assert sampled(a, b, c, made, seed=1) == Verdict(0.0, 0, 0)


def test_addresses_are_64_bits_wide() -> None:
    # 4 GiB of address space of which two pages are touched.
    a = torch.empty(2**31 + 64, dtype=torch.bfloat16).as_strided((2, 8), (2**31, 1), 0)
    a[0], a[1] = 1.0, 3.0
    b, c = torch.ones(8, 1), torch.tensor([[8.0], [24.0]])
    made = PLAIN._replace(constant=0.5)
    assert {drawn(1, i, 2) for i in range(8)} == {0, 1}
    assert sampled(a, b, c, made, seed=1, num_samples=8) == Verdict(0.0, 0, 0)


def test_nothing_to_judge_and_errors() -> None:
    empty = torch.empty(0, 3)
    assert sampled(empty, torch.ones(3, 5), torch.empty(0, 5), PLAIN, seed=1).num_over == 0
    with pytest.raises(ValueError, match=r"no product: a \(2, 3\), b \(4, 5\)"):
        sampled(torch.ones(2, 3), torch.ones(4, 5), torch.ones(2, 5), PLAIN, seed=1)


BREAKS: dict[str, tuple[str, str]] = {
    "last inner element lost": ("(inner < num_inner)", "(inner < num_inner - 1)"),
    "wrong stride": ("col * b_stride_col", "col * b_stride_inner"),
    "wrong axis": ("row = (place // num_cols) % num_rows", "row = (place // num_rows) % num_rows"),
    "batch lost": ("batch * c_stride_batch", "0 * c_stride_batch"),
    "lost accumulate": ("        total += term", "        total = term"),
    "lower precision": ("term = a * b", "term = (a.to(tl.float32) * b.to(tl.float32)).to("
                        "tl.bfloat16).to(tl.float64)"),
    "last program not launched": ("triton.cdiv(num_samples, SAMPLES_PER_PROGRAM)",
                                  "num_samples // SAMPLES_PER_PROGRAM"),
    "samples that are not drawn": ("sample < num_samples", "sample < num_samples + 9"),
    "one seed for all": ("tl.randint4x(seed, sample)", "tl.randint4x(7, sample)"),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_the_check_sees_a_broken_kernel(broken: str, tmp_path: Path) -> None:
    small = ("WIDEST_BLOCK = 1024", "WIDEST_BLOCK = 16")
    a, b, c, _ = case(3, 7, 20, 9, batch=2, dtype=torch.float32)
    made = PLAIN._replace(abs_share=1e-3)
    wrong = load_variant(module, tmp_path, small, BREAKS[broken])
    assert broken_promise(a, b, c, made, seed=2**60 + 5, num_samples=5) == ""
    assert broken_promise(a, b, c, made, seed=2**60 + 5, num_samples=5, kernels=wrong) != ""


@pytest.mark.skipif(platform.system() != "Linux", reason="triton compiles on Linux only")
@pytest.mark.slow
def test_it_compiles_to_float64_arithmetic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    assert module.__file__ is not None
    names = ("seed num_samples num_rows num_inner num_cols num_elements a_stride_batch "
             "a_stride_row a_stride_inner b_stride_batch b_stride_inner b_stride_col "
             "c_stride_batch c_stride_row c_stride_col addend_stride_batch addend_stride_row "
             "addend_stride_col")
    ptx = ptx_of(
        Path(module.__file__), "_sample_kernel", tmp_path, enable_fp_fusion=True,
        signature={"a_ptr": "*bf16", "b_ptr": "*bf16", "c_ptr": "*bf16", "addend_ptr": "*bf16",
                   "numbers_ptr": "*fp64", "record_ptr": "*i64",
                   **dict.fromkeys(names.split(), "i64")},
        constants={"SAMPLES": 2, "TILES_K": 2, "BLOCK_K": 128, "HAS_ADDEND": True},
    )
    assert {name.rpartition(".")[2] for name in float_arithmetic(ptx)} == {"f64"}


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64],
                         ids=str)
def test_on_the_device(dtype: torch.dtype) -> None:
    for m, k, n in ((256, 1024, 768), (70, 3001, 333)):
        on_device = [t.cuda() if t is not None else None
                     for t in case(5, m, k, n, batch=2, dtype=dtype, addend="full")]
        a, b, c, d = on_device
        assert a is not None
        assert b is not None
        assert c is not None
        made = PLAIN._replace(alpha=0.75, beta=-1.5, abs_share=1e-3)
        assert broken_promise(a, b, c, made, seed=2**62 + 3, num_samples=32, addend=d) == ""
