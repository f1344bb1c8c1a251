"""Tensors without memory, which autograd makes for gradients that are 0 throughout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sdc_guard import bits


@pytest.fixture(name="zero")
def _zero() -> Tensor:
    x = torch.ones(2, 3, requires_grad=True)
    (found,) = torch.autograd.grad(torch.sgn(x), x, torch.ones(2, 3))
    assert found._is_zerotensor()
    return found


def test_they_have_the_bits_of_zeros(zero: Tensor) -> None:
    assert bits.bits_equal(zero, torch.zeros(2, 3))
    assert bits.bits_equal(zero, zero)
    assert not bits.bits_equal(zero, torch.ones(2, 3))
    assert not bits.bits_equal(-torch.zeros(2, 3), zero)
    assert np.array_equal(bits.values(zero), np.zeros((2, 3)))


def test_an_image_of_them_holds_zeros_and_shares_memory_with_nothing(zero: Tensor) -> None:
    assert bits.snapshot(zero).tolist() == [[0.0] * 3] * 2
    first, second, other = bits.snapshot_together([zero, zero, torch.ones(2)])
    assert first.data_ptr() != second.data_ptr()
    assert (first.sum(), second.sum(), other.tolist()) == (0, 0, [1.0, 1.0])
