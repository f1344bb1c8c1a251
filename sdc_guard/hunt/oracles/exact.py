"""Results that are not rounded: integers, booleans, indices, and copies, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.execution import Execution
from sdc_guard.hunt.judging import divergence_of, judged, verdict_of
from sdc_guard.hunt.oracles._facts import is_exact
from sdc_guard.hunt.oracles._registry import Session, oracle
from sdc_guard.hunt.trial import Trial
from sdc_guard.records import Observation, Suspicion


@oracle("exact")
def exact(session: Session, trial: Trial, base: Execution) -> Iterator[Divergence]:
    """Integer and boolean results against exact arithmetic, and the facts that hold bit for bit
    (gathered rows are rows of the input, sorted values are in order): any difference is
    ``corruption``."""
    for observation, entry in zip(base.observations, base.entries, strict=True):
        if is_exact(observation):
            yield from judged(session, "exact", observation, entry)
        plan = verdict_of(session, observation, entry).plan
        if plan is None or plan.spec.invariant is None:
            continue
        packet = observation.call.form.packet
        try:
            with np.errstate(all="ignore"):
                broken = plan.spec.invariant(observation.call, observation.held)
        except Exception as error:  # a check that fails is counted, and the hunt goes on
            session.not_judged["exact", packet, f"its fact failed: {type(error).__name__}"] += 1
            continue
        session.checked["exact", packet] += 1
        if broken is not None and id(observation) not in session.told:
            session.told.add(id(observation))
            yield divergence_of("exact", observation, _suspicion(observation, *broken))


def _suspicion(
    observation: Observation, output: int, wrong: np.ndarray, text: str
) -> Suspicion:
    shape = tuple(observation.held[output].shape)
    return Suspicion(
        witness="invariant", relation="", output=output,
        wrong=np.broadcast_to(np.asarray(wrong, dtype=bool), shape), expected=None, limit=None,
        exceeds="bits", formula=text)
