"""Every kind of relation passes on a right result and sees one flipped bit anywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sdc_guard import bits
from sdc_guard.calls import BoundCall, form_of
from sdc_guard.check.compiling import compile_symmetry
from sdc_guard.check.relations import Relation, assemble
from sdc_guard.ops import lookup
from sdc_guard.ops._symmetry import (
    RERUN,
    Move,
    Symmetry,
    double,
    flat,
    negate,
    reverse,
    roll,
    split,
)

aten = torch.ops.aten


def _draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape)))


def _rolled_by_hand(call: BoundCall, visit: int) -> tuple[torch.Tensor | None, ...]:
    (got,) = call.replaced(self=call["self"].flip(0)).run()
    return (got.flip(0),)


CASES: dict[str, tuple[Any, tuple[Any, ...], Symmetry]] = {
    "split": (aten.mul.Tensor, (_draw(9, 130), _draw(130)), split("d0")),
    "roll rows": (aten.mm.default, (_draw(33, 20), _draw(20, 17)), roll("m")),
    "roll columns": (aten.mm.default, (_draw(20, 33).t(), _draw(20, 17)), roll("n")),
    "roll expanded": (aten.mul.Tensor, (_draw(1, 7).expand(5, 7), _draw(5, 7)), roll("d0")),
    "flat": (aten.add.Tensor, (_draw(40, 11), _draw(40, 11)), flat()),
    "negate": (aten.sum.dim_IntList, (_draw(8, 9), [0]), negate("self")),
    "negate expanded": (aten.mul.Tensor, (_draw(1, 7).expand(5, 7), _draw(5, 7)), negate("self")),
    "double": (aten.add.Tensor, (torch.tensor(1.5), 2), double()),
    "reverse": (aten._foreach_add.Scalar, ([_draw(3), _draw(4), _draw(5)], 1.0), reverse()),
    "rerun": (aten.sqrt.default, (_draw(6).abs(),), RERUN),
    "custom": (
        aten.neg.default,
        (_draw(6, 2),),
        Symmetry("flip", (Move("custom", function=_rolled_by_hand),)),
    ),
}


def _compiled(
    name: str, num_parts: int = 2
) -> tuple[BoundCall, tuple[torch.Tensor, ...], Relation]:
    op, args, symmetry = CASES[name]
    form = form_of(op)
    call = BoundCall(form, form.bind(args, {}))
    held = call.run()
    spec = lookup(form.packet)
    assert spec is not None
    relation = compile_symmetry(symmetry, call, held, spec.axes(call, held), num_parts)
    assert relation is not None
    return call, held, relation


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("visit", [0, 1, 5])
def test_passes_when_right_and_sees_each_flipped_element(name: str, visit: int) -> None:
    call, held, relation = _compiled(name)
    assert all(p.agrees() for p in relation.run(call, held, visit))
    assert relation.covers == set(range(len(held)))
    for output, tensor in enumerate(held):
        for index in range(tensor.numel()):
            image = bits.snapshot(tensor)
            bits.raw(image).reshape(-1)[index] ^= 1
            wrong = (*held[:output], image, *held[output + 1 :])
            broken = [p for p in relation.run(call, wrong, visit) if not p.agrees()]
            assert {p.output for p in broken} == {output}, (name, output, index)


@pytest.mark.parametrize("name", CASES)
def test_assembled_pieces_are_the_right_result(name: str) -> None:
    call, held, relation = _compiled(name)
    wrong = tuple(torch.zeros_like(t) for t in held)
    for tensor, right in zip(assemble(relation.run(call, wrong, 1), wrong), held, strict=True):
        assert tensor is not None
        assert np.array_equal(bits.values(tensor), bits.values(right))


@pytest.mark.parametrize(("name", "num_parts"), [("split", 5), ("flat", 7)])
def test_slices_cover_everything_and_come_one_at_a_time(name: str, num_parts: int) -> None:
    call, held, relation = _compiled(name, num_parts)
    pieces = list(relation.run(call, held, 0))
    assert len(pieces) >= num_parts - 1
    assert sum(p.got.numel() for p in pieces) == held[0].numel()
    assert max(p.got.numel() for p in pieces) <= held[0].numel() // 2


def test_a_relation_that_needs_the_whole_result_is_not_cut() -> None:
    call, held, _ = _compiled("roll rows")
    spec = lookup("aten.mm")
    assert spec is not None
    assert compile_symmetry(roll("m"), call, held, spec.axes(call, held), 4) is None


def test_negation_takes_any_sign_of_a_cancelled_zero_and_no_other_difference() -> None:
    form = form_of(aten.sum.dim_IntList)
    call = BoundCall(form, form.bind((torch.tensor([[1.0, -1.0], [2.0, 3.0]]), [1]), {}))
    held = call.run()
    spec = lookup("aten.sum")
    assert spec is not None
    relation = compile_symmetry(negate("self"), call, held, spec.axes(call, held))
    assert relation is not None
    assert all(p.agrees() for p in relation.run(call, held, 0))
    wrong = torch.tensor([0.0, 5.0000005])
    assert not all(p.agrees() for p in relation.run(call, (wrong,), 0))


def test_nan_payloads_count() -> None:
    a = torch.tensor([float("nan")])
    b = bits.snapshot(a)
    assert bits.bits_equal(a, b)
    bits.raw(b)[0] ^= 1
    assert not bits.bits_equal(a, b)
