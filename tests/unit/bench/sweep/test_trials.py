"""Trials tell what was reached from what was found, by each kind of answer."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from sdc_guard.bench.sweep.columns import EXACT, GOLDEN, PEERS, SELF, Column, columns_of
from sdc_guard.bench.sweep.faults import Dwell, Fault, Scope
from sdc_guard.bench.sweep.kinds import KINDS, Kind, When
from sdc_guard.bench.sweep.reach import out_of_reach
from sdc_guard.bench.sweep.trials import run_trial
from tests.unit.bench.sweep.made_tests import CORE_0, small_test

LONG = Dwell(10**6, 10**9)
SCOPE = Scope(("copy float32", "elsewhere"), ("float32", "bfloat16"))
NEEDS_SELECTION = {"in one op only", "per run 1e-06", "per run 1e-05"}


def columns(*, is_known: bool, key: str = "") -> dict[str, Column]:
    found = columns_of(small_test("small", is_known=is_known, key=key), CORE_0, seed=0,
                       dwell_s=0.01, limit_s=60.0)
    assert not isinstance(found, str)
    return {column.oracle: replace(column, dwell=LONG) for column in found}


@pytest.fixture(scope="module")
def all_columns() -> dict[str, Column]:
    return columns(is_known=True) | columns(is_known=False, key="key")


def counts(column: Column, kind: str, num: int = 6) -> Counter[tuple[bool, bool]]:
    found: Counter[tuple[bool, bool]] = Counter()
    for number in range(num):
        fault = Fault(KINDS[kind], number, seed=5, where=column.name, dwell=column.dwell,
                      scope=SCOPE)
        outcome = run_trial(column, fault)
        found[outcome.is_reached, outcome.is_found] += 1
    return found


def test_a_test_has_a_column_for_each_kind_of_answer(all_columns: dict[str, Column]) -> None:
    assert set(all_columns) == {EXACT, SELF, GOLDEN, PEERS}
    assert all(column.num_mismatches == 0 for column in all_columns.values())


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("oracle", [EXACT, SELF, GOLDEN, PEERS])
def test_what_is_reached_is_found_but_by_a_unit_that_asks_itself(
    all_columns: dict[str, Column], oracle: str, kind: str
) -> None:
    found = counts(all_columns[oracle], kind, 3)
    if out_of_reach(KINDS[kind], oracle):
        assert found[True, True] == 0
    else:
        assert found[True, False] == 0
    if kind not in NEEDS_SELECTION:
        assert found[True, True] + found[True, False] > 0


def test_a_fault_beyond_the_dwell_time_is_not_reached(all_columns: dict[str, Column]) -> None:
    short = replace(all_columns[EXACT], dwell=Dwell(1, 1))
    assert counts(short, "per run 1e-06") == {(False, False): 6}
    assert counts(short, "per element 1e-06") == {(False, False): 6}


def test_a_fault_of_an_operator_that_does_not_run_is_not_reached(
    all_columns: dict[str, Column],
) -> None:
    found = counts(all_columns[EXACT], "in one op only", 20)
    assert set(found) == {(True, True), (False, False)}


def test_a_miscompare_without_a_fault_is_no_detection() -> None:
    column = columns(is_known=True)[EXACT]
    made = column.cases[0].make(None, CORE_0)  # type: ignore[arg-type]
    assert made.expected is not None
    made.expected[0][0] ^= 1
    idle = Kind(name="idle", change=lambda target, random: None, when=When.ALWAYS)
    never = Fault(idle, 0, seed=0, where="", dwell=LONG)
    with pytest.raises(RuntimeError, match="without a changed bit"):
        run_trial(replace(column, cases=column.cases[:1]), never)


def test_a_clean_visit_that_is_wrong_counts_as_false_alarm() -> None:
    def wrong(random: object, place: object) -> object:
        made = case.make(random, place)  # type: ignore[arg-type]
        made.expected[0][0] ^= 1
        return made

    test = small_test("wrong", is_known=True)
    case = test.cases(CORE_0)[0]
    bad = replace(test, cases=lambda place: [replace(case, make=wrong)])  # type: ignore[arg-type]
    (column,) = columns_of(bad, CORE_0, seed=0, dwell_s=0.01, limit_s=60.0)
    assert isinstance(column, Column)
    assert column.num_mismatches > 0


def test_a_fault_is_the_same_wherever_it_is_put() -> None:
    struck = []
    for where in ("one", "other"):
        column = columns(is_known=True)[EXACT]
        fault = Fault(KINDS["bit: sign, always"], 4, seed=5, where=where, dwell=LONG)
        run_trial(column, fault)
        struck.append(fault.struck)
    assert struck[0] == struck[1] != set()


def test_places_that_a_test_cannot_run_on_are_told() -> None:
    test = replace(small_test("gpu", is_known=True), kinds=("gpu",))
    assert columns_of(test, CORE_0, seed=0, dwell_s=0.01, limit_s=60.0) == "runs on gpu only"
    skipped = replace(small_test("no", is_known=True), skip=lambda place: "not today")
    assert columns_of(skipped, CORE_0, seed=0, dwell_s=0.01, limit_s=60.0) == "not today"
