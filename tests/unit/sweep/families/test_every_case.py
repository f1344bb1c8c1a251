"""What holds for every case of every test: it is made, runs clean, its canary is caught, a flipped
bit is found, and the same seed gives the same case."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import torch

from sdc_guard.sweep.anatomy import wrong_elements
from sdc_guard.sweep.declared import CORE, Case, Made, Place, SweepTest, Unsupported
from sdc_guard.sweep.exact import bits_of
from sdc_guard.sweep.families import all_tests
from sdc_guard.sweep.visit import canary_is_caught, generator, writable

CORE_0 = Place(kind=CORE, name="core 0", device="cpu")
SEED = 7


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """As in a core's worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def _cases() -> list[tuple[SweepTest, Case]]:
    return [(test, case) for test in all_tests().values()
            if CORE in test.kinds and not test.skip(CORE_0) for case in test.cases(CORE_0)]


def _made(test: SweepTest, case: Case, seed: int = SEED) -> Made:
    return case.make(generator(test.name, case.label, seed), CORE_0)


@pytest.mark.parametrize(
    ("test", "case"), _cases(), ids=[f"{t.name}: {c.label}" for t, c in _cases()])
def test_a_case_runs_clean_and_sees_a_flipped_bit(test: SweepTest, case: Case) -> None:
    try:
        made = _made(test, case)
    except Unsupported as reason:
        pytest.skip(str(reason))
    first = [bits_of(result) for result in made.run()]
    expected = first if made.expected is None else list(made.expected)
    again = [bits_of(result) for result in made.run()]
    for have, right in zip(again, expected, strict=True):
        assert have.dtype == right.dtype
        assert wrong_elements(have, right) is None
    assert again[0].shape == case.shape
    assert canary_is_caught(made, made.run())
    for have, right in zip(again, expected, strict=True):
        if have.size:
            have.reshape(-1)[have.size // 3] ^= have.dtype.type(1)
            wrong = wrong_elements(have, right)
            assert wrong is not None
            assert int(wrong.sum()) == 1


@pytest.mark.parametrize(
    ("test", "case"), _cases(), ids=[f"{t.name}: {c.label}" for t, c in _cases()])
def test_a_wrong_result_leaves_the_operands_as_they_were(test: SweepTest, case: Case) -> None:
    """A fault that changes a result in its memory must not make the next run wrong, too."""
    try:
        made = _made(test, case)
    except Unsupported as reason:
        pytest.skip(str(reason))
    assert _stays_right(made)


def test_a_result_in_the_memory_of_an_operand_is_seen() -> None:
    operand = torch.ones(3)
    assert not _stays_right(Made(run=lambda: [operand.view(3)], expected=None))


def _stays_right(made: Made) -> bool:
    results = made.run()
    before = [bits_of(result).copy() for result in results]
    for result in results:
        memory = writable(result)
        memory[...] = ~memory
    return all(wrong_elements(bits_of(result), right) is None
               for result, right in zip(made.run(), before, strict=True))


@pytest.mark.parametrize("test", list(all_tests().values()), ids=list(all_tests()))
def test_labels_are_unique_and_the_seed_decides_the_operands(test: SweepTest) -> None:
    if CORE not in test.kinds:
        pytest.skip("not for a core")
    cases = test.cases(CORE_0)
    assert len({case.label for case in cases}) == len(cases)
    for case in cases[:3]:
        try:
            one, same = _made(test, case), _made(test, case)
        except Unsupported:
            continue
        for a, b in zip(one.inputs, same.inputs, strict=True):
            np.testing.assert_array_equal(a, b)
