"""Bit flips: the right element, the right bit, nothing else; and their sizes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sdc_guard import bits
from sdc_guard.errors import UsageError
from sdc_guard.inject import flip

DTYPES = [
    torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool,
]
LAYOUTS = {
    "contiguous": lambda t: t,
    "transposed": lambda t: t.t(),
    "offset slice": lambda t: t[1:, 2:],
    "steps": lambda t: t[::2, ::3],
    "channels last": lambda t: t.view(1, 2, 3, 5).to(memory_format=torch.channels_last),
    "one row": lambda t: t[2],
    "scalar": lambda t: t[2, 3],
}


def table(dtype: torch.dtype) -> torch.Tensor:
    values = torch.arange(30).reshape(6, 5)
    return (values % 2 if dtype is torch.bool else values).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_flips_one_bit_of_one_element_and_back(dtype: torch.dtype, layout: str) -> None:
    whole = table(dtype)
    view = LAYOUTS[layout](whole)
    last = view.numel() - 1
    for bit in range(flip.num_bits(dtype)):
        before = bits.raw(view).copy()
        old, new = flip.flip_bit(view, last, bit)
        changed = bits.raw(view) ^ before
        assert old ^ new == 1 << bit
        assert int(changed.reshape(-1)[last]) == 1 << bit
        assert np.count_nonzero(changed) == 1
        assert flip.flip_bit(view, last, bit) == (new, old)
        assert np.array_equal(bits.raw(view), before)
    assert bits.bits_equal(whole, table(dtype))


def test_torch_sees_the_flipped_number() -> None:
    x = torch.ones(3, 4)
    version = x._version
    flip.flip_bit(x, 6, 31)
    assert x[1, 2].item() == -1.0
    assert x.sum().item() == 10.0
    assert x._version == version


def test_logical_and_storage_order_name_different_elements_of_a_transpose() -> None:
    x = torch.zeros(2, 3).t()
    flip.flip_bit(x, 1, 0, "logical")
    flip.flip_bit(x, 1, 1, "storage")
    assert bits.raw(x).tolist() == [[0, 1], [2, 0], [0, 0]]


def test_bool_flips_between_its_two_values() -> None:
    x = torch.tensor([True, False])
    flip.flip_bit(x, 0, 0)
    flip.flip_bit(x, 1, 0)
    assert x.tolist() == [False, True]


def test_elements_that_share_memory_change_together() -> None:
    x = torch.ones(1).expand(3)
    flip.flip_bit(x, 2, 31)
    assert x.tolist() == [-1.0, -1.0, -1.0]


@pytest.mark.parametrize(
    ("make", "flat_index", "bit", "order", "words"),
    [
        (lambda: torch.ones(3), 3, 0, "logical", "flat index 3 lies outside"),
        (lambda: torch.ones(3), -1, 0, "logical", "flat index -1 lies outside"),
        (lambda: torch.ones(0), 0, 0, "logical", "0 elements"),
        (lambda: torch.ones(3), 0, 32, "logical", r"bit is 32, must be in 0\.\.31"),
        (lambda: torch.ones(3) > 0, 0, 1, "logical", r"bit is 1, must be in 0\.\.0"),
        (lambda: torch.ones(3, dtype=torch.complex64), 0, 0, "logical", "complex64"),
        (lambda: torch.ones(6)[::2], 1, 0, "storage", "reaches no element 1 places"),
        (lambda: torch.ones(3), 0, 0, "random", "'logical' or 'storage'"),
    ],
)
def test_refuses_places_that_do_not_exist(make, flat_index, bit, order, words) -> None:
    with pytest.raises(UsageError, match=words):
        flip.flip_bit(make(), flat_index, bit, order)


@pytest.mark.parametrize(
    ("dtype", "number", "bit", "expected"),
    [
        (torch.float32, 1.0, 0, 1.0),
        (torch.float32, 1.0, 22, 2.0**22),
        (torch.float32, 1.0, 31, 2.0**24),
        (torch.float32, 1.0, 30, None),
        (torch.bfloat16, 1.0, 0, 1.0),
        (torch.bfloat16, 3.0, 6, 64.0),
        (torch.float16, 0.0, 0, 1.0),
        (torch.float64, 1.0, 51, 2.0**51),
        (torch.float64, 1e-300, 62, None),
        (torch.int32, 5, 4, 16.0),
        (torch.int8, 0, 7, 128.0),
        (torch.bool, True, 0, 1.0),
    ],
)
def test_size_in_ulps(dtype, number, bit, expected) -> None:
    x = torch.tensor(number, dtype=dtype)
    before, after = flip.flip_bit(x, 0, bit)
    assert flip.size_ulps(dtype, before, after) == expected


def test_values_are_carried_by_their_bits() -> None:
    nan = flip.value_of(torch.float32, 0x7FC00001)
    assert (nan.dtype, nan.bits, nan.repr) == ("float32", "0x7fc00001", "nan")
    assert flip.value_of(torch.bfloat16, 0x3F80).repr == "1.0"
    assert flip.value_of(torch.int8, 0xFF).repr == "-1"
    assert flip.value_of(torch.bool, 1).repr == "True"
    assert math.copysign(1, flip.number_of(torch.float16, 0x8000)) == -1
