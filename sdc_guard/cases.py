"""Who may testify once a witness disagrees with a held result: the case for arbitration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sdc_guard.attribute.arbitrate import Case, Results
from sdc_guard.bits import wrong_mask
from sdc_guard.check.frames import Frame, is_large
from sdc_guard.check.plan import Plan
from sdc_guard.check.reference import checksum, full_reference
from sdc_guard.check.relations import Piece, Relation, assemble
from sdc_guard.ops import is_deterministic
from sdc_guard.records import Observation, Suspicion

MAX_RECOMPUTATIONS = 6
TIED = frozenset({"core", "tile", "lane"})
"""Places that a fault can be tied to.  A recomputation that stays where a broken relation moved
repeats what a stuck lane did to the held result, so it is no vote for it."""


def make_case(
    plan: Plan,
    observation: Observation,
    suspicion: Suspicion,
    relation: Relation | None,
    frame: Frame | None,
) -> Case:
    """The case of a suspicion; with a frame, all that testifies is seen through it.

    The reference of a large call that no frame cuts is left out.
    """
    call, held = observation.call, observation.held

    def view(results: tuple[Any, ...]) -> tuple[Any, ...]:
        return results if frame is None else frame.view(results)

    def recomputation(other: Relation, visit: int) -> Callable[[], Results]:
        return lambda: view(assemble(other.run(call, held, visit), held))

    moved = TIED & relation.symmetry.places if relation is not None else TIED
    jury: list[tuple[str, Callable[[], Results]]] = []
    same_place: set[str] = set()
    for visit in (plan.visits + 1, plan.visits + 2):
        for other in dict.fromkeys(plan.relations):
            is_repeat = other is relation or visit > plan.visits + 1
            if other.refused or (is_repeat and not other.symmetry.varies):
                continue
            if not other.symmetry.known:
                continue  # may hold by the luck of the data, so it is no witness
            name = f"{other.name} #{visit}"
            jury.append((name, recomputation(other, visit)))
            if not moved <= other.symmetry.places:
                same_place.add(name)
    jury.sort(key=lambda juror: juror[0] in same_place)

    part = call if frame is None else frame.call(call)
    seen = view(held)

    def judge(results: tuple[Tensor, ...]) -> list[Suspicion]:
        return full_reference(plan, part, results)

    def recheck() -> bool:
        if suspicion.witness == "replay" and relation is not None:
            return any(not p.agrees() for p in relation.run(call, held, plan.visits))
        if suspicion.witness == "invariant":
            return plan.spec.invariant is not None and plan.spec.invariant(call, held) is not None
        if frame is None:
            return bool(full_reference(plan, call, held)) or bool(checksum(plan, call, held))
        return bool(judge(seen)) or bool(checksum(plan, part, seen))

    can_judge = plan.spec.judged and (
        frame is not None or plan.spec.streams or not is_large(plan, held, suspicion.output))
    return Case(
        rerun=lambda: view(call.run_identical()),
        held=seen,
        suspicion=suspicion,
        deterministic=is_deterministic(
            plan.spec, held[suspicion.output].device.type, torch.get_num_threads()),
        replayable=plan.replayable,
        admitted=relation is not None and relation.admitted and relation.symmetry.known,
        recomputations=jury[:MAX_RECOMPUTATIONS],
        same_place=frozenset(same_place),
        judge=judge if can_judge else None,
        recheck=recheck,
    )


def suspect(relation: Relation, broken: list[Piece], held: tuple[Tensor, ...]) -> Suspicion:
    """The broken pieces of one result, put back where they belong."""
    output = broken[0].output
    assembled = assemble([p for p in broken if p.output == output], held)[output]
    assert assembled is not None
    return Suspicion(
        witness="replay",
        relation=relation.name,
        output=output,
        wrong=wrong_mask(assembled, held[output]),
        expected=assembled,
        limit=None,
        exceeds="bits",
        formula=f"equal bits under {relation.name}",
    )
