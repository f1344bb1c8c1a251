"""Bit-exact symmetries: operands rolled, negated, doubled, reversed; results compared."""

from __future__ import annotations

from collections.abc import Iterator

from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.execution import Execution
from sdc_guard.hunt.oracles._registry import Session, oracle
from sdc_guard.hunt.oracles._relations import SLICES, broken_relations
from sdc_guard.hunt.trial import Trial


@oracle("symmetries", share=0.1)
def symmetries(session: Session, trial: Trial, base: Execution) -> Iterator[Divergence]:
    """Each operator that ran, made again on operands moved by the bit-exact relations of its file
    (all but slices).  Judged as ``slices`` are."""
    yield from broken_relations(session, "symmetries", base, lambda hows: not hows <= SLICES)
