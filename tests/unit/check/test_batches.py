"""Small calls that are replayed together: every flip is seen in the call that it is in."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sdc_guard.calls import BoundCall, form_of
from sdc_guard.check.batches import CAPACITY, MAX_ELEMENTS, Batches, BatchForm
from sdc_guard.check.plan import make_plan
from sdc_guard.check.selftest import flipped
from sdc_guard.ops import lookup

aten = torch.ops.aten


def _draw(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(shape) + sum(shape))
    return torch.rand(shape, generator=generator) + 0.5


def _form(op: Any, *args: Any) -> tuple[BatchForm | None, tuple[Any, ...], torch.Tensor]:
    form = form_of(op)
    call = BoundCall(form, form.bind(args, {}))
    spec = lookup(form.packet)
    assert spec is not None
    held = call.run()
    return make_plan(spec, call, held).batch, call.args, held[0]


SHAPES = ((7,), (), (3, 5), (192,), (64, 48))
CASES = {
    "lerp_": (aten.lerp_.Scalar, 2, (0.1,)),
    "addcmul_": (aten.addcmul_.default, 3, ()),
    "add_": (aten.add_.Tensor, 1, (1,)),
    "sqrt": (aten.sqrt.default, 1, ()),
    "div": (aten.div.Tensor, 2, ()),
}


def _waiting(name: str, wrong: int | None = None) -> Batches:
    """Calls of every shape, the result of one of them with a flipped lowest bit."""
    op, num_tensors, rest = CASES[name]
    batches = Batches()
    for i, shape in enumerate(SHAPES):
        form, args, held = _form(op, *[_draw(*shape) + k for k in range(num_tensors)], *rest)
        assert form is not None, shape
        slot = batches.reserve(form, args)
        assert slot is not None
        assert slot.keep(flipped(held, held.numel() - 1, 0) if i == wrong else held, i)
    return batches


@pytest.mark.parametrize("name", CASES)
def test_right_results_agree(name: str) -> None:
    (outcome,) = _waiting(name).finish()
    assert [kept.note for kept in outcome[0]] == list(range(len(SHAPES)))
    assert outcome[1] == []


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("wrong", range(len(SHAPES)))
def test_a_flip_of_the_lowest_bit_is_seen_where_it_is(name: str, wrong: int) -> None:
    ((fine, found),) = _waiting(name, wrong).finish()
    assert [kept.note for kept in fine] == [i for i in range(len(SHAPES)) if i != wrong]
    (one,) = found
    assert one.kept.note == wrong
    assert one.held.shape == SHAPES[wrong]
    assert torch.equal(one.call.run()[0], one.got)
    assert not torch.equal(one.held, one.got)


def test_operands_are_kept_as_they_were() -> None:
    form, args, _ = _form(aten.mul.Tensor, _draw(9), _draw(9))
    batches = Batches()
    assert form is not None
    slot = batches.reserve(form, args)
    assert slot is not None
    result = args[0] * args[1]
    assert slot.keep(result, None)
    args[0].zero_()
    result.zero_()
    ((fine, wrong),) = batches.finish()
    assert (len(fine), len(wrong)) == (1, 0)


def test_calls_with_other_numbers_are_apart() -> None:
    batches = Batches()
    for value in (0.0, -0.0, 1, 1.0, 2.0):
        form, args, held = _form(aten.mul.Tensor, _draw(9), value)
        assert form is not None
        slot = batches.reserve(form, args)
        assert slot is not None
        assert slot.keep(held, value)
    outcomes = list(batches.finish())
    assert len(outcomes) == 5
    assert not any(wrong for _, wrong in outcomes)


def test_a_call_that_never_came_back_does_not_count() -> None:
    batches = Batches()
    form, args, held = _form(aten.sqrt.default, _draw(9))
    assert form is not None
    assert batches.reserve(form, args) is not None
    slot = batches.reserve(form, args)
    assert slot is not None
    assert slot.keep(held, "kept")
    ((fine, wrong),) = batches.finish()
    assert [kept.note for kept in fine] == ["kept"]
    assert wrong == []


def test_a_full_group_takes_no_more() -> None:
    batches = Batches()
    form, args, _ = _form(aten.sqrt.default, _draw(MAX_ELEMENTS))
    assert form is not None
    slots = [batches.reserve(form, args) for _ in range(CAPACITY // MAX_ELEMENTS + 1)]
    assert slots[-1] is None
    assert slots[0] is not None


@pytest.mark.parametrize(("op", "args"), [
    (aten.sqrt.default, (_draw(MAX_ELEMENTS + 1),)),
    (aten.sqrt.default, (_draw(6, 4).t(),)),
    (aten.mul.Tensor, (_draw(6, 4), _draw(4))),
    (aten.mul_.Tensor, (torch.tensor(1.5, dtype=torch.bfloat16), torch.tensor(2.5))),
    (aten.cosh.default, (_draw(40),)),
    (aten.sum.dim_IntList, (_draw(6, 4), [0])),
])
def test_what_cannot_stand_among_others_is_left_out(op: Any, args: tuple[Any, ...]) -> None:
    assert _form(op, *args)[0] is None
