"""Hardware fault models: where and when each fires, and its ground truth."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sdc_guard import bits
from sdc_guard.errors import UsageError
from sdc_guard.inject.faults import InjectedFault, RepeatedFlip, Stuck, TransientFlip

aten = torch.ops.aten
MM, ADD = aten.mm.default, aten.add.Tensor


class Replaying(TorchDispatchMode):
    """Stands in for a guard: runs every call again, twice, and keeps what differed."""

    def __init__(self) -> None:
        super().__init__()
        self.differed: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        held = func(*args, **kwargs)
        if func in (MM, aten.mul.Tensor):
            for _ in range(2):
                if not bits.bits_equal(held, func(*args, **kwargs)):
                    self.differed.append(str(func))
        return held


def eye() -> torch.Tensor:
    return torch.eye(3)


def test_transient_fires_once_at_its_call() -> None:
    fault = TransientFlip(MM, 2, flat_index=1, bit=30)
    with fault:
        results = [eye() @ eye() for _ in range(5)]
        assert fault.num_calls == 5
    assert [torch.equal(r, eye()) for r in results] == [True, True, False, True, True]
    assert results[2].tolist() == [[1, 2, 0], [0, 1, 0], [0, 0, 1]]
    (record,) = fault.injected
    assert (record.model, record.op) == ("TransientFlip", "aten.mm.default")
    assert (record.call_number, record.output, record.shape) == (2, 0, (3, 3))
    assert (record.flat_index, record.bit, record.num_wrong) == (1, 30, 1)
    assert (record.before.bits, record.after.bits) == ("0x00000000", "0x40000000")
    assert (record.before.repr, record.after.repr) == ("0.0", "2.0")
    assert record.size_ulps == 2.0**150
    assert msgspec.json.decode(msgspec.json.encode(record), type=InjectedFault) == record


def test_transient_can_be_entered_again() -> None:
    fault = TransientFlip(MM, 0, flat_index=0, bit=31)
    for _ in range(3):
        with fault:
            assert (eye() @ eye())[0, 0] == -1
            assert (eye() @ eye())[0, 0] == 1
    assert len(fault.injected) == 3


def test_transient_draws_a_place_from_its_seed() -> None:
    def places(seed: int) -> list[tuple[int, int | None]]:
        found = []
        for _ in range(2):
            with TransientFlip(MM, 0, seed=seed) as fault:
                eye() @ eye()
            found.append((fault.injected[0].flat_index, fault.injected[0].bit))
        return found

    drawn = [places(seed) for seed in range(20)]
    assert all(first == second for first, second in drawn)
    assert len({first for first, _ in drawn}) > 10


def test_transient_hits_the_overwritten_operand_and_the_chosen_output() -> None:
    x = torch.ones(4)
    with TransientFlip(aten.add_.Tensor, 0, flat_index=2, bit=31):
        x.add_(torch.ones(4))
    assert x.tolist() == [2, 2, -2, 2]
    with TransientFlip(aten.native_layer_norm.default, 0, output=1, flat_index=1, bit=31) as fault:
        _, mean, _ = torch.native_layer_norm(torch.ones(3, 4), [4], None, None, 1e-5)
    assert mean.flatten().tolist() == [1, -1, 1]
    assert fault.injected[0].output == 1


def test_transient_hits_one_tensor_of_a_list() -> None:
    tensors = [torch.ones(2) for _ in range(3)]
    with TransientFlip(aten._foreach_add_.Scalar, 0, output=1, flat_index=1, bit=31):
        torch._foreach_add_(tensors, 1.0)
    assert [t.tolist() for t in tensors] == [[2, 2], [2, -2], [2, 2]]


def test_transient_in_a_masked_out_result_is_counted_as_masked() -> None:
    mean, rstd = torch.zeros(3, 1), torch.ones(3, 1)
    fault = TransientFlip(aten.native_layer_norm_backward.default, 0, output=1, flat_index=0, bit=0)
    with fault:
        aten.native_layer_norm_backward(
            torch.ones(3, 4), torch.ones(3, 4), [4], mean, rstd, None, None, [True, False, False]
        )
    assert (fault.injected, fault.masked) == ([], 1)


def test_a_result_that_is_an_operand_handed_through_is_left_alone() -> None:
    x = torch.ones(4)
    with TransientFlip(aten.lift.default, 0, flat_index=0, bit=31) as fault:
        out = aten.lift(x)
    assert out.data_ptr() == x.data_ptr()
    assert x.tolist() == [1, 1, 1, 1]
    assert (fault.injected, fault.masked) == ([], 1)


@pytest.mark.parametrize(("counts", "wrong"), [("user", [False, True, False]),
                                               ("kernel", [False, False, False])])
def test_user_calls_are_counted_apart_from_replays(counts: str, wrong: list[bool]) -> None:
    with Replaying() as guard, TransientFlip(MM, 1, flat_index=0, bit=31, counts=counts) as fault:
        results = [eye() @ eye() for _ in range(3)]
    # The second kernel execution is the guard's first replay, the second user call is the fourth.
    assert [not torch.equal(r, eye()) for r in results] == wrong
    assert [f.call_number for f in fault.injected] == [3 if counts == "user" else 1]
    assert guard.differed == ["aten.mm.default"] * (2 if counts == "user" else 1)


def test_user_calls_are_counted_in_the_backward_pass() -> None:
    x = torch.ones(4, requires_grad=True)
    with Replaying() as guard, TransientFlip(
        aten.mul.Tensor, 1, flat_index=3, bit=31, counts="user"
    ) as fault:
        loss = (x * 3).sum()
        assert not fault.injected
        loss.backward()
    assert x.grad is not None
    assert x.grad.tolist() == [3, 3, 3, -3]
    assert fault.injected[0].call_number == 3
    assert guard.differed == ["aten.mul.Tensor"] * 2


def test_user_fault_is_not_left_armed_when_the_call_runs_no_kernel() -> None:
    class Answering(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            return torch.zeros(3, 3) if func is MM else func(*args, **(kwargs or {}))

    fault = TransientFlip(MM, 0, flat_index=0, bit=31, counts="user")
    other = TransientFlip(ADD, 0, flat_index=0, bit=31, counts="user")
    with fault, other:
        with pytest.raises(RuntimeError, match="cannot be multiplied"):
            torch.mm(torch.ones(2, 3), torch.ones(2, 3))
        assert torch.equal(eye() @ eye(), eye())
        assert (eye() + 0)[0, 0] == -1
    assert (len(fault.injected), len(other.injected)) == (0, 1)
    with Answering(), TransientFlip(MM, 0, flat_index=0, bit=31, counts="user") as fault:
        eye() @ eye()
        assert fault._user_calls is not None
        assert not fault._user_calls.take()


def test_repeated_flip_fires_in_each_call_of_its_shape_replays_included() -> None:
    with RepeatedFlip(MM, (3, 3), flat_index=4, bit=31) as fault, Replaying() as guard:
        first, second = eye() @ eye(), eye() @ eye()
        other = torch.eye(2) @ torch.eye(2)
    assert first[1, 1] == second[1, 1] == -1
    assert torch.equal(other, torch.eye(2))
    assert guard.differed == []
    assert [f.call_number for f in fault.injected] == [0, 1, 2, 3, 4, 5]


def test_repeated_flip_begins_at_from_call_and_keeps_its_drawn_place() -> None:
    with RepeatedFlip(MM, (3, 3), from_call=2, seed=5) as fault:
        for _ in range(5):
            eye() @ eye()
    assert [f.call_number for f in fault.injected] == [2, 3, 4]
    assert len({(f.flat_index, f.bit) for f in fault.injected}) == 1


def test_repeated_flip_keeps_to_its_dtype() -> None:
    x = torch.ones(4)
    with RepeatedFlip(aten._to_copy.default, (4,), flat_index=0, bit=31, dtype=x.dtype) as fault:
        assert x.bfloat16().tolist() == [1, 1, 1, 1]
        assert x.bfloat16().float().tolist() == [-1, 1, 1, 1]
    assert [f.call_number for f in fault.injected] == [2]


@pytest.mark.parametrize("value", [0, 1])
def test_stuck_lane_holds_its_bit_in_every_lane_element(value: int) -> None:
    x = torch.arange(20.0)
    expected = bits.raw(x).copy()
    mask = np.uint32(1 << 23)
    lane = np.arange(20) % 8 == 3
    expected[lane] = expected[lane] | mask if value else expected[lane] & ~mask
    with Stuck(ADD, lane=3, lanes=8, bit=23, value=value) as fault:
        got = x + 0
    assert np.array_equal(bits.raw(got), expected)
    (record,) = fault.injected
    # Elements 3, 11 and 19 are 3, 11, 19: their bit 23 is 0, 0 and 1.
    assert (record.num_wrong, record.flat_index) == ((1, 19) if value == 0 else (2, 3))


def test_stuck_lane_follows_memory_not_shape() -> None:
    x = torch.ones(2, 4).t()
    with Stuck(ADD, lane=1, lanes=4, bit=31):
        got = x + 0
    assert got.stride() == (1, 4)
    assert got.tolist() == [[1, 1], [-1, -1], [1, 1], [1, 1]]


def test_stuck_lane_at_its_own_value_is_masked() -> None:
    with Stuck(ADD, lane=0, lanes=4, bit=31, value=0) as fault:
        torch.ones(8) + 1
    assert (fault.injected, fault.masked) == ([], 1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TransientFlip(MM, -1), "call_number is -1"),
        (lambda: TransientFlip(MM, 0, counts="all"), "'kernel' or 'user'"),
        (lambda: Stuck(MM, lane=8, lanes=8, bit=0), r"lane is 8, must be in 0\.\.7"),
        (lambda: Stuck(MM, lane=0, lanes=8, bit=0, value=2), "value is 2"),
        (lambda: RepeatedFlip(aten.linear.default, (3,)), "composite"),
    ],
)
def test_refuses_faults_that_cannot_be(make: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (TransientFlip(MM, 0, flat_index=9, bit=0), "flat index 9 lies outside"),
        (RepeatedFlip(MM, (3, 3), flat_index=0, bit=32), "bit is 32"),
        (Stuck(MM, lane=0, lanes=2, bit=32), "bit is 32"),
    ],
)
def test_a_place_that_the_call_does_not_have_is_an_error_there(fault: Any, words: str) -> None:
    with fault, pytest.raises(UsageError, match=words):
        eye() @ eye()
    assert torch.equal(eye() @ eye(), eye())
