"""What wrong elements have in common, on faults that are planted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdc_guard.attribute.spread import LANES, MAX_COLUMNS, MAX_ROWS, spread_of


def test_nothing_wrong_has_no_spread() -> None:
    assert spread_of(torch.ones(4), np.zeros(4, dtype=bool), torch.ones(4)) is None


def test_one_bit_in_one_lane_is_seen_as_that() -> None:
    right = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    held = right.clone()
    held.view(torch.int32)[:, 5::8] ^= 1 << 22
    wrong = (held != right).numpy()
    spread = spread_of(held, wrong, right)
    assert spread is not None
    assert [bit for bit, count in enumerate(spread.bit_flips) if count] == [22]
    assert spread.bit_flips[22] == 16 * 8
    assert spread.masks == (("0x00400000", 128),)
    assert spread.lanes["8"] == (0, 0, 0, 0, 0, 128, 0, 0)
    assert sum(count for _, count in spread.ulps_log2) == 128
    assert {size for size, _ in spread.ulps_log2} <= {21, 22}  # an ulp doubles where one carries


def test_lanes_are_places_in_memory_and_not_in_the_shape() -> None:
    right = torch.zeros(64, 16).t()  # a column of it is a row in memory
    held = right.clone(memory_format=torch.preserve_format)
    held[3] = 1.0
    spread = spread_of(held, (held != right).numpy(), right)
    assert spread is not None
    assert held.stride() == (1, 16)
    assert spread.lanes["16"][3] == 64
    assert spread_of(held[:, 1:], (held != right).numpy()[:, 1:], right[:, 1:]) is not None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_number_of_the_reference_is_rounded_for_its_bits(dtype: torch.dtype) -> None:
    numbers = torch.randn(512, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact = numbers.numpy() * (1 + 2.0**-30)
    right = torch.from_numpy(exact).to(dtype)
    held = right.clone()
    held[7] = -held[7]
    wrong = np.ones(512, dtype=bool)
    spread = spread_of(held, wrong, exact)
    assert spread is not None
    width = 8 * held.element_size()
    assert spread.bit_flips == tuple(int(bit == width - 1) for bit in range(width))


def test_whole_numbers_have_bits_and_no_ulps() -> None:
    held = torch.tensor([3, 4])
    spread = spread_of(held, np.array([True, False]), np.array([2, 4]))
    assert spread is not None
    assert spread.masks == (("0x0000000000000001", 1),)
    assert spread.ulps_log2 == ()


def test_a_nan_is_counted_apart() -> None:
    held = torch.tensor([float("nan"), 2.0])
    spread = spread_of(held, np.array([True, True]), torch.tensor([1.0, 1.0]))
    assert spread is not None
    assert (spread.num_not_finite, spread.ulps_log2) == (1, ((23, 1),))


def test_a_map_keeps_to_its_grid_and_counts_all() -> None:
    wrong = np.zeros((3, 50, 1000), dtype=bool)
    wrong[2, 49, 999] = wrong[0, 0, 0] = wrong[1, 7] = True
    spread = spread_of(torch.zeros(3, 50, 1000), wrong, None)
    assert spread is not None
    assert spread.map_shape == (MAX_ROWS, MAX_COLUMNS)
    assert sum(count for _, _, count in spread.map) == 1002
    assert (0, 0, 1) in spread.map
    assert (MAX_ROWS - 1, MAX_COLUMNS - 1, 1) in spread.map
    assert spread.bit_flips == ()


def test_scalars_complex_numbers_and_formats_without_values_are_taken() -> None:
    for held in (torch.tensor(1.0), torch.tensor([1 + 2j]), torch.tensor([1 + 2j]).to(
            torch.complex128), torch.zeros(3).to(torch.float8_e4m3fn)):
        wrong = np.ones(tuple(held.shape), dtype=bool)
        for expected in (None, held.clone(), np.zeros(tuple(held.shape))):
            spread = spread_of(held, wrong, expected)
            assert spread is not None
            assert sum(count for _, _, count in spread.map) == held.numel()


def test_every_lane_width_has_all_its_bars() -> None:
    spread = spread_of(torch.zeros(300), np.ones(300, dtype=bool), None)
    assert spread is not None
    assert {int(width): len(bars) for width, bars in spread.lanes.items()} == {w: w for w in LANES}
