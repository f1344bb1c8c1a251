"""The share of a long list that stays among the fast tests meets every group, and is fixed."""

from __future__ import annotations

import pytest

from tests.shares import is_in, one_of_each, slow

NAMES = ("mm", "sum", "exp", "cat", "pow", "sub")
PAIRS = [(name, number) for name in NAMES for number in range(3)]


def is_slow(case: object) -> bool:
    return isinstance(case, pytest.ParameterSet) and any(m.name == "slow" for m in case.marks)


def test_one_of_each_group_is_fast_and_no_case_is_lost() -> None:
    found = one_of_each(PAIRS, lambda case: str(case[0]))
    assert [case.values if is_slow(case) else case for case in found] == PAIRS
    fast = [case for case in found if not is_slow(case)]
    assert [name for name, _ in fast] == list(NAMES)
    assert len({number for _, number in fast}) > 1
    assert found == one_of_each(PAIRS, lambda case: str(case[0]))


def test_the_parts_of_a_list_are_the_whole_list() -> None:
    names = [f"aten.op{i}" for i in range(40)]
    parts = [[n for n in names if is_in(n, part, 3)] for part in range(3)]
    assert sorted(n for part in parts for n in part) == sorted(names)
    assert all(len(part) > 5 for part in parts)


def test_a_case_keeps_its_name_and_its_marks() -> None:
    case = slow(pytest.param(1, 2, id="both", marks=pytest.mark.gpu))
    assert (case.values, case.id) == ((1, 2), "both")
    assert {mark.name for mark in case.marks} == {"gpu", "slow"}
    assert slow("aten.mm").values == ("aten.mm",)
