"""The size of a fault in units of the operator's bound."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from sdc_guard.inject import measure
from sdc_guard.inject.base import describe_change
from sdc_guard.inject.faults import RepeatedFlip, TransientFlip
from sdc_guard.inject.truth import SIZES, InjectedFault, size_class
from sdc_guard.ops import lookup

aten = torch.ops.aten


@pytest.mark.parametrize("num", [2, 4])
def test_the_last_bit_of_a_sum_in_units_of_its_bound(num: int) -> None:
    """Of n ones, added one by one, the bound is (n - 1) 2^-24 n; the last bit of n is 2^-23 n."""
    with TransientFlip(aten.sum.dim_IntList, 0, flat_index=0, bit=0) as fault:
        aten.sum.dim_IntList(torch.ones(3, num), [1])
    (record,) = fault.injected
    assert record.size_bounds is not None
    # The rounding of the reference in float64 is part of the bound.
    assert abs(record.size_bounds - 2 / (num - 1)) < 1e-6
    assert size_class(record) == {2: "1 to 2", 4: "0.1 to 1"}[num]
    assert (record.worst_index, record.first_indices, record.num_not_finite) == (0, (0,), 0)


def test_an_overwritten_operand_counts_as_it_was() -> None:
    """1 + 1 is bounded by 2^-24 2, and the last bit of 2 is 2^-22; of 2 + 1 it would be less."""
    x = torch.ones(3)
    with TransientFlip(aten.add_.Tensor, 0, flat_index=1, bit=0) as fault:
        x.add_(torch.ones(3))
    size = fault.injected[0].size_bounds
    assert size is not None
    assert abs(size - 2) < 1e-6


def test_only_the_first_strike_is_measured() -> None:
    with RepeatedFlip(aten.mul.Tensor, (3,), flat_index=0, bit=20) as fault:
        for _ in range(3):
            torch.ones(3) * 2
    sizes = [f.size_bounds for f in fault.injected]
    assert sizes[0] is not None
    assert sizes[1:] == [None, None]


@pytest.mark.parametrize(("bit", "want"), [(30, "not finite"), (22, "above 100")])
def test_infinities_and_large_errors(bit: int, want: str) -> None:
    with TransientFlip(aten.mul.Tensor, 0, flat_index=0, bit=bit) as fault:
        torch.full((2,), 0.5) * 2
    record = fault.injected[0]
    assert size_class(record) == want
    assert record.num_not_finite == (want == "not finite")


def test_any_change_of_a_result_with_bound_zero_is_above_100() -> None:
    with TransientFlip(aten.add.Tensor, 0, flat_index=0, bit=0) as fault:
        torch.tensor([1, 2]) + torch.tensor([3, 4])
    with TransientFlip(aten.clone.default, 0, flat_index=0, bit=0) as copied:
        torch.ones(2).clone()
    # Here an exact fact fixes every bit, and there is no reference.
    with TransientFlip(aten.index_fill.int_Scalar, 0, flat_index=0, bit=0) as filled:
        torch.ones(3).index_fill(0, torch.tensor([1]), 5.0)
    records = [*fault.injected, *copied.injected, *filled.injected]
    assert len(records) == 3
    for record in records:
        assert record.size_bounds == sys.float_info.max
        assert size_class(record) == "above 100"
        assert msgspec.json.decode(msgspec.json.encode(record), type=InjectedFault) == record


def test_no_bound_where_the_operator_has_none() -> None:
    with TransientFlip(aten.bernoulli_.float, 0, flat_index=0, bit=3) as fault:
        torch.empty(4).bernoulli_(0.5)
    assert fault.injected[0].size_bounds is None
    assert size_class(fault.injected[0]) == "no bound"


def test_a_failing_reference_does_not_break_the_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = lookup("aten.mm")
    assert spec is not None

    def fails(call: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(measure, "lookup", lambda packet: replace(spec, reference=fails))
    with TransientFlip(aten.mm.default, 0, flat_index=0, bit=31) as fault:
        assert (torch.eye(2) @ torch.eye(2))[0, 0] == -1
    assert size_class(fault.injected[0]) == "no bound"


def record_of(before: list[float], after: list[float], limits: list[float] | None) -> InjectedFault:
    def patterns(numbers: list[float]) -> np.ndarray:
        return np.array(numbers, dtype=np.float32).view(np.uint32)

    return describe_change(
        model="m", dtype=torch.float32, shape=(40,), where=np.arange(len(before)) * 2,
        before=patterns(before), after=patterns(after),
        limits=None if limits is None else np.array(limits))


def test_the_worst_element_is_the_largest_in_units_of_its_bound() -> None:
    record = record_of([1, 1, 1], [2, 5, 4], [1, 8, 1])
    assert (record.worst_index, record.size_bounds, record.num_wrong) == (4, 3.0, 3)
    record = record_of([1, 1, 1], [2, 5, 4], None)
    assert (record.worst_index, record.size_bounds) == (2, None)
    record = record_of([1, 1, 1], [2, float("nan"), float("inf")], [1, 1, 1])
    assert (record.worst_index, record.size_bounds, record.num_not_finite) == (2, None, 2)
    assert len(record_of([1] * 20, [2] * 20, None).first_indices) == 16
    assert record_of([0.0], [-0.0], [0.0]).size_bounds == 0.0


@pytest.mark.parametrize(("bounds", "want"), [
    (0.0, 0), (0.0099, 0), (0.01, 1), (0.1, 2), (1.0, 3), (2.0, 4), (99.9, 4), (100.0, 5),
    (1e300, 5),
])
def test_size_classes(bounds: float, want: int) -> None:
    record = msgspec.structs.replace(record_of([1], [2], None), size_bounds=bounds)
    assert size_class(record) == SIZES[want]
