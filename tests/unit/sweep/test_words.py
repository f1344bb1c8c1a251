"""Words: each rule by which a wrong number, a vote or a death becomes a verdict."""

from __future__ import annotations

from typing import Any

import pytest

from sdc_guard.records import Cause
from sdc_guard.sweep.declared import Oracle, Unavailable, Unsupported, refusal
from sdc_guard.sweep.messages import Confirmed, Miscompare
from sdc_guard.sweep.words import (
    AMBIGUOUS,
    FAIL,
    INVALID,
    PASS,
    SKIP,
    SOFTWARE_LIKELY,
    SUSPECT,
    TOOL_ERROR,
    Answer,
    Decision,
    decide,
    decide_host,
    decide_lost,
    decide_raised,
    decide_repeated,
    decide_unsupported,
    is_want,
    vote,
    worst,
)

HERE, THERE, ELSEWHERE = "core 0", "core 1", "core 2"


def seen(wrong: int, tried: int = 10, *, oracle: Oracle = Oracle.EXACT, num_reread: int = 1,
         alike: int = 0) -> Miscompare:
    return Miscompare(
        test="t", case="c", op="mm", dtype="float32", shape=(1,), seed=1, oracle=oracle.value,
        output=0, worst=None, pattern=None, spread=None, elements=(), num_reread=num_reread,
        wrong=wrong, tried=tried, wrong_alike=alike, expected_digest="right", got_digest="wrong")


def said(unit: str, wrong: int = 0, tried: int = 10, *, expected: str = "right",
         digest: str = "right", **more: Any) -> Answer:
    return Answer(unit, Confirmed(test="t", case="c", seed=1, wrong=wrong, tried=tried,
                                  expected_digest=expected, digest=digest, **more))


def words(decision: Any) -> tuple[str, Cause, str]:
    return decision.word, decision.cause, decision.place


def test_a_number_that_is_wrong_again_here_and_right_elsewhere_is_this_units():
    found = decide(seen(10), HERE, [said(THERE)])
    assert words(found) == (FAIL, Cause.PERSISTENT_HARDWARE, HERE)
    assert "wrong in 10 of 10 repetitions here, right on core 1" in found.reason


def test_a_stored_number_that_is_still_wrong_is_enough_though_nothing_repeats_it():
    assert words(decide(seen(0, 20), HERE, [said(THERE)])) == (FAIL, Cause.TRANSIENT, HERE)


def test_a_number_that_was_right_when_it_was_read_again_is_a_suspicion():
    assert words(decide(seen(0, 20, num_reread=0), HERE, [said(THERE)])) == (
        SUSPECT, Cause.TRANSIENT, HERE)


def test_a_number_that_was_right_when_read_again_and_wrong_again_is_a_fail():
    assert decide(seen(1, num_reread=0), HERE, [said(THERE)]).word == FAIL


def test_with_nobody_to_ask_the_unit_is_named_and_the_cause_is_open():
    assert words(decide(seen(10), HERE, [])) == (FAIL, Cause.UNKNOWN, HERE)


def test_what_all_units_do_alike_is_software():
    found = decide(seen(10), HERE, [said(THERE, 10), said(ELSEWHERE, 10)])
    assert words(found) == (FAIL, Cause.SOFTWARE, "")
    assert SOFTWARE_LIKELY in found.reason


def test_one_unit_that_is_right_is_enough_against_software():
    assert words(decide(seen(10), HERE, [said(THERE, 10), said(ELSEWHERE)])) == (
        FAIL, Cause.PERSISTENT_HARDWARE, HERE)


@pytest.mark.parametrize("answer", [
    said(THERE, tried=0, unsupported="no"), said(THERE, error="ValueError: x"), said(HERE, 10)])
def test_who_could_not_run_the_case_and_the_unit_itself_are_no_other_opinion(answer: Answer):
    assert words(decide(seen(10), HERE, [answer])) == (FAIL, Cause.UNKNOWN, HERE)


