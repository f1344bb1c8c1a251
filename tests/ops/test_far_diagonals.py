"""Diagonals and places outside of the operand, as far as the operators' arguments go."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sdc_guard.calls import BoundCall, form_of
from sdc_guard.check.plan import make_plan
from sdc_guard.check.reference import full_reference
from sdc_guard.ops import lookup

aten = torch.ops.aten
ENDS = (-(2**63) + 1, -(2**31) - 1, -(2**31), -(2**31) + 1, -5, 0, 3, 2**31 - 1, 2**31, 2**63 - 1)


def judged(op: Any, *args: Any) -> int:
    """How many results of the call a reference speaks of; none of them is doubted."""
    form = form_of(op)
    call = BoundCall(form, form.bind(args, {}))
    held = call.run()
    spec, told = lookup(call.form.packet), []
    assert spec is not None
    assert spec.invariant is None or spec.invariant(call, held) is None
    assert not full_reference(make_plan(spec, call, held), call, held,
                              lambda got, expectation: told.append(got))
    return len(told)


@pytest.mark.parametrize("offset", ENDS)
def test_a_diagonal_far_outside_is_empty(offset: int) -> None:
    """NumPy reads outside of the array for the least C ``int``."""
    x = torch.arange(15.0).view(5, 3)
    judged(aten.diagonal_copy.default, x, offset)
    diagonal = torch.full_like(torch.diagonal(x, offset), 7.0)
    assert judged(aten.diagonal_scatter.default, x, diagonal, offset) == 1
    assert judged(aten.diagonal_backward.default, diagonal, [5, 3], offset, 0, 1) == 1


@pytest.mark.parametrize("offset", [-(2**63), *ENDS])
def test_a_triangle_far_outside_is_nothing_or_all(offset: int) -> None:
    x = torch.arange(15.0).view(5, 3)
    assert judged(aten.tril.default, x, offset) == 1
    assert judged(aten.triu.default, x, offset) == 1


def test_places_outside_of_a_storage_are_not_read() -> None:
    form = form_of(aten.as_strided_copy.default)
    whole = torch.arange(100.0)
    held = (torch.as_strided_copy(whole[50:60], (10, 10), (10, 1), 0),)
    image = BoundCall(form, form.bind((whole[50:60].clone(), (10, 10), (10, 1), 0), {}))
    spec = lookup(form.packet)
    assert spec is not None
    with pytest.raises(IndexError, match="element 99 of 10"):
        full_reference(make_plan(spec, image, held), image, held)
    assert judged(aten.as_strided_copy.default, whole[50:60], (10, 10), (10, 1), 0) == 1
