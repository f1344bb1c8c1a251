"""The search on one target: Hypothesis draws trials near its templates and climbs towards the
bounds; what diverges is handed over, and the search goes on."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.database import ExampleDatabase

from sdc_guard.hunt.divergence import Divergence
from sdc_guard.hunt.documented import marked
from sdc_guard.hunt.execution import execute
from sdc_guard.hunt.oracles._registry import Oracle, Session
from sdc_guard.hunt.strategies import Neighbourhood
from sdc_guard.hunt.templates import Template
from sdc_guard.hunt.trial import Trial


@dataclass(slots=True)
class Tally:
    """What a search did: trials made, and refused by the operator; seconds."""

    trials: int = 0
    refused: int = 0
    elapsed_s: float = 0.0


def examine(session: Session, oracles: tuple[Oracle, ...], trial: Trial) -> Iterator[Divergence]:
    """Make a trial once and ask each oracle that is due; a refused call is no divergence."""
    session.begin()
    base = execute(trial)
    if base.refusal:
        session.refused[trial.target] += 1
        return
    digest = trial.digest
    for oracle in oracles:
        if oracle.is_due(digest):
            for divergence in oracle.check(session, trial, base):
                yield marked(trial, divergence)


OnDivergence = Callable[[Trial, Divergence], None]


COMPANY = 3
"""Trials from a plain generator for each one from Hypothesis, which costs more to draw than a small
operator costs to make and to judge.  Hypothesis climbs; its company covers the space."""


class _Over(BaseException):
    """The time is up; no ``Exception``, so that Hypothesis does not look into it."""


def search(
    session: Session, oracles: tuple[Oracle, ...], templates: tuple[Template, ...], *,
    seed: int, examples: int, on_divergence: OnDivergence,
    on_trial: Callable[[Trial], None] = lambda trial: None, deadline_s: float = float("inf"),
    database: ExampleDatabase | None = None, huge: bool = False,
) -> Tally:
    """Search ``examples`` calls near the templates, or until ``deadline_s`` (of
    ``time.monotonic``); the same seed draws the same calls.  With a ``database`` the calls that
    came nearest to a bound are kept, and met first by the next search with it; ``huge`` adds
    operands around 2**31 elements."""
    tally, started_s = Tally(), time.monotonic()
    refused_before = session.refused.total()
    near = Neighbourhood.of(templates, max_bytes=session.max_bytes,
                            max_threads=session.max_threads, huge=huge)
    generator = random.Random(seed)

    def look(trial: Trial) -> None:
        if time.monotonic() > deadline_s:
            raise _Over
        on_trial(trial)
        tally.trials += 1
        for divergence in examine(session, oracles, trial):
            on_divergence(trial, divergence)

    @hypothesis.seed(seed)
    @settings(max_examples=-(-examples // (1 + COMPANY)), deadline=None, database=database,
              phases=_PHASES, suppress_health_check=list(HealthCheck))
    @given(near.strategy())
    def climb(trial: Trial) -> None:
        for _ in range(COMPANY if tally.trials + 1 < examples else 0):
            look(near.drawn(generator))
        look(trial)
        if session.scores:
            hypothesis.target(max(session.scores.values()))

    with contextlib.suppress(_Over):
        climb()
    tally.refused = session.refused.total() - refused_before
    tally.elapsed_s = time.monotonic() - started_s
    return tally


_PHASES = (Phase.reuse, Phase.generate, Phase.target)
