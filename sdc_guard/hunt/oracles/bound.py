"""Every operator that ran against float64 by an independent path, within its derived bound."""

from __future__ import annotations

from collections.abc import Iterator

from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.execution import Execution
from sdc_guard.hunt.judging import judged, verdict_of
from sdc_guard.hunt.oracles._facts import is_exact
from sdc_guard.hunt.oracles._registry import Session, oracle
from sdc_guard.hunt.trial import Trial


@oracle("bound")
def bound(session: Session, trial: Trial, base: Execution) -> Iterator[Divergence]:
    """Each operator that ran, forward and backward, with a floating or complex result is judged by
    the reference and the residual of its file: outside the proof is ``corruption``, outside the
    contract ``precision``.  How near it came to its bound is what the search climbs."""
    for observation, entry in zip(base.observations, base.entries, strict=True):
        if is_exact(observation):
            continue
        yield from judged(session, "bound", observation, entry)
        score = verdict_of(session, observation, entry).score
        if score is not None:
            session.score("bound", score)