def test_expected_bits_that_most_others_make_otherwise_are_told():
    others = [said(THERE, expected="other"), said(ELSEWHERE, expected="other")]
    assert "integer arithmetic or memory is wrong too" in decide(seen(10), HERE, others).reason
    one = [said(THERE, expected="other"), said(ELSEWHERE)]
    assert "integer arithmetic" not in decide(seen(10), HERE, one).reason


def test_votes_tell_held_other_and_expected_apart():
    found = decide(seen(5, 8, alike=3), HERE, [said(THERE), said(ELSEWHERE, 2)])
    here = [v.result for v in found.votes if v.place == HERE]
    assert (here.count("held"), here.count("other"), here.count("expected")) == (3, 2, 3)
    assert {v.place: v.result for v in found.votes if v.place != HERE} == {
        THERE: "expected", ELSEWHERE: "held"}


def test_other_bits_than_its_own_need_a_second_observation():
    assert words(decide(seen(0, 20, oracle=Oracle.SELF), HERE, [said(THERE)])) == (
        SUSPECT, Cause.TRANSIENT, HERE)
    assert words(decide(seen(2, oracle=Oracle.SELF), HERE, [said(THERE)])) == (
        FAIL, Cause.PERSISTENT_HARDWARE, HERE)


def test_what_does_not_repeat_elsewhere_either_is_not_deterministic():
    found = decide(seen(9, oracle=Oracle.SELF), HERE, [said(THERE, 3)])
    assert words(found) == (INVALID, Cause.SOFTWARE, "")


def test_off_a_golden_digest_once_is_a_suspicion_again_a_fail_and_everywhere_software():
    golden = Oracle.GOLDEN
    assert decide(seen(0, 20, oracle=golden), HERE, [said(THERE)]).word == SUSPECT
    assert words(decide(seen(10, oracle=golden), HERE, [said(THERE)])) == (
        FAIL, Cause.PERSISTENT_HARDWARE, HERE)
    everywhere = decide(seen(10, oracle=golden), HERE, [said(THERE, digest="wrong")])
    assert words(everywhere) == (FAIL, Cause.SOFTWARE, "")


def test_the_host_blames_the_core_that_is_wrong_alone():
    found = decide_host(seen(4), "host", [said(HERE), said(THERE, 10)])
    assert words(found) == (FAIL, Cause.PERSISTENT_HARDWARE, THERE)
    probe = [said(HERE), said(THERE, tried=0, unsupported="the probe gives 3")]
    assert decide_host(seen(4), "host", probe).place == THERE


def test_the_host_blames_no_core_if_each_is_right_alone():
    assert words(decide_host(seen(4), "host", [said(HERE), said(THERE)])) == (
        FAIL, Cause.UNKNOWN, "")
    assert words(decide_host(seen(0, 20), "host", [said(HERE), said(THERE)])) == (
        FAIL, Cause.TRANSIENT, "")


def test_the_host_says_so_if_no_core_can_do_it_alone_and_want_of_memory_is_no_answer():
    unable = said(HERE, tried=0, unsupported="the probe gives 3")
    assert "none of 1 cores is right alone" in decide_host(seen(4), "host", [unable]).reason
    short = said(THERE, tried=0, unsupported="3 MiB", is_unavailable=True)
    found = decide_host(seen(4), "host", [said(HERE), short])
    assert found.place == ""
    assert "each of 1 cores is right alone" in found.reason


def test_the_host_calls_it_software_if_each_core_is_wrong_alone():
    assert words(decide_host(seen(9), "host", [said(HERE, 9), said(THERE, 9)])) == (
        FAIL, Cause.SOFTWARE, "")


