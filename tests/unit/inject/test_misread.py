"""A kernel that misreads one element of an operand: tied to a place, or to a number."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sdc_guard.errors import UsageError
from sdc_guard.inject.misread import MisreadElement

aten = torch.ops.aten
SUM = aten.sum.dim_IntList


def pattern_of(number: float) -> int:
    return int(torch.tensor(number).view(torch.int32).item())


def test_a_place_is_misread_in_operands_of_that_shape_only() -> None:
    x = torch.arange(12.0).reshape(3, 4)
    with MisreadElement(SUM, (0,), "offset", shape=(3, 4), flat_index=5) as fault:
        assert x.sum(1).tolist() == [6, 4 + 6 + 6 + 7, 38]
        assert x.roll(1, 0).sum(1).tolist() == [38, 0 + 2 + 2 + 3, 22]
        assert x[:2].sum(1).tolist() == [6, 22]
    assert torch.equal(x, torch.arange(12.0).reshape(3, 4))
    assert [f.num_wrong for f in fault.injected] == [1, 1]


def test_the_last_element_is_followed_by_the_first() -> None:
    x = torch.tensor([7.0, 2.0, 3.0])
    with MisreadElement(SUM, (0,), "offset", shape=(3,), flat_index=2):
        assert x.sum(0).item() == 16


def test_a_number_is_misread_wherever_it_goes() -> None:
    x = torch.arange(12.0).reshape(3, 4)
    with MisreadElement(SUM, (0,), "dropped", pattern=pattern_of(5.0)) as fault:
        assert x.sum(1).tolist() == [6, 17, 38]
        assert x.flip(0).sum(1).tolist() == [38, 17, 6]
        assert (-x).sum(1).tolist() == [-6, -22, -38]
    assert len(fault.injected) == 2


def test_strides_in_place_forms_and_lists() -> None:
    x, y = torch.arange(6.0).reshape(2, 3).t(), torch.zeros(3, 2)
    with MisreadElement(aten.add_.Tensor, (1,), "dropped", shape=(3, 2), flat_index=1):
        y.add_(x)
    assert y.tolist() == [[0, 0], [1, 4], [2, 5]]
    with MisreadElement(aten.add_.Tensor, (0,), "dropped", shape=(3, 2), flat_index=3):
        y.add_(1)
    assert y.tolist() == [[1, 1], [2, 1], [3, 6]]
    with MisreadElement(aten.cat.default, (0, 1), "offset", shape=(2,), flat_index=0):
        assert torch.cat([torch.zeros(1), torch.tensor([1.0, 2.0])]).tolist() == [0, 2, 2]


def test_complex_integers_and_bools() -> None:
    z = torch.tensor([1 + 2j, 3 - 1j])
    with MisreadElement(aten.add.Tensor, (0,), "dropped", shape=(2,), flat_index=1):
        assert (z + 1j).tolist() == [1 + 3j, 1j]
    with MisreadElement(aten.index.Tensor, (1, 0), "offset", shape=(2,), flat_index=0):
        assert torch.arange(4.0)[torch.tensor([3, 1])].tolist() == [1, 1]
    with MisreadElement(aten.logical_not.default, (0,), "offset", shape=(2,), flat_index=0):
        assert torch.tensor([True, False]).logical_not().tolist() == [True, True]


def test_what_changes_nothing_is_masked() -> None:
    with MisreadElement(SUM, (0,), "offset", shape=(4,), flat_index=1) as fault:
        assert torch.ones(4).sum(0).item() == 4
    assert not fault.injected
    assert fault.masked == 1


@pytest.mark.parametrize("arguments", [
    {"how": "late", "flat_index": 0}, {"how": "offset"},
    {"how": "offset", "flat_index": 0, "pattern": 3}])
def test_bad_arguments_are_errors_that_show_the_value(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"late|None|3"):
        MisreadElement(SUM, (0,), **arguments)


def test_random_draws_are_refused() -> None:
    with pytest.raises(UsageError, match="draws random numbers"):
        MisreadElement(aten.bernoulli.default, (0,), "offset", flat_index=0)


@pytest.mark.parametrize(("how", "wrong"), [("offset", 3 + 3j), ("dropped", 0j)])
def test_an_element_of_16_bytes_is_misread_too(how: str, wrong: complex) -> None:
    z = torch.tensor([1 + 1j, 2 + 2j, 3 + 3j], dtype=torch.complex128)
    with MisreadElement(aten.mul.Tensor, (0,), how, shape=(3,), flat_index=1) as fault:
        assert (z * 2).tolist() == [2 + 2j, 2 * wrong, 6 + 6j]
    assert len(fault.injected) == 1
