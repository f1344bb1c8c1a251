"""The record of a check against the same rule written with NumPy, and its device code."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.compiled import ptx_of
from tests.kernels.variants import load_variant

pytest.importorskip("triton", reason="triton has no wheel for this platform")

from sdc_guard_kernels import verdict as module
from sdc_guard_kernels.verdict import NO_INDEX, Verdict, new_records, read
from tests.kernels import noting

CPU = torch.device("cpu")
QUANTITY = st.one_of(
    st.floats(0.0, 1e300), st.sampled_from([0.0, 1.0, 5e-324, math.inf, math.nan]))


def by_definition(defects: list[float], limits: list[float], base: int = 0) -> Verdict:
    """The rule of the module's docstring, one quantity at a time."""
    worst, where, count = np.float32(0.0), 0, 0
    started = False
    for i, (defect, limit) in enumerate(zip(defects, limits, strict=True)):
        if not limit < math.inf:
            continue
        over = not defect <= limit
        count += over
        with np.errstate(all="ignore"):
            share = np.float32(np.float64(defect) / limit) if limit > 0 else np.float32(0.0)
        if over and (limit == 0 or math.isnan(defect)):
            share = np.float32(np.inf)
        if not started or share > worst:
            worst, where, started = share, base + i, True
    return Verdict(float(worst), min(where, NO_INDEX), count)


def noted(
    defects: list[float], limits: list[float], *, block: int = 4, base: int = 0,
    kernels: object = noting,
) -> Verdict:
    records = new_records(3, CPU)
    noting.launch(kernels, defects, limits, records[1], block=block, base=base)
    read_back = read(records)
    assert read_back[0] == read_back[2] == Verdict(0.0, 0, 0)
    return read_back[1]


@settings(max_examples=150)
@given(st.lists(st.tuples(QUANTITY, QUANTITY), min_size=1, max_size=11))
def test_a_record_keeps_the_worst_its_place_and_the_count(pairs: list[tuple[float, float]]) -> None:
    defects, limits = [d for d, _ in pairs], [limit for _, limit in pairs]
    assert noted(defects, limits) == by_definition(defects, limits)


def test_equal_shares_keep_the_smallest_index() -> None:
    assert noted([1.0, 2.0, 2.0, 2.0, 0.0, 2.0], [1.0] * 6, block=2) == Verdict(2.0, 1, 4)


def test_an_index_beyond_32_bits_is_no_index() -> None:
    assert noted([3.0], [1.0], base=2**40).place == NO_INDEX
    assert noted([3.0], [1.0], base=2**32 - 2).place == 2**32 - 2


@pytest.mark.parametrize("change", [
    ("((defect <= limit) == 0)", "(defect > limit)"),  # a NaN is over no limit
    ("tl.atomic_max(", "tl.atomic_xchg("),  # the last tile wins
    ("judged & (limit <", "(limit <"),  # what a mask leaves out is judged
    ("0xFFFFFFFF - tl.minimum(index, 0xFFFFFFFF)", "0xFFFFFFFF - index"),
])
def test_a_broken_record_is_seen(change: tuple[str, str], tmp_path: Path) -> None:
    broken = load_variant(module, tmp_path, change)
    (tmp_path / "user").mkdir()
    noting_broken = load_variant(noting, tmp_path / "user")
    noting_broken.note = broken.note
    cases = [([1.0, math.nan, 0.0], [2.0, 1.0, 1.0], 0), ([5.0, 1.0, 0.5], [1.0, 1.0, 1.0], 0),
             ([3.0], [1.0], 2**40), ([4.0, 4.0, 4.0, 4.0, 1.0], [1.0] * 5, 0)]
    found = [noted(d, limits, base=base, kernels=noting_broken) for d, limits, base in cases]
    assert found != [by_definition(d, limits, base) for d, limits, base in cases]


@pytest.mark.slow
def test_it_compiles_to_one_maximum_and_one_addition(tmp_path: Path) -> None:
    assert noting.__file__ is not None
    ptx = ptx_of(
        Path(noting.__file__), "note_kernel", tmp_path,
        signature={"defect_ptr": "*fp64", "limit_ptr": "*fp64", "record_ptr": "*i64",
                   "num": "i64", "base": "i64"},
        constants={"BLOCK": 128},
    )
    atomics = re.findall(r"\b(?:atom|red)\.\S+", ptx)
    assert [a.split(".")[-2:] for a in atomics] == [["max", "s64"], ["add", "u64"]]
