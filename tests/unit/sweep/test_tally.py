"""Counts, and the word that they make."""

from __future__ import annotations

from typing import Any

from sdc_guard.records import Cause
from sdc_guard.sweep.declared import CORE, Oracle, SweepTest
from sdc_guard.sweep.messages import CaseDone, Done
from sdc_guard.sweep.tally import CAUGHT, MISSED, NOT_REACHED, Count, Seen, Tally
from sdc_guard.sweep.units import Unit
from sdc_guard.sweep.words import (
    AMBIGUOUS,
    FAIL,
    INVALID,
    PASS,
    SKIP,
    SUSPECT,
    TOOL_ERROR,
    Decision,
)

UNIT = Unit(CORE, "core 0", 0)


def declared(*oracles: Oracle) -> SweepTest:
    return SweepTest(name="a", family="F1", oracles=oracles or (Oracle.EXACT,), kinds=(CORE,),
                     blames="core", dtypes=(), dwell_s=2.0, proves="-", cannot_prove="-",
                     cases=lambda place: ())


def visit(*cases: CaseDone, elapsed_s: float = 1.0, canary: str = CAUGHT, **more: Any) -> Done:
    return Done(test="a", cases=cases, canary=canary, elapsed_s=elapsed_s, **more)


def case(label: str = "c", **more: Any) -> CaseDone:
    return CaseDone(case=label, op="mm", **{"runs": 2, "checks": 10, **more})


def seen(word: str) -> Seen:
    return Seen(UNIT, declared(), "c", 0.0, "exact", Decision(word, Cause.UNKNOWN, "", word))


def count(*visits: Done, oracles: tuple[Oracle, ...] = ()) -> Count:
    found = Count(UNIT, declared(*oracles))
    for done in visits:
        found.add(done)
    return found


def test_visits_add_up():
    found = count(visit(case(flops=3, num_bytes=5), case("d"), next_case=1),
                  visit(case(mismatches=1), next_case=2))
    assert (found.visits, found.runs, found.checks, found.flops, found.num_bytes) == (
        2, 6, 30, 3, 5)
    assert (found.mismatches, found.elapsed_s, found.cases, found.next_case) == (
        1, 2.0, {"c", "d"}, 2)


def test_checks_without_a_complaint_are_a_pass_that_tells_how_long():
    assert count(visit(case())).word() == (PASS, "1.0 s of the 2 s that it should have")
    assert count(visit(case(), elapsed_s=3.0)).word() == (PASS, "3.0 s")


def test_nothing_checked_is_never_a_pass():
    assert count().word() == (SKIP, NOT_REACHED)
    assert count(visit()).word() == (SKIP, "no case was run")
    assert count(visit(case(unsupported="no float8"))).word() == (SKIP, "no float8")
    assert count(visit(skip="no such unit")).word() == (SKIP, "no such unit")


def test_what_is_not_supported_beside_a_pass_is_told():
    word, reason = count(visit(case(), case("d", unsupported="no"), elapsed_s=3.0)).word()
    assert (word, reason) == (PASS, "3.0 s; 1 cases are not supported here")


def test_a_canary_that_was_not_seen_is_a_tool_error_and_stays_one():
    found = count(visit(case(), canary=MISSED), visit(case(), canary=CAUGHT))
    assert found.word()[0] == TOOL_ERROR


def test_a_test_that_raises_is_a_tool_error_with_its_words():
    assert count(visit(case(), error="ValueError: x")).word() == (TOOL_ERROR, "ValueError: x")


def test_a_worker_that_was_moved_makes_it_invalid():
    found = count(visit(case()))
    found.is_moved = "the worker was moved to core 1"
    assert found.word() == (INVALID, "the worker was moved to core 1")


def test_the_worst_of_what_was_seen_stands():
    found = count(visit(case(), error="ValueError: x"))
    for word in (SUSPECT, FAIL, AMBIGUOUS):
        found.seen.append(seen(word))
    assert found.word() == (FAIL, FAIL)


def test_a_golden_test_without_an_equal_digest_is_invalid():
    only = (Oracle.GOLDEN,)
    assert count(visit(case(golden="unknown key")), oracles=only).word() == (
        INVALID, "unknown key")
    assert count(visit(case()), oracles=only).word()[0] == INVALID
    assert count(visit(case(golden="equal")), oracles=only).word()[0] == PASS


def test_the_power_that_is_told_is_the_one_that_was_there():
    assert count(visit(case())).oracle == "exact"
    assert count(visit(case()), oracles=(Oracle.CROSS, Oracle.SELF)).oracle == (
        "cross-implementation")
    asks_peers = count(visit(case(golden="equal")), oracles=(Oracle.GOLDEN, Oracle.PEER))
    assert asks_peers.oracle == "golden, self"
    asks_peers.num_peers = 2
    assert asks_peers.oracle == "golden, 2 peers, self"
    assert count(visit(case()), oracles=(Oracle.PEER,)).oracle == "self"


def test_a_tally_holds_one_count_for_each_unit_and_test_and_tells_once():
    tally = Tally()
    tally.count(UNIT, declared()).add(visit(case(mismatches=3)))
    tally.count(UNIT, declared()).seen.append(seen(FAIL))
    tally.tell("full")
    tally.tell("full")
    assert (tally.checks, tally.mismatches, len(tally.seen), tally.problems) == (
        10, 3, 1, ["full"])
