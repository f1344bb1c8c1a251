"""Software fault models: deterministic, and wrong only where their condition holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sdc_guard.calls import BoundCall, form_of
from sdc_guard.errors import UsageError
from sdc_guard.inject import predicates
from sdc_guard.inject.kernel_bugs import WrongAtOffset, WrongLayout, WrongOffset

aten = torch.ops.aten
SUM, MM = aten.sum.dim_IntList, aten.mm.default


def always(call: BoundCall) -> bool:
    return True


def test_wrong_offset_reads_one_place_further_and_wraps() -> None:
    x = torch.arange(12.0).reshape(3, 4)
    with WrongOffset(SUM, always) as fault:
        got = x.sum(1)
    assert got.tolist() == [1 + 2 + 3 + 4, 5 + 6 + 7 + 8, 9 + 10 + 11 + 0]
    assert torch.equal(x, torch.arange(12.0).reshape(3, 4))
    (record,) = fault.injected
    assert (record.flat_index, record.num_wrong, record.bit) == (0, 3, None)
    assert (record.before.repr, record.after.repr) == ("6.0", "10.0")
    assert record.size_ulps == 4 / 2.0**-21


@pytest.mark.parametrize("shift", [-1, 1, 5])
def test_wrong_offset_walks_the_operands_memory_whatever_its_strides(shift: int) -> None:
    whole = torch.arange(40.0).reshape(5, 8)
    view = whole[1:4, 2:6].t()
    memory = whole.reshape(-1)[10:30].roll(-shift)
    expected = memory.as_strided(view.shape, view.stride()).sum(0)
    with WrongOffset(SUM, always, shift=shift):
        assert torch.equal(view.sum(0), expected)


def test_wrong_offset_fires_only_on_its_data_and_again_on_a_replay() -> None:
    def big_first(call: BoundCall) -> bool:
        return call["self"].flatten()[0].item() > 10

    small, big = torch.arange(6.0).reshape(2, 3), torch.arange(6.0).reshape(2, 3) + 20
    plain = big.sum(0)
    with WrongOffset(SUM, big_first) as fault:
        assert small.sum(0).tolist() == [3, 5, 7]
        wrong = big.sum(0)
        assert not torch.equal(wrong, plain)
        assert torch.equal(big.sum(0), wrong)
        assert not torch.equal(big.flip(1).sum(0).flip(0), wrong)
    assert [f.call_number for f in fault.injected] == [1, 2, 3]


def test_wrong_offset_of_an_in_place_op_starts_from_the_old_operand() -> None:
    x, y = torch.full((4,), 10.0), torch.arange(4.0)
    with WrongOffset(aten.add_.Tensor, always, operand="other"):
        assert x.add_(y) is x
    assert x.tolist() == [11, 12, 13, 10]
    assert y.tolist() == [0, 1, 2, 3]


def test_wrong_offset_of_an_out_form_and_of_a_list() -> None:
    out = torch.empty(3)
    with WrongOffset(aten.sum.IntList_out, always):
        torch.sum(torch.arange(6.0).reshape(3, 2), 1, out=out)
    assert out.tolist() == [3, 7, 5]
    tensors = [torch.zeros(2), torch.zeros(2)]
    with WrongOffset(aten._foreach_add_.List, always, operand="other"):
        torch._foreach_add_(tensors, [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])])
    assert [t.tolist() for t in tensors] == [[2, 1], [4, 3]]


def test_wrong_offset_that_changes_nothing_is_masked() -> None:
    with WrongOffset(SUM, always) as fault:
        assert torch.ones(2, 3).sum(1).tolist() == [3, 3]
    assert (fault.injected, fault.masked) == ([], 1)


def test_wrong_offset_reaches_the_backward_pass() -> None:
    x = torch.arange(6.0).reshape(2, 3).requires_grad_()
    bias = torch.zeros(3, requires_grad=True)
    weights = torch.arange(6.0).reshape(2, 3)
    with WrongOffset(SUM, lambda call: call["self"].shape == (2, 3)):
        ((x + bias) * weights).sum(None).backward()
    assert bias.grad is not None
    assert bias.grad.tolist() == [1 + 4, 2 + 5, 3 + 0]


def test_wrong_layout_is_right_for_contiguous_and_wrong_for_transposed() -> None:
    a, b = torch.arange(6.0).reshape(2, 3), torch.eye(3)
    with WrongLayout(MM) as fault:
        assert torch.equal(a @ b, a)
        assert torch.equal(a.t().contiguous() @ torch.eye(2), a.t())
        assert not fault.injected
        got = a.t() @ torch.eye(2)
    assert got.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert fault.injected[0].num_wrong == 4


def test_wrong_layout_of_an_expanded_operand_reads_its_memory_over_again() -> None:
    column = torch.tensor([[1.0], [2.0], [3.0]])
    with WrongLayout(SUM, lambda shape, strides: 0 in strides):
        got = column.expand(3, 2).sum(1)
    assert got.tolist() == [1 + 2, 3 + 1, 2 + 3]


def test_wrong_at_offset_flips_or_repeats_the_left_neighbour() -> None:
    x = torch.arange(6.0)
    with WrongAtOffset(aten.add.Tensor, 3) as fault:
        assert (x + 1).tolist() == [1, 2, 3, 3, 5, 6]
        assert (x[:3] + 1).tolist() == [1, 2, 3]
    assert [(f.flat_index, f.num_wrong, f.bit) for f in fault.injected] == [(3, 1, None)]
    with WrongAtOffset(aten.add.Tensor, 0, bit=31) as fault:
        assert (x + 1).tolist() == [-1, 2, 3, 4, 5, 6]
        assert (x + 1).tolist() == [-1, 2, 3, 4, 5, 6]
    assert len(fault.injected) == 2


def test_wrong_at_offset_for_one_place_in_memory_only() -> None:
    x = torch.arange(1.0, 18.0)
    with WrongAtOffset(aten.mul.Tensor, 1, when=predicates.is_offset("self")) as fault:
        assert (x * 2)[1] == 4
        assert (x[1:] * 2)[1] == 4
    assert len(fault.injected) == 1
    aligned = x.clone()
    with WrongAtOffset(aten.mul.Tensor, 1, when=predicates.is_misaligned("self", 64), bit=31):
        lead = aligned.data_ptr() % 64 // 4
        place = (16 - lead) % 16
        assert (aligned[place:] * 1)[-1] == 17
        assert (aligned[1:][place:] * 1 if place else aligned[1:] * 1)[1] == -(place + 3)


def test_wrong_at_offset_asks_before_the_operand_is_overwritten() -> None:
    x = torch.zeros(3)
    with WrongAtOffset(aten.add_.Tensor, 0, bit=31, when=lambda call: call["self"][0].item() == 0):
        x.add_(1)
        x.add_(1)
    assert x.tolist() == [0, 2, 2]


def test_wrong_at_offset_that_changes_nothing_is_masked() -> None:
    with WrongAtOffset(aten.add.Tensor, 3) as fault:
        torch.ones(6) + 1
    assert (fault.injected, fault.masked) == ([], 1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: WrongOffset(SUM, always, operand="input"), "no operand 'input'; it has self, dim"),
        (lambda: WrongOffset(aten.add_.Tensor, always), "overwrites 'self'"),
        (lambda: WrongLayout(aten.native_dropout.default, operand="input"), "random numbers"),
        (lambda: WrongAtOffset(MM, 0), "flat_index is 0, must be at least 1"),
        (lambda: WrongAtOffset(MM, -1, bit=0), "flat_index is -1, must be at least 0"),
        (lambda: predicates.one_in(0, "self"), "n is 0"),
    ],
)
def test_refuses_what_cannot_be(make: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make()


def bound(*args: Any) -> BoundCall:
    form = form_of(MM)
    return BoundCall(form, form.bind(args, {}))


def test_one_in_holds_for_its_share_of_contents_and_the_same_ones_each_time() -> None:
    torch.manual_seed(0)
    contents = [torch.randn(4, 4) for _ in range(2000)]
    holds = predicates.one_in(20, "self")
    hits = [holds(bound(c, c)) for c in contents]
    # 100 expected; the binomial's standard deviation is 9.7.
    assert 55 <= sum(hits) <= 145
    assert hits == [holds(bound(c.t().contiguous().t(), c)) for c in contents]
    other = predicates.one_in(20, "self", salt=1)
    assert hits != [other(bound(c, c)) for c in contents]


def test_is_transposed_sees_strides_out_of_order() -> None:
    x = torch.zeros(2, 3, 4)
    assert not predicates.is_transposed(x.shape, x.stride())
    assert predicates.is_transposed(x.mT.shape, x.mT.stride())
    one = torch.zeros(1, 4).t()
    assert not predicates.is_transposed(one.shape, one.stride())
