"""The worst element, its bits and the pattern of indices."""

from __future__ import annotations

import numpy as np
import torch

from sdc_guard.attribute.describe import pattern_of, value_at, worst_element


def test_worst_element_carries_bits_xor_and_ulps() -> None:
    right = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    held = right.clone()
    held.view(torch.int32)[1, 0] ^= 1 << 3
    held.view(torch.int32)[0, 1] ^= 1
    worst = worst_element(held, 0, (held != right).numpy(), right, None, "", "bits")
    assert worst is not None
    assert worst.index == (1, 0)
    assert worst.xor == "0x00000008"
    assert worst.error_ulps == 8.0
    assert worst.expected.repr == "4.0"


def test_a_nan_is_the_worst_of_all_and_keeps_its_payload() -> None:
    held = torch.tensor([1e30, float("nan")])
    wrong = np.asarray([True, True])
    worst = worst_element(held, 0, wrong, torch.zeros(2), None, "", "bits")
    assert worst is not None
    assert worst.index == (1,)
    assert worst.got.bits == "0x7fc00000"
    assert worst.error_ulps == -1.0


def test_bf16_and_negative_zero_by_their_bits() -> None:
    assert value_at(torch.tensor([1.5], dtype=torch.bfloat16), (0,)).bits == "0x3fc0"
    assert value_at(torch.tensor(-0.0), ()).repr == "-0.0"


def test_pattern_finds_the_stride() -> None:
    wrong = np.zeros((4, 8), dtype=bool)
    wrong[:, 3] = True
    pattern = pattern_of(wrong)
    assert pattern is not None
    assert (pattern.num_wrong, pattern.flat_stride) == (4, 8)
    assert (pattern.box_low, pattern.box_high) == ((0, 3), (3, 3))
    assert pattern_of(np.zeros(3, dtype=bool)) is None


def test_a_whole_number_beyond_2_to_the_53_is_shown_exactly() -> None:
    right = 2**60 + 1
    held = torch.tensor([right, right - 1])
    wrong = np.array([False, True])
    worst = worst_element(held, 0, wrong, np.array([right, right]), None, "exact", "bits")
    assert worst is not None
    assert worst.expected.repr == str(right)
    assert worst.expected.bits == hex(right)
    assert worst.xor == "0x0000000000000001"
