"""Bit-exact relations of the operators that ran, each part of a recomputation judged by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from sdc_guard.check.relations import Relation
from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.execution import Execution, Recorder
from sdc_guard.hunt.judging import NO_REFERENCE, Verdict, judged, verdict_of
from sdc_guard.hunt.oracles._compare import plain
from sdc_guard.hunt.oracles._registry import Session
from sdc_guard.ops._determinism import RACING
from sdc_guard.ops._generic import RERUN_ON_COPIES

SLICES = frozenset({"split", "flat"})
VISITS = 2
CONFIRMATIONS = 3


def broken_relations(
    session: Session, oracle: str, base: Execution, wanted: Callable[[frozenset[str]], bool]
) -> Iterator[Divergence]:
    """Runs the relations of each operator whose kinds of moves are ``wanted``; where bits differ
    the operators of the recomputation, and the one that ran first, are judged by their bounds."""
    for observation, entry in zip(base.observations, base.entries, strict=True):
        verdict = verdict_of(session, observation, entry)
        plan, packet = verdict.with_relations(), observation.call.form.packet
        if plan is None or not plan.replayable or packet in RACING or session.told:
            continue
        relations = {r.name: r for r in plan.relations
                     if wanted(frozenset(m.how for m in r.symmetry.moves))}
        for relation in relations.values():
            for visit in range(VISITS if relation.symmetry.varies else 1):
                try:
                    agrees = _agrees(relation, verdict, visit)
                except Exception as error:  # a part of the call that the operator does not take
                    reason = f"{relation.name}: {type(error).__name__}"
                    session.not_judged[oracle, packet, reason] += 1
                    break
                session.compared(oracle, packet)
                if not agrees:
                    yield from _explained(session, oracle, base, verdict, entry, relation, visit)


def _agrees(relation: Relation, verdict: Verdict, visit: int) -> bool:
    seen = verdict.observation
    with torch.no_grad():
        return all(p.agrees() for p in relation.run(seen.call, seen.held, visit))


def _explained(
    session: Session, oracle: str, base: Execution, verdict: Verdict, entry: object,
    relation: Relation, visit: int,
) -> Iterator[Divergence]:
    seen, sides = verdict.observation, ("the call", relation.name)
    recorder = Recorder()
    with torch.no_grad(), recorder:
        for piece in relation.run(seen.call, seen.held, visit):
            piece.agrees()
    wrong = bool(verdict.divergences)
    for observation, its_entry in zip(recorder.observations, recorder.entries, strict=True):
        for divergence in judged(session, oracle, observation, its_entry):
            yield replace(divergence, sides=sides)
        wrong |= bool(verdict_of(session, observation, its_entry).divergences)
    if verdict.divergences:
        for divergence in judged(session, oracle, seen, entry):  # type: ignore[arg-type]
            yield replace(divergence, sides=sides)
    if wrong or verdict.reason != NO_REFERENCE or not relation.symmetry.known:
        return
    if relation.name == RERUN_ON_COPIES.name:
        return  # the oracle repeat says how often a call gives other bits
    if not any(_agrees(relation, verdict, visit) for _ in range(CONFIRMATIONS)):
        yield replace(
            plain(oracle, base, "inconclusive",
                  f"the relation {relation.name!r}, which is known to keep every bit, breaks; the "
                  "operator has no bound that could say which side is wrong", sides,
                  op=seen.call.form.name), observation=seen)
