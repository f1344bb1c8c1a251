"""Tensors without memory, which autograd makes for gradients that are 0 throughout."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from sdc_guard import Guard, bits
from sdc_guard.observe.sites import uncovered


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


def _freed(offset: int) -> Tensor:
    """A view at ``offset`` of a storage that was freed, as sharded parameters are between steps."""
    whole = torch.ones(12)
    view = whole[offset:offset + 6].view(2, 3)
    whole.untyped_storage().resize_(0)
    return view


def _shrunk() -> Tensor:
    view = torch.ones(2, 3)
    view.untyped_storage().resize_(8)
    return view


@pytest.mark.parametrize("made", [
    lambda: torch._efficientzerotensor((3, 3))[1:], lambda: _freed(0), lambda: _freed(4), _shrunk,
], ids=["zeros", "freed", "freed at an offset", "shrunk"])
def test_a_view_of_no_memory_is_not_read_at_its_offset(made: Callable[[], Tensor]) -> None:
    view = made()
    assert bits.address(view) == 0
    assert bits.address_range(view) == (0, 0)
    assert not bits.raw(view).any()
    assert bits.snapshot(view).tolist() == [[0.0] * 3] * 2
    assert bits.bits_equal(view, torch.zeros(2, 3))
    bits.restore(view, torch.ones(2, 3))  # goes nowhere
    assert not bits.rows_equal(view, torch.zeros(2, 3), 0, flat=False)
    assert uncovered(view) == "tensor without memory"


def test_the_guard_passes_by_operands_without_memory() -> None:
    freed, whole = _freed(4), torch.ones(2, 3)
    with Guard(budget=1.0) as guard:
        for _ in range(3):
            torch.add(whole, 1)
            torch.zeros_like(freed)
            torch._efficientzerotensor((3, 3))[1:].clone()
    assert not guard.findings


def test_memory_has_its_address() -> None:
    whole = torch.arange(12.0)
    for view in (whole, whole[4:], whole[1::3], whole.view(3, 4).t(), whole[2:3].expand(5)):
        assert bits.address(view) == view.data_ptr() != 0
