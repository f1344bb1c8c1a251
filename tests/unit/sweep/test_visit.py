"""Visits: what is counted, what is seen, what is sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from sdc_guard.sweep.declared import (
    CORE,
    Case,
    Made,
    Oracle,
    Place,
    SweepTest,
    Unsupported,
)
from sdc_guard.sweep.exact import encode_integers, tensor_of
from sdc_guard.sweep.families._exact_case import exact
from sdc_guard.sweep.messages import Confirm, Message, Miscompare, Visit, packed, unpacked
from sdc_guard.sweep.visit import Result, Visitor, by_turns, canary_is_caught, writable

PLACE = Place(kind=CORE, name="core 0", device="cpu")


def made_of(values: Sequence[int], *, is_exact: bool = True) -> Made:
    bits = encode_integers(np.array(values), "float32")
    x = tensor_of(bits, "float32")
    return Made(run=lambda: (x.clone(),), expected=(bits,) if is_exact else None, flops=3,
                num_bytes=bits.nbytes)


def declared(
    *makes: Callable[[np.random.Generator, Place], Made], oracles: tuple[Oracle, ...] = (
        Oracle.EXACT,), **more: Any
) -> SweepTest:
    cases = tuple(Case(label=f"case {i}", op="clone", dtype="float32", shape=(4,), make=make)
                  for i, make in enumerate(makes))
    return SweepTest(
        name="made", family="F1", oracles=oracles, kinds=(CORE,), blames="core",
        dtypes=("float32",), dwell_s=1.0, proves="-", cannot_prove="-",
        cases=lambda place: cases, **more)


def visitor(test: SweepTest, **more: Any) -> tuple[Visitor, list[Message]]:
    sent: list[Message] = []
    return Visitor(PLACE, {"made": test}, sent.append, **more), sent


def flip(element: int, mask: int, *, on: Callable[[int], bool] = lambda n: True) -> Any:
    """A tamper that flips bits of one element in the runs for which ``on`` holds."""
    runs = iter(range(10**9))

    def tamper(case: Case, made: Made, results: Sequence[Result]) -> None:
        if on(next(runs)):
            writable(results[0]).reshape(-1)[element] ^= np.uint32(mask)

    return tamper


def visit(limit_s: float = 0.03, **more: Any) -> Visit:
    return Visit(test="made", seed=7, limit_s=limit_s, **more)


def test_work_is_counted() -> None:
    worker, sent = visitor(declared(lambda g, p: made_of([1, 2, 3, 4])))
    done = worker.visit(visit())
    (case,) = done.cases
    assert done.canary == "caught"
    assert not done.error
    assert not case.mismatches
    assert case.checks == 4 * case.runs
    assert case.flops == 3 * case.runs
    assert case.num_bytes == 16 * case.runs
    assert case.runs > 1
    assert not [m for m in sent if isinstance(m, Miscompare)]


@pytest.mark.parametrize("mask", [1, 1 << 22, 1 << 30, 1 << 31, 0x80000001])
def test_a_wrong_bit_is_told_with_its_place(mask: int) -> None:
    worker, sent = visitor(declared(lambda g, p: made_of([1, 2, 0, 4])), tamper=flip(2, mask))
    done = worker.visit(visit())
    (seen,) = [m for m in sent if isinstance(m, Miscompare)]
    (element,) = seen.elements
    assert element.index == (2,)
    assert int(element.xor, 16) == mask
    assert element.popcount == mask.bit_count()
    assert element.expected_hexfloat == "0x0.0p+0"
    assert seen.num_reread == 1
    assert (seen.wrong, seen.tried, seen.wrong_alike) == (10, 10, 10)
    assert seen.worst is not None
    assert seen.oracle == "exact"
    assert seen.seed == 7
    assert done.cases[0].mismatches == done.cases[0].runs
    assert unpacked(packed(seen)) == seen


def test_a_nan_is_wrong_where_a_number_is_expected() -> None:
    def tamper(case: Case, made: Made, results: Sequence[Result]) -> None:
        assert isinstance(results[0], torch.Tensor)
        results[0][1] = float("nan")

    worker, sent = visitor(declared(lambda g, p: made_of([1, 2, 3, 4])), tamper=tamper)
    worker.visit(visit())
    (seen,) = [m for m in sent if isinstance(m, Miscompare)]
    assert seen.elements[0].got_hexfloat == "nan"


def test_one_wrong_run_is_told_and_does_not_come_again() -> None:
    worker, sent = visitor(declared(lambda g, p: made_of([1, 2, 3, 4])),
                           tamper=flip(0, 2, on=lambda n: n == 3))
    done = worker.visit(visit(0.2))
    (seen,) = [m for m in sent if isinstance(m, Miscompare)]
    assert (seen.wrong, seen.tried) == (0, 20)
    assert seen.run_number == 4
    assert done.cases[0].mismatches == 1


@pytest.mark.parametrize("is_tried_first", [True, False])
def test_what_was_run_before_the_first_counted_run_is_compared_too(is_tried_first: bool) -> None:
    """A unit that is wrong in the first call alone: the trial's, or else the canary's."""
    bits = encode_integers(np.array([1, 2, 3, 4]), "float32")
    calls = iter(range(10**9))

    def run() -> tuple[torch.Tensor]:
        x = tensor_of(bits, "float32").clone()
        x[1] += next(calls) == 0
        return (x,)

    def make(random: np.random.Generator, place: Place) -> Made:
        if is_tried_first:
            return exact(run, (bits,))
        return Made(run=run, expected=(bits,))

    worker, sent = visitor(declared(make))
    case = worker.visit(visit()).cases[0]
    (seen,) = [m for m in sent if isinstance(m, Miscompare)]
    assert seen.worst is not None
    assert (seen.worst.index, seen.wrong) == ((1,), 0)
    assert case.mismatches == 1
    assert case.checks == 4 * case.runs


def test_what_has_no_outside_answer_is_compared_with_its_first_run() -> None:
    test = declared(lambda g, p: made_of([1, 2], is_exact=False), oracles=(Oracle.SELF,))
    worker, sent = visitor(test, tamper=flip(0, 1, on=lambda n: n >= 2))
    done = worker.visit(visit(0.1))
    (seen,) = [m for m in sent if isinstance(m, Miscompare)]
    assert seen.oracle == "self"
    assert seen.wrong == 10
    assert done.cases[0].digest
    assert not done.cases[0].golden


@pytest.mark.parametrize(("table", "word", "is_told"), [
    ("equal", "equal", False), ("differs", "differs", True),
    ("no digest for this torch", "no digest for this torch", False)])
def test_golden_digests(table: str, word: str, is_told: bool) -> None:
    def make(random: np.random.Generator, place: Place) -> Made:
        made = made_of([1, 2], is_exact=False)
        return Made(run=made.run, expected=None, golden_key="a key")

    worker, sent = visitor(declared(make, oracles=(Oracle.GOLDEN,)),
                           golden=lambda key, digest: table)
    done = worker.visit(visit())
    assert done.cases[0].golden == word
    told = [m for m in sent if isinstance(m, Miscompare)]
    assert bool(told) is is_told
    assert all(m.oracle == "golden" and m.wrong == 10 for m in told)


def test_a_case_that_cannot_be_done_is_told_with_its_reason() -> None:
    def refuse(random: np.random.Generator, place: Place) -> Made:
        raise Unsupported("no such unit")

    worker, _ = visitor(declared(refuse))
    done = worker.visit(visit())
    assert done.cases[0].unsupported == "no such unit"
    assert not done.cases[0].checks
    assert done.canary == "none"


def test_a_test_that_fails_is_an_error_with_its_place() -> None:
    def fail(random: np.random.Generator, place: Place) -> Made:
        raise RuntimeError("broken test")

    worker, _ = visitor(declared(fail))
    done = worker.visit(visit())
    assert "broken test" in done.error
    assert "test_visit.py:" in done.error


def test_a_case_that_is_not_there_is_an_error() -> None:
    worker, _ = visitor(declared(lambda g, p: made_of([1])))
    assert "no case 'other'" in worker.visit(visit(case="other")).error


def test_a_skipped_test_makes_nothing() -> None:
    worker, _ = visitor(declared(lambda g, p: made_of([1]), skip=lambda place: "no CUDA device"))
    done = worker.visit(visit())
    assert done.skip == "no CUDA device"
    assert not done.cases


def test_rounds_begin_where_the_last_one_ended() -> None:
    worker, _ = visitor(declared(*[lambda g, p: made_of([1])] * 5))
    done = worker.visit(visit(0.001, first_case=3))
    assert [c.case for c in done.cases] == ["case 3"]
    assert done.next_case == 4


def test_operands_follow_from_test_case_and_seed_alone() -> None:
    drawn: list[int] = []

    def make(random: np.random.Generator, place: Place) -> Made:
        drawn.append(int(random.integers(0, 2**40)))
        return made_of([1])

    worker, _ = visitor(declared(make))
    for seed in (7, 7, 8):
        worker.visit(Visit(test="made", seed=seed, limit_s=0.001))
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_canary_that_nothing_can_see_is_missed() -> None:
    empty = np.zeros(0, np.uint32)
    assert not canary_is_caught(Made(run=lambda: (empty,), expected=(empty,)), (empty,))


def test_the_same_case_is_made_again_for_another_unit() -> None:
    worker, _ = visitor(declared(lambda g, p: made_of([1, 2, 3])))
    clean = worker.confirm(Confirm(test="made", case="case 0", seed=7, times=4))
    assert (clean.wrong, clean.tried) == (0, 4)
    assert clean.expected_digest == clean.digest
    worker.tamper = flip(1, 4)
    assert worker.confirm(Confirm(test="made", case="case 0", seed=7, times=4)).wrong == 4


def test_a_short_visit_reaches_each_operator_before_it_comes_back_to_one():
    def case(label: str) -> Case:
        return Case(label=label, op=label[0], dtype="float32", shape=(1,), make=lambda r, p:
                    made_of([1]))

    assert [c.label for c in by_turns([case(x) for x in ("a1", "a2", "a3", "b1", "c1", "c2")])] == [
        "a1", "b1", "c1", "a2", "c2", "a3"]
    assert by_turns([]) == []