def test_a_probe_that_fails_here_alone_is_a_fail_and_one_that_nobody_passes_is_none():
    again = Confirmed(test="t", case="c", seed=1, wrong=0, tried=0, unsupported="no")
    able = [said(THERE)]
    assert words(decide_unsupported(HERE, "why", again, able)) == (
        FAIL, Cause.PERSISTENT_HARDWARE, HERE)
    assert words(decide_unsupported(HERE, "why", said(HERE).said, able)) == (
        FAIL, Cause.TRANSIENT, HERE)
    assert decide_unsupported(HERE, "why", again, [said(THERE, tried=0)]) is None
    assert decide_unsupported(HERE, "why", again, []) is None


@pytest.mark.parametrize(("again", "outside", "elsewhere", "wanted"), [
    (0, False, None, (SUSPECT, Cause.TRANSIENT, HERE)),
    (2, False, False, (FAIL, Cause.PERSISTENT_HARDWARE, HERE)),
    (1, False, False, (FAIL, Cause.PERSISTENT_HARDWARE, HERE)),
    (2, False, True, (FAIL, Cause.SOFTWARE, "")),
    (2, False, None, (FAIL, Cause.UNKNOWN, HERE)),
    (0, True, None, (TOOL_ERROR, Cause.UNKNOWN, "")),
    (2, True, False, (TOOL_ERROR, Cause.UNKNOWN, "")),
])
def test_a_lost_worker(again: int, outside: bool, elsewhere: bool | None, wanted: object):
    assert words(decide_lost(HERE, "hung", again, 2, is_from_outside=outside,
                             is_lost_elsewhere=elsewhere)) == wanted


@pytest.mark.parametrize(("again", "wanted"), [
    (0, (SUSPECT, Cause.TRANSIENT, HERE)), (1, (FAIL, Cause.PERSISTENT_HARDWARE, HERE)),
    (2, (FAIL, Cause.PERSISTENT_HARDWARE, HERE))])
def test_a_test_that_raises_on_one_unit_alone(again: int, wanted: object):
    found = decide_raised(HERE, "IndexError: 7 (a.py:3)", again, 2, THERE)
    assert words(found) == wanted
    assert "IndexError: 7 (a.py:3)" in found.reason
    assert f"not on {THERE}" in found.reason


@pytest.mark.parametrize(("error", "wanted"), [
    ("MemoryError:  (a.py:1)", True), ("OSError: [Errno 24] Too many open files (a.py:1)", True),
    ("RuntimeError: CUDA out of memory (a.py:1)", True), ("IndexError: 7 (a.py:3)", False),
    ("ArithmeticError: 64-bit integers give 3 at [0, 0], Python's give 4 (a.py:3)", False),
    ("RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes. "
     "Error code 12 (Cannot allocate memory)", True),
    ("RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate "
     "9223372036854775807 bytes. Error code 12 (Cannot allocate memory)", False),
    ("_ArrayMemoryError: Unable to allocate 16.0 MiB for an array", True),
    ("RuntimeError: could not create a memory object", True),
    ("AcceleratorError: CUDA error: an illegal memory access was encountered", False),
    ("RuntimeError: unsupported memory format option", False)])
def test_what_is_of_memory_and_files_is_no_unit_s(error: str, wanted: bool):
    assert is_want(error) == wanted


def test_a_strict_majority_outvotes_one():
    found = vote({HERE: "a", THERE: "a", ELSEWHERE: "b"},
                 {HERE: ["a"] * 3, THERE: ["a"] * 3, ELSEWHERE: ["b"] * 3})
    assert {u: words(d) for u, d in found.items()} == {
        ELSEWHERE: (FAIL, Cause.PERSISTENT_HARDWARE, ELSEWHERE)}
    assert {v.place: v.result for v in found[ELSEWHERE].votes} == {
        HERE: "expected", THERE: "expected", ELSEWHERE: "held"}


