"""One item of a batch by itself."""

from __future__ import annotations

from collections.abc import Iterator

from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.execution import Execution
from sdc_guard.hunt.oracles._narrowing import part, splittable
from sdc_guard.hunt.oracles._registry import Session, oracle
from sdc_guard.hunt.trial import Trial


@oracle("batch", share=0.1)
def batch(session: Session, trial: Trial, base: Execution) -> Iterator[Divergence]:
    """Each operator that ran, made again on the first, a middle and the last item of an axis that
    it does not mix.  Where the bits differ the single item is judged by its own bound; differences
    inside it are none: torch's note on numerical accuracy promises no equal bits."""
    if session.told:
        return
    for seen, plan, axis, size in splittable(session, base):
        for place in sorted({0, size // 2, size - 1}):
            yield from part(session, "batch", seen, plan, axis, place, 1,
                            ("the batch", f"item {place} of {axis}"))
