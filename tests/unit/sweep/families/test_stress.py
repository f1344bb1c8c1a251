"""Stress profiles run other tests' cases, in their order, at their pace, in their company."""

from __future__ import annotations

from itertools import pairwise

from sdc_guard.sweep.declared import CORE, Company, Place, SweepTest
from sdc_guard.sweep.families import all_tests
from sdc_guard.sweep.families._borrowed import SLOW
from sdc_guard.sweep.messages import Message, Miscompare, Visit
from sdc_guard.sweep.visit import Tamper, Visitor, writable

PLACE = Place(kind=CORE, name="core 0", device="cpu")
STRESS = {name: test for name, test in all_tests().items() if test.family == "F8"}


def bases(test: SweepTest) -> list[str]:
    return [case.label.partition(":")[0] for case in test.cases(PLACE)]


def test_bursts_alternate_between_products_memory_and_moves() -> None:
    for name in ("stress_bursts", "stress_after_rest", "stress_loaded_neighbours", "stress_alone"):
        assert bases(STRESS[name])[:4] == [
            "exact_product", "exact_full_mantissa", "memory_patterns", "exact_gather"]


def test_the_two_orders_are_each_others_reverse() -> None:
    there, back = (list(dict.fromkeys(bases(STRESS[name]))) for name in (
        "stress_memory_then_products", "stress_products_then_memory"))
    assert there == ["memory_patterns", "exact_product", "exact_full_mantissa"] == back[::-1]


def test_light_and_heavy_data_take_turns() -> None:
    labels = [case.label.startswith("zeros") for case in STRESS["stress_data_swings"].cases(PLACE)]
    assert labels[0]
    assert all(a != b for a, b in pairwise(labels))


def test_paces_and_company_are_as_named() -> None:
    paces = {name: (t.pace.busy_s, t.pace.idle_s, t.pace.does_alternate)
             for name, t in STRESS.items()}
    assert paces["stress_bursts"] == (0.05, 0.05, True)
    assert paces["stress_after_rest"] == (0.05, 5.0, True)
    assert paces["stress_soak"] == (1.0, 0.0, False)
    assert STRESS["stress_loaded_neighbours"].company is Company.LOADED
    assert STRESS["stress_alone"].company is Company.ALONE


def test_no_borrowed_case_sleeps_by_itself() -> None:
    for test in STRESS.values():
        assert not any(case.label.partition(": ")[2].startswith(SLOW)
                       for case in test.cases(PLACE))


def test_a_fault_under_stress_is_found() -> None:
    def flip() -> Tamper:
        def tamper(case: object, made: object, results: object) -> None:
            writable(results[0]).reshape(-1)[0] ^= 1  # type: ignore[index]
        return tamper

    test = STRESS["stress_data_swings"]
    sent: list[Message] = []
    Visitor(PLACE, {test.name: test}, sent.append, tamper=flip()).visit(
        Visit(test=test.name, seed=1, limit_s=0.001))
    (found,) = [m for m in sent if isinstance(m, Miscompare)]
    assert found.case.startswith("zeros")
    assert (found.oracle, found.wrong) == ("exact", found.tried)
