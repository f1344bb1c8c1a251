"""What damages do to bits, for every dtype, and which elements regions name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sdc_guard import bits
from sdc_guard.formats import format_of
from sdc_guard.inject.composed import damaged, write
from sdc_guard.inject.damage import (
    Damage,
    FlipBits,
    Misplaced,
    NotFinite,
    Precision,
    Scramble,
    SetBit,
    SwapRows,
    Zero,
)
from sdc_guard.inject.flip import num_bits
from sdc_guard.inject.regions import (
    All,
    Chunk,
    Element,
    Lane,
    Region,
    Tile,
    Warps,
    Wrapped,
    num_filled,
)

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
DTYPES = [*FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]


def tensor(dtype: torch.dtype, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    return torch.randint(0, 2 if dtype is torch.bool else 100, shape, generator=generator).to(dtype)


def strike(x: Tensor, region: Region, damage: Damage) -> tuple[np.ndarray, np.ndarray]:
    """Bits before and after, flat in C order."""
    change = damaged(x, region, damage)
    assert change is not None
    write(x, change[1])
    assert np.array_equal(bits.raw(x), change[1])
    return change[0].reshape(-1), change[1].reshape(-1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_only_the_region_changes_and_only_as_said(dtype: torch.dtype) -> None:
    high = num_bits(dtype) - 1
    cases: list[Damage] = [FlipBits((0, high)), SetBit(high, 1), SetBit(0, 0), Zero(), Scramble(3),
                           NotFinite(0), NotFinite(1), NotFinite(2), Precision(4), Misplaced()]
    region = Tile(0, 1, 2, 3)
    for damage in cases:
        x = tensor(dtype, 5, 6).t().contiguous().t()  # not in C order
        old, new = strike(x, region, damage)
        inside = np.isin(np.arange(30), [1, 2, 3, 7, 8, 9])
        assert np.array_equal(old[~inside], new[~inside])
        a, b = old[inside], new[inside]
        kind = a.dtype.type
        match damage:
            case FlipBits():
                mask = kind(1) if high == 0 else kind(1 | 1 << high)
                assert np.array_equal(b, a ^ mask)
            case SetBit(bit, 1):
                assert np.array_equal(b, a | kind(1 << bit))
            case SetBit():
                assert np.array_equal(b, a & ~kind(1))
            case Zero():
                assert not b.any()
            case Scramble():
                assert (a != b).all()
            case Misplaced():
                assert np.array_equal(b, old[[2, 3, 4, 8, 9, 10]])
        if dtype is torch.bool:
            assert set(new.tolist()) <= {0, 1}
        if isinstance(damage, NotFinite) and dtype.is_floating_point:
            stored = x[:2, 1:4].double()
            want = (torch.isnan, torch.isposinf, torch.isneginf)[damage.kind]
            assert want(stored).all()


def test_numbers_that_are_not_finite_have_stand_ins_in_integers() -> None:
    for dtype in (torch.int64, torch.int8, torch.uint8):
        limits = torch.iinfo(dtype)
        for kind, value in ((0, limits.max), (1, limits.max), (2, limits.min)):
            x = tensor(dtype, 3)
            strike(x, Element(1), NotFinite(kind))
            assert x[1] == value


@pytest.mark.parametrize(("dtype", "lower"), [
    (torch.float32, torch.bfloat16), (torch.float64, torch.float32), (torch.float32, torch.float16),
], ids=str)
def test_lower_precision_rounds_as_the_lower_format_does(
    dtype: torch.dtype, lower: torch.dtype
) -> None:
    x = tensor(dtype, 1000)
    want = x.to(lower).to(dtype)
    strike(x, All(), Precision(format_of(lower).precision))
    assert torch.equal(x, want)


def test_precision_can_be_cut_off_and_leaves_what_is_not_finite() -> None:
    x = torch.tensor([1.9921875, -1.9921875, float("nan"), float("inf")], dtype=torch.bfloat16)
    strike(x, All(), Precision(4, truncates=True))
    assert x[:2].tolist() == [1.875, -1.875]
    assert x[2].isnan()
    assert x[3] == float("inf")
    x = torch.tensor([1.9921875, -1.9921875, float("nan"), float("inf")], dtype=torch.bfloat16)
    strike(x, All(), Precision(4))
    assert x[:2].tolist() == [2, -2]
    assert x[2].isnan()
    assert x[3] == float("inf")


def test_scrambled_elements_have_one_or_several_wrong_bits() -> None:
    x = torch.ones(4000)
    old, new = strike(x, All(), Scramble(5))
    count = np.array([int(a ^ b).bit_count() for a, b in zip(old, new, strict=True)])
    single = (count == 1).mean()
    assert abs(single - 0.4) < 0.05
    assert count.max() > 28
    again = torch.ones(4000)
    assert np.array_equal(strike(again, All(), Scramble(5))[1], new)
    assert not np.array_equal(strike(torch.ones(4000), All(), Scramble(6))[1], new)


def test_rows_are_swapped_whatever_the_layout() -> None:
    x = torch.arange(12.0).reshape(4, 3).t().contiguous().t()
    strike(x, All(), SwapRows(1, 7, 3))  # row 7 of 4 is row 3
    assert x.tolist() == [[0, 1, 2], [9, 10, 11], [6, 7, 8], [3, 4, 5]]


@pytest.mark.parametrize(("region", "shape", "want"), [
    (All(), (2, 2), [0, 1, 2, 3]),
    (Element(3), (2, 2), [3]),
    (Element(4), (2, 2), []),
    (Wrapped(9), (2, 2), [1]),
    (Wrapped(9), (0,), []),
    (Lane(1, 4), (2, 5), [1, 5, 9]),
    (Tile(1, 2, 2, 2), (3, 4), [6, 7, 10, 11]),
    (Tile(0, 2, 8, 8), (4,), [2, 3]),
    (Tile(0, 0, 8, 8), (), [0]),
    (Tile(2, 0, 1, 2), (2, 2, 3), [6, 7]),
    (Chunk(0, 4), (2, 5), [0, 1, 2]),
    (Chunk(3, 4), (2, 5), [9]),
    (Chunk(7, 8), (5,), []),
    (Warps(0, 2, 2, 16), (100,), [0, 16, 64, 80]),
    (Warps(3, 2, 1, 1), (98,), [96, 97]),
], ids=str)
def test_regions(region: Region, shape: tuple[int, ...], want: list[int]) -> None:
    assert region(torch.zeros(shape)).tolist() == want


def test_a_lane_is_counted_in_memory() -> None:
    assert Lane(1, 3)(torch.zeros(2, 3).t()).tolist() == [2, 3]


def test_parts_that_are_not_empty() -> None:
    for length in range(1, 40):
        for parts in (2, 4, 8, 16):
            filled = sum(len(Chunk(k, parts)(torch.zeros(length))) > 0 for k in range(parts))
            assert num_filled(length, parts) == filled
