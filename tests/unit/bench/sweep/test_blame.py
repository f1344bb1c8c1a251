"""The faulty unit is blamed, and no sound one; without an outside answer two units stay open."""

from __future__ import annotations

import msgspec
import pytest

from sdc_guard.bench.sweep import blame
from sdc_guard.bench.sweep.blame import MISSED, OPEN, RIGHT, SOFTWARE, SUSPECTED, WRONG, blamed
from sdc_guard.bench.sweep.columns import EXACT, PEERS, Column, columns_of
from sdc_guard.bench.sweep.faults import Dwell, Fault
from sdc_guard.bench.sweep.kinds import KINDS
from sdc_guard.sweep.words import decide
from tests.unit.bench.sweep.made_tests import CORE_0, small_test


@pytest.fixture(scope="module")
def both() -> dict[str, Column]:
    found = {}
    for is_known in (True, False):
        columns = columns_of(small_test("small", is_known=is_known), CORE_0, seed=0, dwell_s=0.01,
                             limit_s=60.0)
        assert not isinstance(columns, str)
        found |= {column.oracle: column for column in columns}
    return found


def words(column: Column, kind: str, num_units: int, *, all_alike: bool = False) -> set[str]:
    def make(number: int, unit: str) -> Fault:
        return Fault(KINDS[kind], number, seed=1, where=unit, dwell=Dwell(10**6, 10**9))

    return {blamed(column, lambda unit, n=n: make(n, unit),  # type: ignore[misc]
                   num_units, n % num_units, all_alike=all_alike) for n in range(6)}


@pytest.mark.parametrize("num_units", [2, 3])
@pytest.mark.parametrize("kind", ["1 ulp, always", "NaN, now and then", "stride 32, always"])
def test_an_exact_answer_blames_the_faulty_unit(
    both: dict[str, Column], kind: str, num_units: int
) -> None:
    assert words(both[EXACT], kind, num_units) == {RIGHT}


def test_two_peers_that_always_differ_are_ambiguous_and_three_are_not(
    both: dict[str, Column],
) -> None:
    assert words(both[PEERS], "1 ulp, always", 2) == {OPEN}
    assert words(both[PEERS], "1 ulp, always", 3) == {RIGHT}


def test_a_unit_that_contradicts_itself_is_told_from_its_peer(both: dict[str, Column]) -> None:
    assert words(both[PEERS], "bit: sign, now and then", 2) <= {RIGHT, SUSPECTED}


def test_what_all_units_do_is_software_or_goes_unseen(both: dict[str, Column]) -> None:
    assert words(both[EXACT], "1 ulp, always", 2, all_alike=True) == {SOFTWARE}
    assert words(both[PEERS], "1 ulp, always", 2, all_alike=True) == {MISSED}


def test_a_decision_for_another_unit_counts_as_wrong_blame(
    both: dict[str, Column], monkeypatch: pytest.MonkeyPatch
) -> None:
    def swapped(seen, unit, answers):  # type: ignore[no-untyped-def]
        return decide(msgspec.structs.replace(seen), answers[0].unit, answers[:0])

    monkeypatch.setattr(blame, "decide", swapped)
    assert words(both[EXACT], "1 ulp, always", 2) == {WRONG}
