"""Faults of any damage, region and time: when they strike and what they change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sdc_guard.inject.composed import OperandFault, ResultFault, StaleResult
from sdc_guard.inject.damage import FlipBits, Zero
from sdc_guard.inject.operand_bugs import DroppedBlock, SwappedOperandRows
from sdc_guard.inject.override import CallInfo
from sdc_guard.inject.regions import All, Element, Tile
from sdc_guard.inject.timing import Always, Checking, Once
from tests.unit.inject.test_faults import Replaying

aten = torch.ops.aten
MM = aten.mm.default
SIGN = FlipBits((31,))


def product() -> Tensor:
    return torch.eye(3) @ torch.eye(3)


def test_once_is_once_in_a_life_and_never_in_a_replay() -> None:
    fault = ResultFault(MM, Once(1), Element(0), SIGN, shape=(3, 3), dtype=torch.float32, bit=31)
    seen = []
    for _ in range(3):
        with Replaying() as replays, fault:
            seen.append([product()[0, 0].item() for _ in range(3)])
        if len(seen) == 1:
            assert replays.differed == ["aten.mm.default"] * 2
    assert seen == [[1, -1, 1], [1, 1, 1], [1, 1, 1]]
    (record,) = fault.injected
    assert (record.call_number, record.flat_index, record.bit) == (3, 0, 31)
    assert (record.phase, record.rate, fault.masked) == ("forward", None, 0)


def test_a_due_fault_that_changes_nothing_is_masked_and_spent() -> None:
    fault = ResultFault(MM, Once(0), Element(1), Zero())
    for _ in range(2):
        with fault:
            assert torch.equal(product(), torch.eye(3))
    assert (fault.injected, fault.masked) == ([], 1)


def test_always_strikes_replays_too() -> None:
    fault = ResultFault(MM, Always(), Tile(0, 0, 2, 2), Zero())
    with Replaying() as replays, fault:
        x = product()
    assert x.tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert (len(fault.injected), replays.differed) == (3, [])
    assert [f.num_wrong for f in fault.injected] == [2, 2, 2]
    assert fault.injected[0].first_indices == (0, 4)
    assert torch.equal(product(), torch.eye(3))


def test_a_rate_is_a_share_of_executions_and_repeats_with_its_seed() -> None:
    def struck(seed: int) -> list[int]:
        with ResultFault(MM, Always(0.25), Element(0), SIGN, seed=seed) as fault:
            for _ in range(400):
                product()
        assert {f.rate for f in fault.injected} == {0.25}
        return [f.call_number for f in fault.injected]

    first = struck(1)
    assert 60 < len(first) < 140  # five standard deviations around 100
    assert first == struck(1) != struck(2)


@pytest.mark.parametrize(("once", "want"), [(True, [4]), (False, [4, 5, 7, 8])])
def test_a_checker_is_struck_in_its_own_executions(once: bool, want: list[int]) -> None:
    fault = ResultFault(MM, Checking(1, once), Element(0), SIGN)
    with Replaying() as replays, fault:
        for _ in range(3):
            assert torch.equal(product(), torch.eye(3))
    assert [f.call_number for f in fault.injected] == want
    assert len(replays.differed) == len(want)


def test_a_checker_that_repeats_in_place_calls_out_of_place_is_struck() -> None:
    class Careful(Replaying):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func is aten.add_.Tensor:
                aten.add.Tensor(*args, **(kwargs or {}))
            return func(*args, **(kwargs or {}))

    fault = ResultFault(aten.add.Tensor, Checking(0, True), Element(0), SIGN,
                        counted=aten.add_.Tensor)
    with Careful(), fault:
        torch.ones(3) + 1
        assert not fault.injected
        torch.ones(3).add_(1)
    assert len(fault.injected) == 1


def test_a_call_made_of_another_overload_is_the_users() -> None:
    fault = ResultFault(aten.sum.dim_IntList, Checking(0, False), Element(0), SIGN,
                        counted=aten.sum.default)
    with fault:
        assert torch.ones(3).sum() == 3  # sum.default calls sum.dim_IntList
    assert fault.num_calls == 1
    assert not fault.injected


def test_a_stale_result_is_that_of_the_call_before() -> None:
    fault = StaleResult(MM, Once(2), shape=(2, 2), dtype=torch.float32)
    with Replaying(), fault:
        results = [(i * torch.eye(2) @ torch.eye(2))[0, 0].item() for i in (1, 2, 3, 4)]
    assert results == [1, 2, 2, 4]
    assert [f.before.repr for f in fault.injected] == ["3.0"]


def test_a_stale_result_in_place_was_never_written() -> None:
    x = torch.arange(4.0)
    with StaleResult(aten.add_.Tensor, Once(0), shape=(4,), dtype=torch.float32) as fault:
        x.add_(1)
    assert x.tolist() == [0, 1, 2, 3]
    assert fault.injected[0].num_wrong == 4


def test_a_stale_result_without_a_call_before_holds_old_memory() -> None:
    with StaleResult(MM, Once(0), shape=(2, 2), dtype=torch.float32):
        x = torch.tensor([[5.0], [6.0]]) @ torch.ones(1, 2)
    assert x.tolist() == [[5, 6], [5, 6]]
    with StaleResult(aten.gt.Scalar, Once(0), shape=(2,), dtype=torch.bool):
        assert not (torch.ones(2) > 0).any()


def test_an_operand_is_read_wrongly_once() -> None:
    a = torch.ones(2, 2)
    fault = OperandFault(MM, Once(1), (0,), Element(3), SIGN, shape=(2, 2))
    with Replaying() as replays, fault:
        results = [(a @ torch.eye(2)).tolist() for _ in range(3)]
    assert results == [[[1, 1], [1, 1]], [[1, 1], [1, -1]], [[1, 1], [1, 1]]]
    assert torch.equal(a, torch.ones(2, 2))
    assert len(fault.injected) == 1
    assert len(replays.differed) == 2


def test_an_overwritten_operand_is_read_wrongly_too() -> None:
    x = torch.ones(3)
    with OperandFault(aten.add_.Tensor, Always(), (0,), Element(1), Zero()) as fault:
        x.add_(torch.full((3,), 2.0))
    assert x.tolist() == [3, 2, 3]
    # 1 + 2 missed by 1, in units of 2^-24 3
    assert fault.injected[0].size_bounds is not None
    assert abs(fault.injected[0].size_bounds * 3 * 2**-24 - 1) < 1e-6


def test_a_wrong_read_that_changes_no_result_is_masked() -> None:
    small = torch.full((2, 2), 2.0**-60)
    with OperandFault(aten.add.Tensor, Once(0), (0,), Element(0), SIGN) as fault:
        small + torch.ones(2, 2)
    assert (fault.injected, fault.masked) == ([], 1)


def test_an_operand_without_the_element_is_read_right() -> None:
    with OperandFault(MM, Once(0), (0,), Element(9), SIGN) as fault:
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).tolist() == [[2, 2], [2, 2]]
    assert (fault.injected, fault.masked) == ([], 1)


@pytest.mark.parametrize(("number", "want"), [(0, [4, 4]), (3, [4, 4]), (4, [4, 4])])
def test_a_dropped_block_is_a_part_of_the_sum(number: int, want: list[float]) -> None:
    """Six terms in four parts: two each, the fourth is empty; numbers wrap at three."""
    with DroppedBlock(aten.sum.dim_IntList, (0,), number, 4):
        assert torch.ones(2, 6).sum(1).tolist() == want


def test_a_dropped_block_lies_on_the_axis_that_is_added_up() -> None:
    x = torch.arange(6.0).reshape(3, 2)
    with DroppedBlock(aten.sum.dim_IntList, (0,), 1, 3):
        assert x.sum(0).tolist() == [4, 6]
    with DroppedBlock(aten.addmm.default, (1,), 1, 2):
        assert torch.addmm(torch.zeros(1), x, torch.eye(2)).tolist() == [[0, 0], [2, 0], [4, 0]]


def test_rows_of_an_operand_are_swapped_in_any_shape() -> None:
    with SwappedOperandRows(aten.mul.Tensor, (0,), 0, 5) as fault:
        assert (torch.arange(4.0).reshape(2, 2) * 1).tolist() == [[2, 3], [0, 1]]
        assert (torch.arange(3.0) * 1).tolist() == [2, 1, 0]
    assert len(fault.injected) == 2


def test_a_condition_decides_in_each_execution() -> None:
    fault = ResultFault(MM, Always(), All(), Zero(),
                        condition=lambda call: bool(call["self"][0, 0] == 1))
    with fault:
        assert not product().any()
        assert (2 * torch.eye(3) @ torch.eye(3)).any()


def test_attention_is_read_wrongly_only_without_dropout() -> None:
    q = torch.randn(1, 1, 4, 8, generator=torch.Generator().manual_seed(0))
    op = aten._scaled_dot_product_flash_attention_for_cpu.default
    right = op(q, q, q)[0]
    with OperandFault(op, Always(), (2,), Element(0), SIGN) as fault:
        assert not torch.equal(op(q, q, q)[0], right)
    assert len(fault.injected) == 1
    for dropout, reads_wrongly in ((0.0, True), (0.5, False)):
        info = CallInfo(op, 0, (q, q, q, dropout), {}, op)
        fault._prepare(info)
        assert (info.note is not None) == reads_wrongly
