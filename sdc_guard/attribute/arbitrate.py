"""Arbitration: a witness disagrees with the held result; who is right?

The inputs are still alive, so the identical call is made again, and every other relation and the
reference may vote.  The rules (ARCHITECTURE.md, "Verdicts"):

* the identical call, twice, agrees with itself and not with the held result: ``corruption``, seen
  once and gone when repeated; of the repeats where they break a bound that the held result keeps
  (the proof; for a deterministic op the contract too);
* the held result comes out again and breaks a proof bound or an exact fact: ``corruption``;
* it comes out again, inside every bound, and an admitted relation of a deterministic op broke:
  ``corruption`` where two agreeing recomputations outvote the held elements, else
  ``inconclusive``; recomputations in the lane (core, tile) of the held result do not count for it
  where the broken relation has moved it elsewhere; the corruption is the recomputations' where they
  break a contract that the held result keeps;
* a relation that breaks while it is being learned, or that nobody has seen to hold in general,
  with the held result inside its bounds, is refused, which is no finding;
* outside the contract and inside the proof: ``precision``;
* the op is not documented as deterministic and repeats differ inside the bound:
  ``nondeterminism``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sdc_guard import bits
from sdc_guard.records import Suspicion, Verdict, Vote

NUM_RERUNS = 2
Results = tuple["Tensor | None", ...]


@dataclass(frozen=True, slots=True)
class Case:
    """A suspicion with all that may testify.

    ``recomputations``: other relations of the site, by name, each returning full results with the
    relation undone (None where it covers nothing).  ``rerun`` makes the identical call.  ``judge``:
    the reference, applied to any results.  ``recheck``: the witness that raised the suspicion, once
    more.  ``same_place``: names of recomputations that stay in a place (a lane, say) which the
    broken relation moved.  All of them speak of the same results as ``held``, a part of the call's
    own where that is large.
    """

    rerun: Callable[[], tuple[Tensor, ...]]
    held: tuple[Tensor, ...]
    suspicion: Suspicion
    deterministic: bool
    replayable: bool
    admitted: bool
    recomputations: Sequence[tuple[str, Callable[[], Results]]]
    judge: Callable[[tuple[Tensor, ...]], list[Suspicion]] | None
    recheck: Callable[[], bool]
    same_place: frozenset[str] = frozenset()


@dataclass(slots=True)
class Ruling:
    """The outcome.  ``verdict`` None means no finding; ``refuse`` then drops the relation.

    ``expected`` has the shape of result ``output``: a tensor of its dtype where recomputations
    decided, a float64 array where only a reference did, None where only a fact was broken.
    ``repeatable``: the held result comes out again from the identical call.
    """

    verdict: Verdict | None
    output: int
    wrong: NDArray[np.bool_]
    expected: Tensor | NDArray[Any] | None
    limit: NDArray[Any] | None = None
    formula: str = ""
    exceeds: str = "bits"
    held_is_wrong: bool = True
    repeatable: bool = False
    refuse: bool = False
    reason: str = ""
    votes: list[Vote] = field(default_factory=list)


def undecided(suspicion: Suspicion, reason: str) -> Ruling:
    """The ruling on a suspicion that could not be arbitrated."""
    return Ruling(Verdict.INCONCLUSIVE, suspicion.output, suspicion.wrong, suspicion.expected,
                  suspicion.limit, suspicion.formula, suspicion.exceeds, reason=reason)


def arbitrate(case: Case) -> Ruling:
    """Decide a case.  Takes two identical calls, and for a repeatable disagreement one call per
    relation of the site and one full reference."""
    suspicion = case.suspicion
    ruling = Ruling(
        None,
        suspicion.output,
        suspicion.wrong,
        suspicion.expected,
        suspicion.limit,
        suspicion.formula,
        suspicion.exceeds,
    )
    if not case.replayable:
        return _broken_fact(case, ruling)
    output = suspicion.output
    held = case.held[output]
    reruns = [case.rerun() for _ in range(NUM_RERUNS)]
    masks = [bits.wrong_mask(r[output], held) for r in reruns]
    for mask in masks:
        ruling.votes.append(
            Vote(
                place="here",
                method="identical call",
                identical=True,
                result="other" if mask.any() else "held",
            )
        )
    if bits.bits_equal(reruns[0][output], reruns[1][output]):
        if masks[0].any():
            return _outvoted_by_reruns(case, ruling, reruns[0][output], masks[0])
        return _repeatable(case, ruling)
    return _unstable(case, ruling, masks)


def _broken_fact(case: Case, ruling: Ruling) -> Ruling:
    """An op that draws random numbers cannot be repeated: the fact is checked again, no more."""
    if not case.recheck():
        ruling.held_is_wrong = False
        ruling.verdict = Verdict.INCONCLUSIVE
        ruling.reason = "the exact fact was broken once and held when it was checked again"
        return ruling
    ruling.verdict = Verdict.CORRUPTION
    ruling.reason = "an exact fact about the result is broken; the op cannot be repeated"
    return ruling


def _outvoted_by_reruns(
    case: Case, ruling: Ruling, rerun: Tensor, mask: NDArray[np.bool_]
) -> Ruling:
    if (
        _suspect_breaks_proof(case, rerun) and not _exceeds_proof(case, ruling, case.held)
    ) or (case.deterministic and _suspect_alone_breaks_contract(case, rerun)):
        ruling.expected, ruling.wrong, ruling.held_is_wrong = rerun, mask, False
        ruling.verdict = Verdict.CORRUPTION
        ruling.reason = ("the held result is inside its bounds and the identical call, repeated "
                         "twice, is not: the repeats go wrong here")
        return ruling
    ruling.expected, ruling.wrong = rerun, mask
    ruling.votes = [
        Vote(place="here", method="identical call", identical=True, result="expected")
        for _ in ruling.votes
    ]
    ruling.verdict = Verdict.CORRUPTION
    ruling.reason = "the identical call, repeated, gives other bits, twice the same"
    if not case.deterministic and not _exceeds_proof(case, ruling, case.held):
        ruling.verdict = Verdict.NONDETERMINISM
        ruling.reason += (
            "; the op is not documented as deterministic and the held result is inside its bound"
        )
    return ruling


def _unstable(case: Case, ruling: Ruling, masks: list[NDArray[np.bool_]]) -> Ruling:
    """Two identical calls differ from each other."""
    ruling.wrong = masks[0] | masks[1]
    if _exceeds_proof(case, ruling, case.held):
        ruling.verdict = Verdict.CORRUPTION
        ruling.reason = "repeats of the identical call differ, and the held result breaks its bound"
    elif case.deterministic and case.judge is not None:
        ruling.verdict = Verdict.NONDETERMINISM
        ruling.reason = "repeats of the identical call differ, all inside the bound"
    else:
        ruling.verdict = Verdict.NONDETERMINISM if not case.deterministic else Verdict.INCONCLUSIVE
        ruling.reason = "repeats of the identical call differ from each other"
    return ruling


def _exceeds_proof(case: Case, ruling: Ruling, results: tuple[Tensor, ...]) -> bool:
    """True if the reference puts ``results`` outside a proof bound; the ruling then says where."""
    if case.judge is None:
        return False
    broken = [s for s in case.judge(results) if s.exceeds == "proof"]
    if broken:
        worst = next((s for s in broken if s.output == ruling.output), broken[0])
        ruling.output, ruling.wrong = worst.output, worst.wrong
        ruling.limit, ruling.formula, ruling.exceeds = worst.limit, worst.formula, "proof"
        ruling.expected = worst.expected
    ruling.votes.append(
        Vote(
            place="host",
            method="float64 reference",
            identical=False,
            result="expected" if broken else "held",
        )
    )
    return bool(broken)


def _repeatable(case: Case, ruling: Ruling) -> Ruling:
    """The identical call gives the held bits again: a persistent fault, a software bug, a fault
    in the witness, or a relation that does not hold here."""
    suspicion = case.suspicion
    ruling.repeatable = True
    if suspicion.witness != "replay":
        if not case.recheck():
            ruling.held_is_wrong = False
            ruling.verdict = Verdict.INCONCLUSIVE
            ruling.reason = "the witness disagreed once and agreed when it was asked again"
            return ruling
        ruling.verdict = (
            Verdict.PRECISION if suspicion.exceeds == "contract" else Verdict.CORRUPTION
        )
        ruling.reason = f"the held result comes out again and breaks {suspicion.formula}"
        _poll(case, ruling)
        return ruling
    if _exceeds_proof(case, ruling, case.held):
        ruling.verdict = Verdict.CORRUPTION
        ruling.reason = f"the held result comes out again and breaks {ruling.formula}"
        _poll(case, ruling)
        return ruling
    return _vote(case, ruling)


def _poll(case: Case, ruling: Ruling) -> None:
    """Record how every relation votes on the wrong elements.  The first recomputation that the
    reference confirms there becomes the expected value: it has the dtype and the bits that a right
    call would have, which a float64 reference has not."""
    held = case.held[ruling.output]
    wanted = ruling.expected if isinstance(ruling.expected, np.ndarray) else None
    for name, tensor in _recomputed(case, ruling):
        if tensor is None:
            continue
        differs = (bits.wrong_mask(tensor, held) & ruling.wrong).any()
        confirmed = wanted is not None and ruling.limit is not None and not (
            ruling.wrong & ~_is_within(bits.values(tensor), wanted, ruling.limit)
        ).any()
        if confirmed and not isinstance(ruling.expected, Tensor):
            ruling.expected = tensor
        ruling.votes.append(
            Vote(
                place="here",
                method=name,
                identical=False,
                result="expected" if confirmed else "other" if differs else "held",
            )
        )


def _is_within(
    values: NDArray[Any], wanted: NDArray[Any], limit: NDArray[Any]
) -> NDArray[np.bool_]:
    """True per element where the value is the wanted one, up to the limit for floating values."""
    if values.dtype.kind in "fc":
        return np.asarray(np.abs(values - wanted) <= limit)
    return np.asarray(values == wanted)


def _recomputed(case: Case, ruling: Ruling) -> Iterator[tuple[str, Tensor | None]]:
    """The recomputations of the ruling's result, one by one.  One that fails (out of memory, for
    example) has no vote, and takes none from the others."""
    for name, recompute in case.recomputations:
        try:
            recomputed = recompute()[ruling.output]
        except Exception as error:
            method = f"{name}: {type(error).__name__}: {error}"[:200]
            ruling.votes.append(Vote(place="here", method=method, identical=False, result="failed"))
            continue
        yield name, recomputed


def _suspect_breaks_proof(case: Case, suspect: Tensor) -> bool:
    """True if it is the recomputed value that a proof bound excludes.  A residual does not count:
    it joins several results, and of two right factorizations each may have its own."""
    if case.judge is None:
        return False
    results = list(case.held)
    results[case.suspicion.output] = suspect
    return any(
        s.exceeds == "proof" and s.output == case.suspicion.output and s.witness != "residual"
        for s in case.judge(tuple(results))
    )


def _suspect_alone_breaks_contract(case: Case, suspect: Tensor) -> bool:
    """True if the recomputed value lies outside the contract and the held one inside every bound.

    A result that a fault changed may lie inside by chance, but then the right one does too.
    """
    if case.judge is None:
        return False
    output = case.suspicion.output
    results = list(case.held)
    results[output] = suspect
    return not any(s.output == output for s in case.judge(case.held)) and any(
        s.output == output and s.witness != "residual" for s in case.judge(tuple(results)))


def _vote(case: Case, ruling: Ruling) -> Ruling:
    """Count, element by element, who agrees with the suspect value and who with the held one."""
    suspicion = case.suspicion
    held = case.held[suspicion.output]
    suspect = suspicion.expected
    assert isinstance(suspect, Tensor)
    if _suspect_breaks_proof(case, suspect):
        ruling.held_is_wrong = False
        ruling.verdict = Verdict.CORRUPTION
        ruling.reason = (
            "the held result is inside its bounds and the recomputation is not: this op goes wrong "
            "here on other data or in another place"
        )
        return ruling
    against = suspicion.wrong.astype(np.int64)
    in_favour, from_elsewhere = np.zeros_like(against), np.zeros_like(against)
    for name, tensor in _recomputed(case, ruling):
        if tensor is None:
            continue
        differs = bits.wrong_mask(tensor, held)
        agrees_with_suspect = ~bits.wrong_mask(tensor, suspect)
        against += suspicion.wrong & differs & agrees_with_suspect
        in_favour += suspicion.wrong & ~differs
        if name not in case.same_place:
            from_elsewhere += suspicion.wrong & ~differs
        ruling.votes.append(
            Vote(
                place="here",
                method=name,
                identical=False,
                result="held"
                if not (differs & suspicion.wrong).any()
                else "expected"
                if (agrees_with_suspect & suspicion.wrong).any()
                else "other",
            )
        )
    outvoted = (against >= 2) & (against > from_elsewhere)
    if not case.admitted:
        ruling.refuse = True
        ruling.reason = (
            "the relation broke and is not known to hold here; the result is inside its bounds"
        )
    elif outvoted.any() and case.deterministic:
        ruling.verdict, ruling.wrong = Verdict.CORRUPTION, outvoted
        ruling.reason = (
            "an admitted relation broke and two agreeing recomputations outvote the held result"
        )
        if _suspect_alone_breaks_contract(case, suspect):
            ruling.held_is_wrong = False
            ruling.reason = (
                "an admitted relation broke; the held result keeps the contract and the "
                "recomputations do not: this op goes wrong here on other data or in another place"
            )
    elif in_favour.max(initial=0) >= 2 and not outvoted.any():
        ruling.held_is_wrong = False
        ruling.verdict = Verdict.INCONCLUSIVE if case.recheck() else Verdict.CORRUPTION
        ruling.reason = (
            "two recomputations agree with the held result: the witness's own "
            "computation went wrong"
        )
    else:
        ruling.verdict = Verdict.INCONCLUSIVE
        ruling.reason = "an admitted relation broke; neither a bound nor a vote decides"
    return ruling