def test_two_that_each_repeat_themselves_are_ambiguous():
    found = vote({HERE: "a", THERE: "b"}, {HERE: ["a"] * 3, THERE: ["b"] * 3})
    assert {u: words(d) for u, d in found.items()} == {
        HERE: (AMBIGUOUS, Cause.UNKNOWN, ""), THERE: (AMBIGUOUS, Cause.UNKNOWN, "")}


def test_three_different_answers_and_two_against_two_are_ambiguous():
    three = vote({HERE: "a", THERE: "b", ELSEWHERE: "c"}, {})
    assert {d.word for d in three.values()} == {AMBIGUOUS}
    four = vote({HERE: "a", THERE: "b", ELSEWHERE: "a", "core 3": "b"}, {})
    assert {d.word for d in four.values()} == {AMBIGUOUS}
    assert len(four) == 4


def test_of_two_the_one_that_does_not_repeat_itself_is_to_blame():
    found = vote({HERE: "a", THERE: "b"}, {HERE: ["a", "a", "a"], THERE: ["a", "b", "a"]})
    assert {u: words(d) for u, d in found.items()} == {
        THERE: (FAIL, Cause.PERSISTENT_HARDWARE, THERE)}


def test_one_that_was_off_the_first_time_alone_is_a_suspect():
    found = vote({HERE: "a", THERE: "b"}, {HERE: ["a", "a"], THERE: ["a", "a"]})
    assert {u: words(d) for u, d in found.items()} == {
        THERE: (SUSPECT, Cause.TRANSIENT, THERE)}


def test_equal_digests_are_nobodys_fault():
    assert vote({HERE: "a", THERE: "a"}, {HERE: ["a"], THERE: ["a"]}) == {}


def test_the_worst_word_stands_and_a_pass_hides_no_skip():
    assert worst([PASS, SUSPECT, FAIL]) == FAIL
    assert worst([PASS, TOOL_ERROR]) == TOOL_ERROR
    assert worst([SKIP, PASS]) == PASS
    assert worst([PASS, INVALID]) == INVALID


@pytest.mark.parametrize(("text", "kind"), [
    ("CUDA out of memory. Tried to allocate 2.00 GiB", Unavailable),
    ("CUDA error: an illegal memory access was encountered", Unsupported)])
def test_a_wrong_address_is_no_want_of_memory(text: str, kind: type):
    assert type(refusal("no product: ", RuntimeError(text))) is kind


@pytest.mark.parametrize(("oracle", "times_off", "others", "word"), [
    (Oracle.SELF, 1, {THERE: 0}, SUSPECT), (Oracle.SELF, 2, {THERE: 0}, FAIL),
    (Oracle.SELF, 18, {}, SUSPECT), (Oracle.SELF, 18, {THERE: 1}, SUSPECT),
    (Oracle.GOLDEN, 2, {THERE: 0}, FAIL), (Oracle.GOLDEN, 2, {THERE: 2}, SUSPECT),
    (Oracle.EXACT, 1, {THERE: 0}, SUSPECT), (Oracle.EXACT, 2, {}, FAIL)])
def test_what_is_off_again_and_again_on_one_unit_alone_is_no_suspicion(
    oracle: Oracle, times_off: int, others: dict[str, int], word: str
):
    once = Decision(SUSPECT, Cause.TRANSIENT, HERE, "other bits once")
    found = decide_repeated(once, oracle.value, times_off, others)
    assert (found.word, found.place) == (word, HERE)
    assert "other bits once" in found.reason


def test_one_shaky_unit_of_three_does_not_make_another_s_fault_software():
    wrong = seen(10, oracle=Oracle.SELF)
    answers = [Answer(name, Confirmed(test="t", case="c", seed=1, wrong=count, tried=10,
                                      expected_digest="", digest="d"))
               for name, count in ((THERE, 4), (ELSEWHERE, 0), ("core 3", 0))]
    assert decide(wrong, HERE, answers).word == FAIL
    assert decide(wrong, HERE, answers[:1]).word == INVALID
