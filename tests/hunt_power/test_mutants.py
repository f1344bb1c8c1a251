"""Each mutant is a bug: some calls come out wrong, others right."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.catalogue.child import image_of, tensors_of
from tests.hunt_power.mutant import planted
from tests.hunt_power.mutants import MUTANTS
from tests.hunt_power.rivals.draws import DRAWS
from tests.shares import is_in, slow


def bits_of(value: Any) -> list[Any]:
    return [image_of(t) for t in tensors_of(value)]


def test_there_are_forty_and_more() -> None:
    assert len(MUTANTS) >= 40


@pytest.mark.parametrize("name", [n if is_in(n, 0, 5) else slow(n) for n in MUTANTS])
def test_a_mutant_is_wrong_on_some_calls_and_right_on_others(name: str) -> None:
    mutant = MUTANTS[name]
    torch.manual_seed(0)
    expected, also_right = bits_of(mutant.wrong()), bits_of(mutant.right())
    assert expected
    with planted(mutant) as state:
        assert bits_of(mutant.wrong()) != expected
        assert state.num_wrong > 0
        assert bits_of(mutant.right()) == also_right
        with state.off():
            assert bits_of(mutant.wrong()) == expected
    assert bits_of(mutant.wrong()) == expected


def test_every_mutant_has_random_calls_for_the_rival() -> None:
    assert {name for name, mutant in MUTANTS.items() if mutant.draws not in DRAWS} == set()
