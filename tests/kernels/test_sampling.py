"""The draws of a sample against the same arithmetic in Python's integers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="triton has no wheel for this platform")

import triton
import triton.language as tl

from sdc_guard_kernels.sampling import SEED_BIT, draw, stratum
from tests.kernels.offered import drawn


@triton.jit  # type: ignore[untyped-decorator]
def strata(out_ptr, exists_ptr, seed, num_samples, num, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    counter = tl.arange(0, BLOCK).to(tl.int64)
    element, exists = stratum(seed, counter, num_samples, num)
    tl.store(out_ptr + counter, element)
    tl.store(exists_ptr + counter, exists.to(tl.int64))


@triton.jit  # type: ignore[untyped-decorator]
def draws(out_ptr, seed, num, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    counter = tl.arange(0, BLOCK).to(tl.int64)
    tl.store(out_ptr + counter, draw(seed, counter, num))


def sampled(seed: int, num_samples: int, num: int) -> list[int]:
    found = torch.full((2, 64), -1, dtype=torch.int64)
    strata[(1,)](found[0], found[1], seed | SEED_BIT, num_samples, num, BLOCK=64)
    return found[0][found[1].bool()].tolist()


@settings(max_examples=30)
@given(seed=st.integers(0, 2**63 - 1), samples=st.integers(1, 60), num=st.integers(1, 2**50))
def test_each_stratum_gives_the_drawn_element(seed: int, samples: int, num: int) -> None:
    samples = min(samples, num)
    assert sampled(seed, samples, num) == drawn(seed, samples, num)


@pytest.mark.parametrize("num", [1, 5, 63])
def test_fewer_elements_than_samples_are_all_taken(num: int) -> None:
    assert sampled(7, 63, num) == list(range(num))


def test_draws_fill_the_range_evenly() -> None:
    counts = torch.zeros(8, dtype=torch.int64)
    out = torch.empty(1024, dtype=torch.int64)
    draws[(1,)](out, 3 | SEED_BIT, 8, BLOCK=1024)
    counts.scatter_add_(0, out, torch.ones_like(out))
    # 128 each; a fair draw leaves 80 ... 176 with probability above 1 - 1e-4.
    assert 80 <= int(counts.min()) <= int(counts.max()) <= 176
