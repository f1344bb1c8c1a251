from __future__ import annotations

import itertools

import pytest

from sdc_guard.hunt.schedule import ROUND_EXAMPLES, examples_of, ordered, rounds, rounds_for
from sdc_guard.hunt.worker import seed_of

TARGETS = ["aten.sum.default", "aten.mm.default", "aten.exp.default"]


def test_every_target_has_its_first_round_before_any_has_its_second() -> None:
    first = list(itertools.islice(rounds(TARGETS, 0, None), 6))
    assert {target for target, _, _ in first[:3]} == set(TARGETS)
    assert [number for _, number, _ in first] == [0, 0, 0, 1, 1, 1]
    assert [size for _, _, size in first] == [ROUND_EXAMPLES[0]] * 3 + [ROUND_EXAMPLES[1]] * 3


def test_a_longer_hunt_begins_with_a_shorter_one() -> None:
    short, long = list(rounds(TARGETS, 7, 40)), list(rounds(TARGETS, 7, 140))
    assert long[: len(short)] == short
    assert list(itertools.islice(rounds(TARGETS, 7, None), len(long))) == long


@pytest.mark.parametrize(("examples", "sizes"), [(1, [1]), (10, [10]), (41, [10, 30, 1])])
def test_a_number_of_examples_is_kept_to(examples: int, sizes: list[int]) -> None:
    assert rounds_for(examples) == sizes
    assert sum(rounds_for(1234)) == 1234


def test_late_rounds_have_the_last_size() -> None:
    assert examples_of(99) == ROUND_EXAMPLES[-1]


def test_the_order_is_of_the_seed_and_not_of_the_list() -> None:
    assert ordered(TARGETS, 3) == ordered(TARGETS[::-1], 3)
    names = [f"aten.op{i}.default" for i in range(50)]
    assert ordered(names, 1) != ordered(names, 2)


def test_a_rounds_seed_is_of_hunt_target_and_number_alone() -> None:
    seeds = {seed_of(s, t, n) for s in (0, 1) for t in TARGETS for n in range(5)}
    assert len(seeds) == 30
    assert seed_of(0, "aten.sum.default", 2) == seed_of(0, "aten.sum.default", 2)


def test_no_target_means_no_round() -> None:
    assert list(rounds([], 0, None)) == []
