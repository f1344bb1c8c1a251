"""The same call on another number of threads."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.execution import Execution
from sdc_guard.hunt.oracles._compare import against, comparable
from sdc_guard.hunt.oracles._registry import Session, oracle
from sdc_guard.hunt.trial import Trial
from sdc_guard.ops._determinism import RACING

SMALL = 2048
"""Calls of fewer elements are shared out by no kernel; one in eight is made all the same."""


@oracle("threads", share=0.2)
def threads(session: Session, trial: Trial, base: Execution) -> Iterator[Divergence]:
    """The call on as many threads as there are, or on one where it was made on more.  Where the
    bits differ both are judged by their own bounds; differences inside them are none, since torch
    promises none."""
    number = 1 if trial.modes.threads > 1 else session.max_threads
    largest = max((t.numel() for t in base.results), default=0)
    if number == trial.modes.threads or (
            max(largest, trial.num_elements) < SMALL and int(trial.digest, 16) % 8):
        return
    if not comparable(session, "threads", base):
        return
    if any(o.call.form.packet in RACING for o in base.observations):
        session.not_judged["threads", trial.target, "threads race where indices repeat"] += 1
        return
    other = msgspec.structs.replace(
        trial, modes=msgspec.structs.replace(trial.modes, threads=number))
    yield from against(session, "threads", base, other,
                       (_told(trial.modes.threads), _told(number)))


def _told(number: int) -> str:
    return "1 thread" if number == 1 else f"{number} threads"
