"""Arbitration: who is right when a witness disagrees.  A scripted op stands in for kernels."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from sdc_guard.attribute.arbitrate import Case, Ruling, arbitrate
from sdc_guard.calls import BoundCall, form_of
from sdc_guard.records import Suspicion, Verdict

RIGHT = torch.tensor([1.0, 2.0, 3.0])
WRONG = torch.tensor([1.0, 2.0000002, 3.0])


class _Scripted(BoundCall):
    """A call whose repeats give the results that a test wrote down."""

    __slots__ = ("script",)

    def __init__(self, results: Iterator[Tensor]) -> None:
        form = form_of(torch.ops.aten.neg.default)
        super().__init__(form, (RIGHT,))
        object.__setattr__(self, "script", results)

    def run_identical(self) -> tuple[Tensor, ...]:
        return (next(self.script),)


def _suspicion(witness: str = "replay", exceeds: str = "bits") -> Suspicion:
    return Suspicion(
        witness=witness,
        relation="roll",
        output=0,
        wrong=np.asarray([False, True, False]),
        expected=RIGHT,
        limit=None,
        exceeds=exceeds,
        formula="a fact",
    )


def _rule(
    repeats: list[Tensor],
    *,
    suspicion: Suspicion | None = None,
    deterministic: bool = True,
    admitted: bool = True,
    jury: tuple[Tensor, ...] = (),
    judge: Callable[[tuple[Tensor, ...]], list[Suspicion]] | None = None,
    recheck: bool = True,
    same_place: tuple[int, ...] = (),
) -> Ruling:
    return arbitrate(
        Case(
            rerun=_Scripted(itertools.cycle(repeats)).run_identical,
            held=(WRONG,),
            suspicion=suspicion or _suspicion(),
            deterministic=deterministic,
            replayable=True,
            admitted=admitted,
            recomputations=[(f"relation {i}", lambda t=t: (t,)) for i, t in enumerate(jury)],
            judge=judge,
            recheck=lambda: recheck,
            same_place=frozenset(f"relation {i}" for i in same_place),
        )
    )


def test_two_agreeing_repeats_outvote_the_held_result() -> None:
    ruling = _rule([RIGHT], admitted=False)
    assert ruling.verdict is Verdict.CORRUPTION
    assert not ruling.repeatable
    assert ruling.held_is_wrong
    assert ruling.wrong.tolist() == [False, True, False]
    assert [v.result for v in ruling.votes] == ["expected", "expected"]


def test_repeats_that_differ_inside_the_bound_of_an_op_without_promise() -> None:
    ruling = _rule([RIGHT], deterministic=False, judge=lambda _: [])
    assert ruling.verdict is Verdict.NONDETERMINISM


def test_repeats_that_differ_from_each_other() -> None:
    ruling = _rule([RIGHT, torch.tensor([1.0, 2.0000005, 3.0])], judge=lambda _: [])
    assert ruling.verdict is Verdict.NONDETERMINISM


@pytest.mark.parametrize(
    ("exceeds", "verdict"), [("proof", Verdict.CORRUPTION), ("contract", Verdict.PRECISION)]
)
def test_a_bound_that_is_broken_again(exceeds: str, verdict: Verdict) -> None:
    ruling = _rule([WRONG], suspicion=_suspicion("reference", exceeds))
    assert ruling.verdict is verdict
    assert ruling.repeatable


def test_a_reference_that_errs_once_does_not_accuse_the_result() -> None:
    ruling = _rule([WRONG], suspicion=_suspicion("reference", "proof"), recheck=False)
    assert ruling.verdict is Verdict.INCONCLUSIVE
    assert not ruling.held_is_wrong


def test_admitted_relations_outvote_a_repeatable_result() -> None:
    ruling = _rule([WRONG], jury=(RIGHT, RIGHT), judge=lambda _: [])
    assert ruling.verdict is Verdict.CORRUPTION
    assert ruling.repeatable
    assert ruling.wrong.tolist() == [False, True, False]


def test_a_relation_that_breaks_while_it_is_learned_is_refused() -> None:
    ruling = _rule([WRONG], admitted=False, jury=(RIGHT, RIGHT), judge=lambda _: [])
    assert ruling.verdict is None
    assert ruling.refuse


def test_the_witness_s_own_computation_may_be_the_wrong_one() -> None:
    ruling = _rule([WRONG], jury=(WRONG, WRONG), judge=lambda _: [], recheck=False)
    assert not ruling.held_is_wrong


def test_one_vote_each_decides_nothing() -> None:
    ruling = _rule([WRONG], jury=(WRONG,), judge=lambda _: [])
    assert ruling.verdict is Verdict.INCONCLUSIVE


def test_a_repeatable_result_outside_its_proof_needs_no_vote() -> None:
    broken = _suspicion("reference", "proof")
    ruling = _rule([WRONG], admitted=False, judge=lambda _: [broken])
    assert ruling.verdict is Verdict.CORRUPTION


def test_recomputations_in_the_lane_of_a_stuck_bit_are_no_votes_for_it() -> None:
    jury = (RIGHT, WRONG, WRONG, WRONG)
    outvoted = _rule([WRONG], jury=jury, same_place=(1, 2, 3))
    assert outvoted.verdict is Verdict.CORRUPTION
    assert outvoted.held_is_wrong
    kept = _rule([WRONG], jury=jury)
    assert kept.verdict is not Verdict.CORRUPTION or not kept.held_is_wrong


def test_repeats_that_break_a_bound_do_not_outvote_a_result_that_keeps_it() -> None:
    def judge(results: tuple[Tensor, ...]) -> list[Suspicion]:
        return [] if torch.equal(results[0], WRONG) else [_suspicion("reference", "proof")]

    ruling = _rule([RIGHT], judge=judge)
    assert ruling.verdict is Verdict.CORRUPTION
    assert not ruling.held_is_wrong
    assert "the repeats go wrong" in ruling.reason


def _keeps_contract_as_held(results: tuple[Tensor, ...]) -> list[Suspicion]:
    return [] if torch.equal(results[0], WRONG) else [_suspicion("reference", "contract")]


def test_repeats_that_break_the_contract_do_not_outvote_a_result_that_keeps_it() -> None:
    ruling = _rule([RIGHT], judge=_keeps_contract_as_held)
    assert ruling.verdict is Verdict.CORRUPTION
    assert not ruling.held_is_wrong
    random = _rule([RIGHT], judge=_keeps_contract_as_held, deterministic=False)
    assert random.verdict is Verdict.NONDETERMINISM
    both = _rule([RIGHT], judge=lambda _: [_suspicion("reference", "contract")])
    assert both.held_is_wrong


def test_recomputations_that_break_the_contract_do_not_outvote_a_result_that_keeps_it() -> None:
    ruling = _rule([WRONG], jury=(RIGHT,), judge=_keeps_contract_as_held)
    assert ruling.verdict is Verdict.CORRUPTION
    assert not ruling.held_is_wrong
    assert _rule([WRONG], jury=(RIGHT,), judge=lambda _: []).held_is_wrong
