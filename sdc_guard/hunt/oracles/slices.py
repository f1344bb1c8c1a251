"""The operator on slices of its operands, put together again."""

from __future__ import annotations

from collections.abc import Iterator

from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.execution import Execution
from sdc_guard.hunt.oracles._narrowing import part, splittable
from sdc_guard.hunt.oracles._registry import Session, oracle
from sdc_guard.hunt.oracles._relations import SLICES, broken_relations
from sdc_guard.hunt.trial import Trial


@oracle("slices", share=0.1)
def slices(session: Session, trial: Trial, base: Execution) -> Iterator[Divergence]:
    """Each operator that ran, made again on views of parts of an axis that it does not mix.  Where
    the bits differ the whole and the parts are judged by their own bounds, and differences inside
    them are none; ``inconclusive`` where there is no bound."""
    if session.told:
        return
    yield from broken_relations(session, "slices", base, lambda hows: hows <= SLICES)
    for seen, plan, axis, size in splittable(session, base):
        cut = max(1, size // (2 + int(trial.digest, 16) % 2))
        for start, length in ((0, cut), (cut, size - cut)):
            yield from part(session, "slices", seen, plan, axis, start, length,
                            ("the whole", f"{start} to {start + length} of {axis}"))
